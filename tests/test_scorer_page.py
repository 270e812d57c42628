"""The page at / in a real browser: a photograph in, the answers and the map out, for everybody and on every screen."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import browser
import pytest
import requests
import uvicorn
from installation import Installation, photo
from starlette.types import Message, Receive, Scope, Send

from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving import app
from dermanet.serving.follow import Following

pytestmark = pytest.mark.skipif(
    browser.installed() is None, reason=f"needs a Chromium or Chrome: none of {', '.join(browser.NAMES)} is a command here"
)  # fmt: skip

SMALLEST = 12.0
"""Pixels of the smallest text."""

WHOLE = {
    "age_low": 29.2, "age_high": 63.9, "quality": "blurred: sharpness 12, at least 30 is needed", "novelty": 1.31,
    "refer": "the photograph is unlike those that the model learned from",
}  # fmt: skip
"""What the rows of newer versions have besides."""

NAMELESS = """() => {
  const named = one => one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim() || one.getAttribute('alt');
  const shown = one => one.getClientRects().length;
  const found = [...document.querySelectorAll('button, input, a, [role=img], [role=table], img[src]:not([alt=""])')]
    .filter(one => shown(one) && !named(one)).map(one => `no name: ${one.outerHTML.slice(0, 80)}`);
  const ids = [...document.querySelectorAll('[id]')].map(one => one.id);
  found.push(...ids.filter((id, place) => ids.indexOf(id) !== place).map(id => `twice: ${id}`));
  for (const attribute of ['aria-labelledby', 'aria-describedby', 'for'])
    for (const one of document.querySelectorAll(`[${attribute}]`))
      for (const id of one.getAttribute(attribute).split(' '))
        if (!document.getElementById(id)) found.push(`${attribute} leads nowhere: ${id}`);
  if (document.querySelectorAll('h1').length !== 1 || !document.documentElement.lang || !document.title) found.push('no title');
  let before = 1;
  for (const one of document.querySelectorAll('h1, h2, h3')) {
    const level = Number(one.tagName[1]);
    if (shown(one) && level > before + 1) found.push(`a level is left out: ${one.textContent}`);
    if (shown(one)) before = level;
  }
  return found;
}"""

DROP = """([kind, name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/jpeg' }));
  document.dispatchEvent(kind === 'paste'
    ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true })
    : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


class Recorder:
    """Keeps the bodies of all requests before an application."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.bodies = inner, b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def heard() -> Message:
            message = await receive()
            self.bodies += message.get("body", b"")
            return message

        await self.inner(scope, heard, send)


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """The address of an application that is served until the end."""
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until = time.monotonic() + 30
            while not server.started and time.monotonic() < until:
                time.sleep(0.05)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(30)


def _following(installation: Installation, shelf: Path, alias: str = CHAMPION) -> Following:
    tracking = Tracking(installation.tracking_uri, installation.home / "mlartifacts")
    following = Following(Versions(tracking.client, "dermanet"), alias, 0.1, shelf)
    following.look()
    return following


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def scorer(trained: Installation, shelf: Path) -> Iterator[tuple[str, Recorder]]:
    """The address of a scorer, and what it is sent."""
    recorder = Recorder(app.build(_following(trained, shelf)))
    with serving(recorder) as address:
        yield address, recorder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.browser() as running:
        yield running


Opener = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, scorer: tuple[str, Recorder]) -> Iterator[Opener]:
    """Opens the page; at the end nothing may have gone wrong in it, and nothing may have been asked of anybody else."""
    wrong: list[str] = []
    contexts = []

    def open_page(address: str = scorer[0], ready: bool = True, missing: tuple[int, ...] = (), **about: Any) -> Any:
        contexts.append(chromium.new_context(**{"viewport": browser.DESK, **about}))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        # The browser itself says of a refusal that it was one.
        allowed = tuple(f"the server responded with a status of {status}" for status in missing)
        page.on(
            "console", lambda line: any(one in line.text for one in allowed) or wrong.append(f"console: {line.text}")
        )
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda asked: _is_own(asked.url, address) or wrong.append(f"asks {asked.url[:80]}"))
        page.goto(address)
        if ready:
            page.locator("#known li").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def _is_own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", f"blob:{address}"))


def _give(page: Any, *files: Path, way: str = "#choose") -> None:
    page.set_input_files(way, [str(file) for file in files])


def _wait_for_map(page: Any) -> None:
    page.locator("#map-box").wait_for()
    page.locator("#busy").wait_for(state="hidden")


def _with(page: Any, scorer: str, image: Path, path: str = "predict", **more: Any) -> None:
    """Has the scorer answer as another version would. (A file's bytes do not come through the browser's own interception.)"""
    answer = requests.post(f"{scorer}{path}", files={"image": image.read_bytes()}, timeout=30)
    told = answer.json()
    (told["predictions"][0] if path == "predict" else told).update(more)
    headers = {name: answer.headers[name] for name in ("X-Model-Version", "X-Model-Digest")}
    page.route(f"**/{path}", lambda route: route.fulfill(json=told, headers=headers))


def _hold(page: Any, scorer: str, image: Path, path: str) -> Callable[[], int]:
    """Has every answer wait until it is let go, the one that was asked for first; a call says how many wait besides."""
    answer = requests.post(f"{scorer}{path}", files={"image": image.read_bytes()}, timeout=30)
    held: list[Any] = []
    page.route(f"**/{path}", lambda route: held.append(route))

    def let_go() -> int:
        until = time.monotonic() + 30
        while not held and time.monotonic() < until:
            page.wait_for_timeout(20)
        held.pop(0).fulfill(body=answer.content, headers=dict(answer.headers))
        return len(held)

    return let_go


def _photos(folder: Path, count: int) -> list[Path]:
    """One photograph under so many names: 1.jpg, 2.jpg, ..."""
    image = photo(folder).read_bytes()
    paths = [folder / f"{number + 1}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(image)
    return paths


def _named(page: Any, name: str) -> None:
    """Waits until the photograph of that name is the one that is shown."""
    page.locator("#original-note", has_text=name).wait_for()


def test_a_photograph_is_answered_explained_and_not_named(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    image = photo(tmp_path).rename(tmp_path / "Jane Doe 1950.jpg")
    (row,) = requests.post(f"{scorer[0]}predict", files={"image": image.read_bytes()}, timeout=30).json()["predictions"]
    page = opened()
    _give(page, image)
    _wait_for_map(page)
    names = requests.get(f"{scorer[0]}model", timeout=30).json()["diagnoses"]
    assert page.inner_text("#diagnosis") == names[row["diagnosis"]]
    assert page.inner_text("#age") == f"{round(row['age'])} years"
    assert page.inner_text("#sex") == row["sex"]
    assert page.locator("#diagnoses tr").count() == len(names)
    assert page.locator("#diagnoses .tag").count() == 3
    assert page.locator("#sexes tr").count() == 3
    digest = requests.get(f"{scorer[0]}model", timeout=30).json()["digest"]
    assert f"version 1, digest {digest}" in page.inner_text("#answered")
    assert page.evaluate(
        "() => [document.getElementById('seen'), document.getElementById('original')].every(one => one.naturalWidth)"
    )
    assert page.inner_text("#map-text")
    assert "Jane" in page.inner_text("#original-note")
    assert b"Jane" not in scorer[1].bodies
    assert b'filename="image"' in scorer[1].bodies
    assert names[row["diagnosis"]] in page.inner_text("#said")
    assert page.is_visible("#refer") == (row["refer"] is not None)
    assert page.inner_text("#quality") == row["quality"]


def test_what_an_older_version_does_not_answer_is_left_out(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    page = opened()
    _with(page, scorer[0], photo(tmp_path), **dict.fromkeys(WHOLE))
    _give(page, photo(tmp_path))
    _wait_for_map(page)
    for absent in ("#refer", "#age-range", "#age-band", "#age-note", "#photo"):
        assert not page.is_visible(absent), absent
    assert page.inner_text("#age").endswith(" years")
    assert "null" not in page.inner_text("body")


def test_an_answer_that_a_person_should_decide_says_so_first(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    page = opened()
    _with(page, scorer[0], photo(tmp_path), **WHOLE)
    _give(page, photo(tmp_path))
    _wait_for_map(page)
    assert page.inner_text("#refer").startswith(f"A person should decide: {WHOLE['refer']}")
    boxes = [page.locator(one).bounding_box()["y"] for one in ("#refer", "#first", "#original")]
    assert boxes[0] < min(boxes[1:])
    assert page.inner_text("#said").startswith("A person should decide")
    assert page.inner_text("#age-range") == "29 to 64"
    band, axis = (page.locator(one).bounding_box() for one in ("#age-band", "#axis"))
    assert band["width"] / axis["width"] == pytest.approx((63.9 - 29.2) / 100, abs=0.02)
    assert "blurred" in page.inner_text("#quality")
    assert "beyond the limit" in page.inner_text("#novelty")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 820, 1280, 1600])
def test_every_screen_shows_it_whole(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path, width: int, scheme: str
) -> None:
    phone = width < 500
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme, is_mobile=phone, has_touch=phone)
    assert _faults(page, width) == []
    assert page.is_visible("label[for=camera]") == phone
    assert page.is_visible("#camera") == phone, "what is not offered is no stop of the keyboard's"
    assert page.get_attribute("#camera", "capture") == "environment", "a phone opens its camera, the one on its back"
    _with(page, scorer[0], photo(tmp_path), **WHOLE)
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    _give(page, photo(tmp_path), text, photo(tmp_path))
    page.locator("#strip li:nth-child(2)").wait_for()
    _wait_for_map(page)
    assert _faults(page, width) == []
    footer = page.locator("footer").bounding_box()
    assert footer["y"] + footer["height"] == pytest.approx(800, abs=1)
    assert "not a medical device" in page.inner_text("footer")


def _faults(page: Any, width: int) -> list[str]:
    wide, over = page.evaluate(browser.WIDTHS)
    found = [f"beyond the edge: {one}" for one in over if not one.startswith("span ")]
    if wide > width:
        found.append(f"scrolls sideways: {wide} pixels")
    for text, pixels, contrast, _ in page.evaluate(browser.TEXTS):
        if pixels < SMALLEST - 0.01:
            found.append(f"{pixels:.1f} pixels: {text}")
        if contrast < browser.CONTRAST:
            found.append(f"contrast of {contrast:.2f}: {text}")
    return [*found, *page.evaluate(NAMELESS)]


@pytest.mark.parametrize(
    ("fall", "words"), [(0.31, "Covering the yellow one lowers"), (0.004, "No single region matters")]
)
def test_the_map_says_what_it_means(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path, fall: float, words: str
) -> None:
    page = opened()
    _with(page, scorer[0], photo(tmp_path), "explain", fall=fall, probability=0.72)
    _give(page, photo(tmp_path))
    _wait_for_map(page)
    told = page.inner_text("#map-text")
    assert words in told
    assert "72\u00a0%" in told
    assert ("41\u00a0%" in told) == page.is_visible("#map") == page.is_visible("#map-scale") == (fall > 0.01)


def test_the_keyboard_is_enough(opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path) -> None:
    page = opened()
    _with(page, scorer[0], photo(tmp_path), "explain", fall=0.3)
    _tab_to(page, "choose")
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Space")
    chosen.value.set_files([str(photo(tmp_path)), str(_other(tmp_path))])
    page.locator("#strip li:nth-child(2)").wait_for()
    _wait_for_map(page)
    _tab_to(page, "map-strength")
    before = page.evaluate("() => getComputedStyle(document.getElementById('map')).opacity")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("() => getComputedStyle(document.getElementById('map')).opacity") < before
    _tab_to(page, "map-shown", back=True)
    page.keyboard.press("Space")
    assert not page.is_visible("#map")
    latest = page.inner_text("#original-note")
    page.locator("#strip button").nth(1).focus()
    page.keyboard.press("Enter")
    page.locator("#original-note", has_not_text=latest).wait_for()
    assert page.evaluate("() => document.activeElement.getAttribute('aria-current')") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") != "none"


def _tab_to(page: Any, name: str, back: bool = False) -> None:
    for _ in range(40):
        if page.evaluate("() => document.activeElement.id") == name:
            return
        page.keyboard.press("Shift+Tab" if back else "Tab")
    pytest.fail(f"the keyboard does not come to {name}")


def _other(folder: Path) -> Path:
    """Another photograph than `photo`'s."""
    (folder / "other").mkdir(exist_ok=True)
    return photo(folder / "other", seed=7).rename(folder / "other.jpg")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_photograph_may_be_pasted_or_dropped(opened: Opener, tmp_path: Path, kind: str) -> None:
    page = opened()
    page.evaluate(DROP, [kind, "photo.jpg", list(photo(tmp_path).read_bytes())])
    _wait_for_map(page)
    assert page.inner_text("#diagnosis")


def test_who_picked_a_photograph_keeps_it_while_others_are_read(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    page, files = opened(), _photos(tmp_path, 4)
    let_go = _hold(page, scorer[0], files[0], "predict")
    _give(page, *files[:3])
    let_go()
    _named(page, "1.jpg")
    let_go()
    _named(page, "2.jpg")
    page.locator("#strip button").nth(1).click()
    _named(page, "1.jpg")
    let_go()
    page.locator("#strip li:nth-child(3)").wait_for()
    assert page.inner_text("#original-note").startswith("1.jpg")
    focused = "() => [document.activeElement.title, document.activeElement.getAttribute('aria-current')]"
    assert page.evaluate(focused) == ["1.jpg", "true"]
    assert "Photographs" in page.inner_text("#said")
    _wait_for_map(page)
    _give(page, files[3])
    let_go()
    _named(page, "4.jpg")


def test_a_map_that_waits_holds_up_no_answer(opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path) -> None:
    page, files = opened(missing=(503,)), _photos(tmp_path, 3)
    let_go = _hold(page, scorer[0], files[0], "explain")
    _give(page, *files)
    page.locator("#strip li:nth-child(3)").wait_for()
    _named(page, "3.jpg")
    page.locator("#busy-text", has_text="Computing the map").wait_for()
    assert let_go() == 0, "maps are asked for one at a time"
    assert page.inner_text("#map-wait"), "the map was another photograph's"
    let_go()
    page.locator("#map-box").wait_for()
    assert page.is_visible("#busy"), "one more map is drawn"
    let_go()
    page.locator("#busy").wait_for(state="hidden")


def test_what_a_map_waits_for_is_told_until_it_comes(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    page, files, free = opened(missing=(503,)), _photos(tmp_path, 2), False
    let_go = _hold(page, scorer[0], files[0], "predict")
    page.route("**/explain", lambda route: route.continue_() if free else route.fulfill(status=503, body="{}"))
    _give(page, *files)
    let_go()
    page.locator("#waiting", has_text="busy").wait_for()
    assert "Reading" in page.inner_text("#busy-text")
    let_go()
    _named(page, "2.jpg")
    assert page.is_visible("#waiting")
    assert "Computing" in page.inner_text("#busy-text")
    free = True
    _wait_for_map(page)
    assert not page.is_visible("#waiting")


def test_no_photograph_goes_without_a_word(opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path) -> None:
    page, files = opened(), _photos(tmp_path, 15)
    for path in ("predict", "explain"):
        _with(page, scorer[0], files[0], path)
    _give(page, *files[:14])
    page.locator("#strip li:nth-child(14)").wait_for()
    _wait_for_map(page)
    assert not page.is_visible("#gone")
    _give(page, files[14])
    _named(page, "15.jpg")
    assert page.locator("#strip li").count() == 14
    assert page.inner_text("#gone") == "1 earlier photograph is no longer shown."


def test_an_answer_keeps_the_names_of_its_own_version(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    page = opened(missing=(500,))
    image = photo(tmp_path)
    told = requests.get(f"{scorer[0]}model", timeout=30).json()
    _give(page, image)
    _wait_for_map(page)
    before, shares = page.inner_text("#diagnosis"), page.inner_text("#malignant")
    _answers_as(page, scorer[0], image, "another")
    told |= {"digest": "another", "diagnoses": {code: f"new {code}" for code in told["diagnoses"]}, "malignant": []}
    page.route("**/model", lambda route: route.fulfill(json=told))
    _give(page, image)
    page.locator("#diagnosis", has_text="new ").wait_for()
    assert page.locator("#diagnoses .tag").count() == 0
    assert before in page.get_attribute("#strip li:nth-child(2) button", "aria-label")
    page.locator("#strip button").nth(1).click()
    assert (page.inner_text("#diagnosis"), page.inner_text("#malignant")) == (before, shares)
    assert before in page.inner_text("#said")


def test_an_answer_is_shown_where_its_version_cannot_be_looked_at(
    opened: Opener, scorer: tuple[str, Recorder], tmp_path: Path
) -> None:
    page, image = opened(missing=(500,)), photo(tmp_path)
    told = requests.get(f"{scorer[0]}model", timeout=30).json()
    _answers_as(page, scorer[0], image, "another")
    page.route("**/model", lambda route: route.fulfill(status=500, body="{}"))
    _give(page, image)
    page.locator("#troubles", has_text="scorer failed").wait_for()
    page.locator("#answer").wait_for()
    assert page.inner_text("#diagnosis") in told["diagnoses"], "the code stands for a name that is not known"
    assert page.locator("#diagnoses .tag").count() == 0
    page.route("**/model", lambda route: route.fulfill(json=told | {"digest": "another"}))
    _give(page, image)
    page.locator("#strip li:nth-child(2)").wait_for()
    page.locator("#strip button").nth(1).click()
    assert page.inner_text("#diagnosis") in told["diagnoses"].values()


def _answers_as(page: Any, scorer: str, image: Path, digest: str) -> None:
    """Has every photograph be answered by a version with that digest."""
    answer = requests.post(f"{scorer}predict", files={"image": image.read_bytes()}, timeout=30)
    headers = {"X-Model-Version": "2", "X-Model-Digest": digest}
    page.route("**/predict", lambda route: route.fulfill(body=answer.content, headers=headers))


def test_a_file_that_cannot_be_read_says_why_and_the_others_go_on(opened: Opener, tmp_path: Path) -> None:
    good, cut, gif = photo(tmp_path), tmp_path / "cut.jpg", tmp_path / "moving.gif"
    cut.write_bytes(good.read_bytes()[:3000])
    gif.write_bytes(b"GIF89a and more")
    (tmp_path / "nothing.png").touch()
    page = opened(missing=(422,))
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url.rpartition("/")[2]))
    _give(page, gif, tmp_path / "nothing.png", cut, good)
    _wait_for_map(page)
    first, second, third = page.locator("#troubles li").all_inner_texts()
    assert first == "“moving.gif” was not sent: it is of the kind GIF; a JPEG or PNG is needed."
    assert second == "“nothing.png” was not sent: it is empty."
    assert third.startswith("“cut.jpg” could not be read: truncated:")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.is_visible("#first") and not page.is_visible("#drop")
    style = "name => getComputedStyle(document.getElementById('first')).getPropertyValue(name)"
    assert [page.evaluate(style, name) for name in ("--bar", "print-color-adjust")] == ["#dfe5ec", "exact"]
    page.emulate_media(media="screen", color_scheme="light")
    assert [one for one in sent if one == "predict"] == ["predict"] * 2
    _give(page, cut)
    page.locator("#troubles li", has_text="truncated").wait_for()
    assert page.inner_text("#said") == ""
    _give(page, good)
    page.locator("#strip li:nth-child(2)").wait_for()
    assert page.locator("#troubles li").count() == 0


def test_a_photograph_larger_than_the_scorer_takes_is_not_sent(opened: Opener, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(b"\xff\xd8\xff" + bytes(33 * 1024 * 1024))
    page = opened()
    _give(page, large)
    line = page.locator("#troubles li")
    assert line.inner_text() == "“large.jpg” was not sent: it has 33 MB, and the scorer takes 32 MB; save it smaller."


def test_a_busy_scorer_is_asked_again(opened: Opener, tmp_path: Path) -> None:
    page, times = opened(missing=(503, 504)), []

    def busy_at_first(route: Any) -> None:
        times.append(time.monotonic())
        status = {1: 503, 2: 504}.get(len(times))
        if status is None:
            return route.continue_()
        body = json.dumps({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "busy"})
        return route.fulfill(status=status, headers={"Retry-After": "1"}, body=body)

    page.route("**/predict", busy_at_first)
    page.evaluate(DROP, ["drop", "photo.jpg", list(photo(tmp_path).read_bytes())])
    page.locator("#waiting", has_text="busy").wait_for()
    page.locator("#waiting", has_text="took longer").wait_for()
    page.locator("#answer, #troubles li").first.wait_for()
    assert len(times) == 3
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.9
    page.locator("#waiting").wait_for(state="hidden")


def test_what_asking_again_does_not_mend_is_told_in_plain_words(opened: Opener, tmp_path: Path) -> None:
    page = opened(missing=(413, 500))
    status = 413
    body = json.dumps({"error_code": "BAD_REQUEST", "message": "the request is larger than 7 bytes"})
    page.route("**/predict", lambda route: route.fulfill(status=status, body=body))
    _give(page, photo(tmp_path))
    assert "too large for this scorer. It says: the request is larger than 7 bytes." in page.inner_text("#troubles li")
    status = 500
    _give(page, photo(tmp_path))
    page.locator("#troubles", has_text="scorer failed").wait_for()
    page.unroute("**/predict")
    page.route("**/explain", lambda route: route.fulfill(status=500, body=body))
    _give(page, photo(tmp_path))
    _wait_for_map(page)
    assert page.inner_text("#map-text").startswith("No map: The scorer failed")
    assert page.inner_text("#diagnosis")


def test_a_scorer_that_is_gone_is_told_and_asked_again_by_a_press(opened: Opener, tmp_path: Path) -> None:
    page = opened()
    page.evaluate(
        "() => { Object.assign(window, { asked: fetch, fetch: () => Promise.reject(new TypeError('gone')) }); }"
    )
    page.clock.install()
    _give(page, *_photos(tmp_path, 2))
    page.locator("#waiting", has_text="cannot be reached").wait_for()
    for _ in range(16):
        page.clock.run_for(31_000)
        page.wait_for_timeout(50)
    page.evaluate("() => { window.fetch = window.asked; }")
    for left in (1, 0):
        page.locator("#troubles button").first.click()
        # The map that is there may still be that of the one before.
        page.locator("#strip li").nth(1 - left).wait_for(state="attached")
        _wait_for_map(page)
        assert page.locator("#troubles li").count() == left
    assert page.locator("#strip li").count() == 2


def test_before_the_first_champion_it_waits(opened: Opener, installation: Installation, tmp_path: Path) -> None:
    following = _following(installation, tmp_path / "served", "nobody")
    with serving(app.build(following)) as address:
        page = opened(address, ready=False, missing=(503,))
        page.locator("#waiting", has_text="No version of the model is served yet").wait_for()
        _give(page, photo(tmp_path))
        page.wait_for_timeout(500)
        following.alias = CHAMPION
        following.look()
        _wait_for_map(page)
        page.locator("#waiting").wait_for(state="hidden")
        assert "version 1" in page.inner_text("#served")


def test_a_token_is_asked_for_and_kept_in_memory_alone(
    opened: Opener, trained: Installation, shelf: Path, tmp_path: Path
) -> None:
    with serving(app.build(_following(trained, shelf), tokens=("open-sesame",), hosts=False)) as address:
        page = opened(address, ready=False, missing=(401,))
        page.locator("#door").wait_for()
        assert page.evaluate("() => document.activeElement.id") == "token"
        assert _faults(page, browser.DESK["width"]) == []
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.locator("#token-wrong").wait_for()
        page.keyboard.type("open-sesame")
        page.keyboard.press("Enter")
        page.locator("#known li").first.wait_for()
        assert not page.is_visible("#door")
        _give(page, photo(tmp_path))
        _wait_for_map(page)
        kept = page.evaluate("() => [localStorage.length, sessionStorage.length, document.cookie, location.href]")
        assert page.input_value("#token") == ""
        assert kept == [0, 0, "", address]


def test_a_token_that_no_header_can_carry_is_told_and_what_cannot_be_seen_in_it_passed_over(
    opened: Opener, trained: Installation, shelf: Path
) -> None:
    with serving(app.build(_following(trained, shelf), tokens=("open-sesame",), hosts=False)) as address:
        page = opened(address, ready=False, missing=(401,))
        for wrong in ("\u201copen-sesame\u201d", "\u200b"):
            page.fill("#token", wrong)
            page.keyboard.press("Enter")
            page.locator("#token-wrong").wait_for()
            assert page.is_visible("#door")
            assert not page.is_visible("#waiting")
        page.fill("#token", "\ufeff open-\u200bsesame\u00a0")
        page.keyboard.press("Enter")
        page.locator("#known li").first.wait_for()


def test_a_token_that_is_being_typed_outlives_a_photograph(
    opened: Opener, trained: Installation, shelf: Path, tmp_path: Path
) -> None:
    with serving(app.build(_following(trained, shelf), tokens=("open-sesame",), hosts=False)) as address:
        page = opened(address, ready=False, missing=(401,))
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.locator("#token-wrong").wait_for()
        page.keyboard.type("open-")
        with page.expect_response("**/predict"):
            page.evaluate(DROP, ["drop", "photo.jpg", list(photo(tmp_path).read_bytes())])
        page.wait_for_timeout(200)
        assert page.input_value("#token") == "open-"
        assert page.is_visible("#token-wrong")
        page.keyboard.type("sesame")
        page.keyboard.press("Enter")
        _wait_for_map(page)


def test_who_asked_for_less_motion_gets_none(opened: Opener, tmp_path: Path) -> None:
    page = opened(reduced_motion="reduce")
    _give(page, photo(tmp_path))
    _wait_for_map(page)
    moving = "() => getComputedStyle(document.querySelector('#diagnoses i')).transitionProperty"
    assert page.evaluate(moving) == "none"


def test_a_report_is_linked_where_it_has_an_address(opened: Opener, scorer: tuple[str, Recorder]) -> None:
    told = requests.get(f"{scorer[0]}model", timeout=30).json()
    page = opened()
    assert page.locator("#about a").count() == 0
    about = page.inner_text("#about")
    assert all(one in about for one in ("1 of dermanet, champion", told["verdict"], told["trained_on"], told["report"]))
    page.route("**/model", lambda route: route.fulfill(json=told))
    for address, links in (("https://mlflow.example/run", 1), ("javascript:alert(1)", 0), ("/etc/passwd", 0)):
        told["report"] = address
        page.reload()
        page.locator("#known li").first.wait_for()
        assert page.locator("#about a").count() == links, address


def test_the_page_of_the_api_lists_every_address(opened: Opener, scorer: tuple[str, Recorder]) -> None:
    page = opened()
    page.goto(f"{scorer[0]}docs")
    page.locator(".opblock-summary-path").first.wait_for()
    paths = {path.replace("\u200b", "") for path in page.locator(".opblock-summary-path").all_inner_texts()}
    assert {"/invocations", "/predict", "/explain", "/model", "/metrics"} <= paths
    page.locator("#operations-default-explain_explain_post .opblock-summary-control").click()
    assert "image" in page.inner_text("#operations-default-explain_explain_post .opblock-section-request-body")


def test_the_page_of_the_api_takes_a_token(opened: Opener, trained: Installation, shelf: Path, tmp_path: Path) -> None:
    with serving(app.build(_following(trained, shelf), tokens=("open-sesame",), hosts=False)) as address:
        page = opened(address, ready=False, missing=(401,))
        page.goto(f"{address}docs")
        page.locator(".btn.authorize").click()
        page.fill(".auth-container input", "open-sesame")
        page.locator(".auth-container .authorize").click()
        page.locator(".btn-done").click()
        asked = page.locator("#operations-default-model_model_get")
        asked.locator(".opblock-summary-control").click()
        asked.locator(".try-out__btn").click()
        with page.expect_response("**/model") as answer:
            asked.locator(".execute").click()
        assert answer.value.status == 200
