// The page at /: photographs in, answers and a map out. Nothing of it is kept when the tab is closed, and nothing leaves for elsewhere.
"use strict";

const $ = (id) => document.getElementById(id);
const KEPT = 12; // photographs that stay on the page, unless more are given at once
const TRIES = 6; // times that a busy scorer is asked again by itself
const WAIT = { least: 1, most: 30, none: 3, first: 5 }; // seconds: whatever Retry-After says, where it says nothing, and for a first version
const UNBORN = "No version of the model is served yet: one has to be trained, pass its gates and be promoted.";
const PATIENCE = 180_000; // milliseconds until an answer is given up

const asked = []; // latest first: { file, url, when, row, by, map, button }
const queue = [];
const maps = []; // answers whose maps are still to be drawn
const doing = { predict: "", explain: "" }; // what is said of each, that of an answer before that of a map
const waits = { predict: "", explain: "", model: "" };
let current = null;
let working = false;
let drawing = false;
let given = 0; // photographs since nothing was read
let kept = KEPT;
let gone = 0;
let picked = false; // whether somebody chose what is shown; then no answer takes its place
let model = null;
const lists = new Map(); // by digest: what each version calls its diagnoses, and which are malignant
let token = ""; // in memory alone
let admitted = null; // called with a token once there is one

class Trouble extends Error {
  constructor(message, again = false) {
    super(message);
    this.again = again;
  }
}

// ---- asking

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function send(path, file) {
  const options = { headers: token ? { Authorization: `Bearer ${token}` } : {}, signal: AbortSignal.timeout(PATIENCE) };
  if (file) {
    options.method = "POST";
    options.body = new FormData();
    // What the file is called may name a patient.
    options.body.append("image", file, "image");
  }
  return fetch(path, options);
}

/** Asks until there is an answer: lets somebody give a token, and comes again politely where the scorer is busy. */
async function ask(path, file) {
  for (let tries = 1, refused = false, waited = false; ; ) {
    const answer = await send(path, file).catch((error) => error);
    if (answer.status === 401) {
      await admission(refused);
      refused = true;
      continue;
    }
    // 422: it was read through, and the answer says what is wrong with the photograph.
    if (answer.ok || answer.status === 422) {
      if (waited) wait(path, "");
      return { ...(await answer.json()), by: { version: answer.headers.get("X-Model-Version"), digest: answer.headers.get("X-Model-Digest") } };
    }
    const why = await reason(answer);
    if (!why.again || tries > TRIES) {
      if (waited) wait(path, "");
      throw new Trouble(why.text, why.again);
    }
    const seconds = why.after || Math.min(WAIT.none * tries, WAIT.most);
    wait(path, `${why.text} Trying again in ${seconds} s.`);
    waited = true;
    // Waiting for a first version is no failure of the scorer's: it may take as long as a training.
    if (!why.patient) tries += 1;
    await pause(seconds);
  }
}

/** What to tell of a request that failed, whether to come again, and after how many seconds. */
async function reason(answer) {
  if (answer instanceof Error) {
    return answer.name === "TimeoutError"
      ? { text: "No answer for three minutes.", again: true }
      : { text: "The scorer cannot be reached: it is not running, or the network is down.", again: true };
  }
  const said = await answer.json().then((body) => String(body.message || ""), () => "");
  const stated = Number(answer.headers.get("Retry-After"));
  const after = stated ? Math.min(Math.max(stated, WAIT.least), WAIT.most) : 0;
  switch (answer.status) {
    case 503:
      return /no version/.test(said)
        ? { text: UNBORN, again: true, after, patient: true }
        : { text: "The scorer is busy.", again: true, after };
    case 504:
    case 408:
      return { text: "The answer took longer than the scorer allows.", again: true, after: after || 5 };
    case 413:
      return { text: `The photograph is too large for this scorer. ${sentence(said)}` };
    case 421:
      return { text: `The scorer does not answer under this address. ${sentence(said)}` };
    default:
      return answer.status >= 500
        ? { text: "The scorer failed; its log has the details.", again: answer.status === 502 }
        : { text: `The scorer refused the request. ${sentence(said)}` };
  }
}

const sentence = (text) => (text ? `It says: ${text.replace(/\.$/, "")}.` : "");

function admission(refused) {
  // The door may be open for another request already: what is being typed and what was said of the last token stay.
  if (refused || $("door").hidden) $("token-wrong").hidden = !refused;
  $("door").hidden = false;
  $("token").focus();
  return new Promise((done) => {
    const before = admitted;
    admitted = () => { before && before(); done(); };
  });
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // What is pasted brings along what cannot be seen; and with other characters than ASCII's a request would not even be sent.
  const typed = $("token").value.replace(/[\s\u200b-\u200f\u2060\ufeff]/g, "");
  if (!/^[\x21-\x7e]+$/.test(typed)) {
    $("token-wrong").hidden = false;
    return;
  }
  token = typed;
  $("token").value = "";
  $("door").hidden = true;
  $("choose").focus();
  const waiting = admitted;
  admitted = null;
  waiting && waiting();
});

// ---- photographs

/** Why a file need not be sent; null where only the scorer can tell. */
async function wrongWith(file) {
  const limit = model && model.largest;
  if (!file.size) return "it is empty";
  if (limit && file.size > limit - 1024) return `it has ${megabytes(file.size)}, and the scorer takes ${megabytes(limit)}; save it smaller`;
  const head = await file.slice(0, 8).arrayBuffer().then((bytes) => new Uint8Array(bytes), () => null);
  if (!head) return "it cannot be opened; a folder or a file that has moved cannot be read";
  const starts = (...bytes) => bytes.every((byte, place) => head[place] === byte);
  if (starts(0xff, 0xd8, 0xff) || starts(0x89, 0x50, 0x4e, 0x47)) return null;
  const kind = /^image\/([\w.+-]+)$/.exec(file.type);
  return `it is ${kind && !/jpe?g|png/.test(kind[1]) ? `of the kind ${kind[1].toUpperCase()}` : "not a picture that can be read"}; a JPEG or PNG is needed`;
}

const megabytes = (bytes) => `${(bytes / 1024 / 1024).toFixed(bytes < 10 * 1024 * 1024 ? 1 : 0)} MB`;

function take(files) {
  if (!working) {
    $("troubles").replaceChildren();
    given = 0;
  }
  given += files.length;
  kept = Math.max(kept, given);
  read(files);
}

function read(files) {
  if (!working) picked = false;
  queue.push(...files);
  if (!working) work();
}

async function work() {
  working = true;
  while (queue.length) {
    const file = queue.shift();
    await one(file).catch((error) => {
      complain(error, () => read([file]));
      $("said").textContent = "";
    });
    busy("predict", "");
  }
  working = false;
}

async function one(file) {
  const wrong = await wrongWith(file);
  if (wrong) throw new Trouble(`${quoted(file)} was not sent: ${wrong}.`);
  busy("predict", queue.length ? `Reading; ${queue.length} more to come` : "Reading");
  $("said").textContent = "Reading";
  const { predictions: [row], by } = await ask("predict", file);
  if (row.error) throw new Trouble(`${quoted(file)} could not be read: ${row.error}.`);
  // The answer is there, whatever becomes of this: without the list of its version, codes stand for names.
  if (!model || model.digest !== by.digest) await look().catch((error) => complain(error, begin));
  const item = { file, url: URL.createObjectURL(file), when: new Date(), row, by, map: null };
  asked.unshift(item);
  letGo();
  if (picked) {
    showStrip();
    $("said").textContent = "Another photograph is answered; it is in the list “Photographs”.";
  } else {
    show(item);
    tell(item);
  }
  maps.push(item);
  if (!drawing) draw();
}

/** Lets the oldest answers go, but not the one that somebody looks at, and says how many went. */
function letGo() {
  for (const old of asked.slice(kept).filter((item) => item !== current)) {
    asked.splice(asked.indexOf(old), 1);
    URL.revokeObjectURL(old.url);
    gone += 1;
  }
  $("gone").hidden = !gone;
  $("gone").textContent = `${gone} earlier ${gone === 1 ? "photograph is" : "photographs are"} no longer shown.`;
}

/** Draws the maps one at a time beside the reading, which waits for none: the one that somebody looks at first. */
async function draw() {
  drawing = true;
  while (maps.length) {
    const [item] = maps.splice(Math.max(0, maps.indexOf(current)), 1);
    if (asked.includes(item)) await explain(item).catch(complain);
  }
  drawing = false;
  busy("explain", "");
}

async function explain(item) {
  busy("explain", "Computing the map");
  try {
    const map = await ask("explain", item.file);
    if (map.error) throw new Trouble(map.error);
    // Between the two requests another version may have been promoted.
    item.map = map.by.digest === item.by.digest ? map : { ...map, whose: ` This map is of version ${map.by.version}.` };
  } catch (error) {
    item.map = { error: error instanceof Trouble ? error.message : "the map could not be made" };
    if (!(error instanceof Trouble)) console.error(error);
  }
  if (item === current) showMap(item);
}

const quoted = (file) => (file.name ? `“${file.name}”` : "The photograph");

// ---- what is said

/** What is being waited for at an address; nothing hides it. */
function wait(path, said) {
  waits[path] = said;
  const text = waits.predict || waits.explain || waits.model;
  // Set anew, it would be read out anew.
  if ($("waiting").textContent !== text) $("waiting").textContent = text;
  $("waiting").hidden = !text;
}

/** One more thing that went wrong; `again` is called where somebody may try again, and does. */
function complain(error, again) {
  if (!(error instanceof Trouble)) console.error(error);
  const line = made("li", { className: "card notice" }, made("span", {}, error instanceof Trouble ? error.message : "Something went wrong on this page; reload it."));
  if (error.again) {
    const button = made("button", { type: "button", textContent: "Try again" });
    button.addEventListener("click", () => { line.remove(); $("choose").focus(); again(); });
    line.append(button);
  }
  $("troubles").append(line);
}

function busy(path, said) {
  doing[path] = said;
  const text = doing.predict || doing.explain;
  $("busy-text").textContent = text && `${text} …`;
  $("busy").hidden = !text;
  $("answer").setAttribute("aria-busy", String(Boolean(text)));
}

/** The answer in one breath, for who does not see it. */
function tell({ row, by }) {
  const refer = row.refer ? `A person should decide: ${row.refer}. ` : "";
  const age = !known(row.age_low) ? "" : `, ${years(row.age_low)} to ${years(row.age_high)}`;
  $("said").textContent = `${refer}Diagnosis: ${named(row.diagnosis, by)}, ${percent(row.diagnosis_probabilities[row.diagnosis])}. `
    + `Age: ${years(row.age)} years${age}. Sex: ${row.sex}, ${percent(row.sex_probabilities[row.sex])}.`;
}

// ---- showing

/** Whether a row has a value: versions before it was learned leave it null, or out. */
const known = (value) => value !== null && value !== undefined;
const named = (code, by) => lists.get(by.digest)?.diagnoses[code] || code;
const isMalignant = (code, by) => Boolean(lists.get(by.digest)?.malignant?.includes(code));
const years = (age) => String(Math.round(age));

function percent(share) {
  if (share < 0.005) return "<1\u00a0%";
  return share > 0.995 && share < 1 ? ">99\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
}

/** An element: attributes where a name has a dash or is `role`, properties otherwise. */
function made(tag, about = {}, ...inside) {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (name === "role" || name.includes("-")) one.setAttribute(name, value);
    else one[name] = value;
  }
  one.append(...inside);
  return one;
}

function show(item) {
  current = item;
  document.body.classList.add("asked");
  $("answer").hidden = false;
  showStrip();
  showPictures(item);
  showMap(item);
  const { row } = item;
  $("refer").hidden = !row.refer;
  $("refer-why").textContent = row.refer ? `: ${row.refer}` : "";
  showDiagnosis(item);
  showAge(row);
  showSex(row);
  showPhotograph(row);
  $("answered").replaceChildren(
    `Answered by version ${item.by.version}, digest `, made("code", { textContent: item.by.digest }),
    `, at ${item.when.toLocaleTimeString()}.`,
  );
}

function showStrip() {
  const focused = asked.find((item) => item.button && item.button === document.activeElement);
  $("earlier").hidden = false;
  $("earlier").classList.toggle("single", asked.length < 2);
  $("strip").replaceChildren(...asked.map((item, place) => {
    const { diagnosis, diagnosis_probabilities: shares } = item.row;
    const about = {
      type: "button", title: item.file.name, "aria-current": item === current,
      "aria-label": `Photograph ${asked.length - place}: ${named(diagnosis, item.by)}, ${percent(shares[diagnosis])}, answered at ${item.when.toLocaleTimeString()}`,
    };
    item.button = made("button", about, made("img", { src: item.url, alt: "" }), made("span", { textContent: diagnosis }));
    item.button.addEventListener("click", () => {
      picked = true;
      show(item);
      tell(item);
      item.button.focus();
    });
    return made("li", {}, item.button);
  }));
  if (focused) focused.button.focus({ preventScroll: true });
}

function showPictures({ file, url }) {
  $("original").src = url;
  $("original-note").textContent = file.name;
}

function showMap({ map }) {
  const whole = Boolean(map && !map.error);
  $("seen").hidden = !whole;
  $("map-box").hidden = !map;
  $("map-scale").hidden = !whole || weak(map);
  $("map-wait").textContent = map ? "" : "computing …";
  $("seen-note").textContent = "";
  if (map) $("map-text").textContent = whole ? meaning(map) : `No map: ${map.error}`;
  if (whole) {
    $("seen").src = map.seen;
    $("map").src = map.saliency;
    $("seen").onload = () => { $("seen-note").textContent = `${$("seen").naturalWidth} × ${$("seen").naturalHeight}`; };
  }
  layMap();
}

/** Whether no place is worth drawing. */
const weak = (map) => map.fall < 0.01;

function meaning(map) {
  const name = named(map.diagnosis, map.by), left = Math.max(0, map.probability - map.fall);
  const whose = map.whose || "";
  if (weak(map)) return `No single region matters: whichever is covered, ${name} stays at ${percent(map.probability)}.${whose}`;
  return `Each region was covered in turn. Covering the yellow one lowers ${name} from ${percent(map.probability)} to ${percent(left)}.${whose}`;
}

function layMap() {
  const map = current && current.map;
  $("map").hidden = !map || map.error || weak(map) || !$("map-shown").checked;
  $("map").alt = $("map").hidden ? "" : `A map over it: ${$("map-text").textContent}`;
  $("map").style.opacity = String($("map-strength").value / 100);
  $("map-strength").disabled = !$("map-shown").checked;
  $("map-strength").setAttribute("aria-valuetext", `${$("map-strength").value} %`);
}

function bar(name, code, share, about) {
  const label = made("th", { scope: "row", role: "rowheader" }, name);
  if (code && code !== name) label.append(" ", made("span", { className: "soft", textContent: code }));
  if (about.malignant) label.append(" ", made("span", { className: "tag", textContent: "malignant" }));
  const line = made("i");
  line.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
  const row = made("tr", { className: about.malignant ? "malignant" : "", role: "row" },
    label, made("td", { className: "n", role: "cell", textContent: percent(share) }), made("td", { className: "bar", "aria-hidden": "true" }, line));
  row.classList.toggle("first", about.first);
  return row;
}

function showDiagnosis({ row, by }) {
  const shares = Object.entries(row.diagnosis_probabilities).sort((one, other) => other[1] - one[1]);
  $("diagnosis").textContent = named(row.diagnosis, by);
  $("diagnosis-share").textContent = percent(row.diagnosis_probabilities[row.diagnosis]);
  $("diagnoses").replaceChildren(...shares.map(([code, share]) =>
    bar(named(code, by), code, share, { first: code === row.diagnosis, malignant: isMalignant(code, by) })));
  const together = shares.filter(([code]) => isMalignant(code, by)).reduce((sum, [, share]) => sum + share, 0);
  $("malignant").hidden = !shares.some(([code]) => isMalignant(code, by));
  $("malignant").textContent = `All malignant diagnoses together: ${percent(together)}`;
  const others = (row.differentials || []).filter((code) => code !== row.diagnosis);
  $("differentials").textContent = others.length ? `Differential diagnoses: ${others.map((code) => named(code, by)).join("; ")}.` : "";
}

function showAge(row) {
  const range = known(row.age_low) && known(row.age_high);
  const end = Math.max(100, Math.ceil((range ? row.age_high : row.age) / 20) * 20);
  const place = (age) => `${Math.min(100, Math.max(0, (100 * age) / end))}%`;
  $("age").textContent = `${years(row.age)} years`;
  $("age-range").textContent = range ? `${years(row.age_low)} to ${years(row.age_high)}` : "";
  $("age-dot").style.left = place(row.age);
  $("age-band").hidden = $("age-note").hidden = !range;
  if (range) {
    $("age-band").style.left = place(row.age_low);
    $("age-band").style.right = `${100 - parseFloat(place(row.age_high))}%`;
  }
  $("axis").setAttribute("aria-label", `${years(row.age)} on an axis from 0 to ${end} years${range ? `, the band from ${years(row.age_low)} to ${years(row.age_high)}` : ""}`);
  $("ticks").replaceChildren(...Array.from({ length: end / 20 + 1 }, (_, step) => {
    const tick = made("span", { textContent: String(20 * step) });
    tick.style.left = place(20 * step);
    return tick;
  }));
}

function showSex(row) {
  $("sex").textContent = row.sex;
  $("sex-share").textContent = percent(row.sex_probabilities[row.sex]);
  $("sexes").replaceChildren(...Object.entries(row.sex_probabilities).map(([name, share]) => bar(name, "", share, { first: name === row.sex })));
}

function showPhotograph(row) {
  $("photo").hidden = !known(row.quality) && !known(row.novelty);
  $("quality-row").hidden = !known(row.quality);
  $("novelty-row").hidden = !known(row.novelty);
  if (known(row.quality)) $("quality").textContent = row.quality;
  if (known(row.novelty)) $("novelty").textContent = `${row.novelty.toFixed(2)}, ${row.novelty > 1 ? "beyond" : "within"} the limit of 1`;
}

// ---- the model

async function look() {
  const found = await ask("model");
  model = found;
  lists.set(model.digest, model);
  showModel();
  if (current) show(current); // whose names may be known only now
}

function showModel() {
  $("model").hidden = false;
  $("served").hidden = false;
  $("served").textContent = model.version ? `version ${model.version} of ${model.model}` : "no version yet";
  $("largest").textContent = model.largest ? ` of up to ${megabytes(model.largest)}` : "";
  $("trouble").hidden = !model.trouble;
  $("trouble").textContent = model.trouble || "";
  const pairs = [
    ["Version", model.version && [`${model.version} of ${model.model}`, ...model.aliases].join(", ")],
    ["Digest", model.digest && made("code", { textContent: model.digest })],
    ["Gate verdict", model.verdict],
    ["Registered", model.registered && new Date(model.registered).toLocaleDateString(undefined, { dateStyle: "long" })],
    ["Training snapshot", model.trained_on && made("code", { textContent: model.trained_on })],
    ["Experiment", model.experiment],
    ["Report", /^https?:\/\//.test(model.report || "")
      ? made("a", { href: model.report, target: "_blank", rel: "noopener noreferrer", textContent: "Evaluation" }) : model.report],
    ["Registry last answered", model.looked !== null && `${ago(model.looked)} ago`],
  ];
  $("about").replaceChildren(...pairs.filter(([, value]) => value).map(([name, value]) =>
    made("div", {}, made("dt", { textContent: name }), made("dd", {}, value))));
  const codes = Object.keys(model.diagnoses);
  $("knows").hidden = !codes.length;
  $("known").replaceChildren(...codes.map((code) => {
    const entry = made("li", {}, named(code, model), " ", made("span", { className: "soft", textContent: code }));
    if (isMalignant(code, model)) entry.append(" ", made("span", { className: "tag", textContent: "malignant" }));
    return entry;
  }));
}

function ago(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} minutes` : `${Math.round(seconds / 3600)} hours`;
}

async function begin() {
  try {
    await look();
    while (!model.version) {
      wait("model", `${UNBORN} Trying again in ${WAIT.first} s.`);
      await pause(WAIT.first);
      await look();
      if (model.version) wait("model", "");
    }
  } catch (error) {
    complain(error, begin);
  }
}

// ---- the ways in

for (const way of [$("choose"), $("camera")]) {
  way.addEventListener("change", () => {
    take([...way.files]);
    way.value = ""; // so that the same photograph may be chosen again
  });
}

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (!files.length) return;
  event.preventDefault();
  take(files);
});

let inside = 0;
const over = (by) => { inside = by ? inside + by : 0; $("drop").classList.toggle("over", inside > 0); };
document.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
document.addEventListener("dragleave", () => over(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  over(0);
  take([...event.dataTransfer.files]);
});

$("map-shown").addEventListener("change", layMap);
$("map-strength").addEventListener("input", layMap);
begin();
