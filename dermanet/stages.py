"""The stages: one function a task, ids and small JSON in and out. Airflow, the command line and the tests call the same ones.

    ingest -> snapshot -> prepare -> train -> evaluate -> judge -> register -> promote

Every stage may be killed and run again, and run twice: outputs are named by content or found by what they work on.
Heavy libraries are imported inside the functions: Airflow imports this module each time it parses a DAG file.
"""

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import __version__, experiment, settings, taxonomy
from dermanet.errors import BadInput, GateRefused
from dermanet.settings import Settings
from dermanet.storage import Folder, place

if TYPE_CHECKING:
    from dermanet.intake.ingest import Outcome
    from dermanet.judging.metrics import Figures
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.records import Answers, Snapshot
    from dermanet.registry.tracking import Tracking
    from dermanet.registry.versions import Versions
    from dermanet.serving.network import Network

EVALUATION, VERDICT = "evaluation.json", "verdict.json"
SCORER_REQUIREMENTS = ("mlflow", "onnxruntime", "numpy", "pandas", "opencv-python-headless", "simplejpeg", "PyYAML")

Progress = Callable[[str], None]


def say_nothing(line: str) -> None:
    """The progress of a caller who does not watch."""


def ingest(source: str, progress: "Callable[[Outcome], None] | None" = None) -> dict[str, Any]:
    """Takes a source in. Returns the counts: accepted, known, corrected, quarantined by reason. Raises BadInput."""
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.ingest import ingest as take
    from dermanet.intake.sources import open_source

    here = settings.read()
    opened = open_source(source)
    outcome = take(
        opened,
        Catalogue(here.catalogue),
        place(here.objects),
        taxonomy.load(here.taxonomy),
        progress or (lambda outcome: None),
    )
    return {
        "source": opened.name, "accepted": outcome.accepted, "known": outcome.known, "corrected": outcome.corrected,
        "quarantined": dict(outcome.quarantined.most_common()),
    }  # fmt: skip


def ingest_configured(text: str) -> dict[str, Any]:
    """Takes in the sources that `text` names, or those of `DERMANET_SOURCE` where it is empty; returns the counts in all.

    Several are written side by side, a name with a space in quotes. Raises BadInput where neither names one.
    """
    chosen = sources_in(text or settings.read().source)
    if not chosen:
        raise BadInput(
            "no source: set DERMANET_SOURCE, or give the parameter source a folder, a CSV, s3://… or synthetic:"
        )
    total: dict[str, Any] = {"accepted": 0, "known": 0, "corrected": 0, "quarantined": {}}
    for source in chosen:
        counts = ingest(source, _IngestReport())
        print(counts, flush=True)
        for word in ("accepted", "known", "corrected"):
            total[word] += counts[word]
        for reason, count in counts["quarantined"].items():
            total["quarantined"][reason] = total["quarantined"].get(reason, 0) + count
    return total


def check_sources(text: str) -> str:
    """The sources in `text` with absolute paths, each one opened. Raises BadInput with one line for the first that is wrong."""
    from dermanet.intake.sources import open_source

    opened = sources_in(text)
    for source in opened:
        open_source(source)
    return shlex.join(str(Path(source).absolute()) if Path(source).exists() else source for source in opened)


def sources_in(text: str) -> list[str]:
    """The sources that a setting names: one path as it stands, or several words as a shell would read them."""
    return [text] if text and Path(text).exists() else shlex.split(text)


def snapshot() -> dict[str, Any]:
    """Freezes the catalogue as it stands. Returns the snapshot's id, its holdout's identity and the images of each side."""
    from dermanet.intake import snapshots
    from dermanet.intake.catalogue import Catalogue

    here = settings.read()
    frozen = snapshots.freeze(Catalogue(here.catalogue).records(), taxonomy.load(here.taxonomy), _snapshots(here))
    sides = {side: len(getattr(frozen, side)) for side in ("train", "validation", "holdout")}
    return {"snapshot": frozen.id, "holdout": frozen.holdout_digest, "images": len(frozen.records), **sides}


def prepare(
    snapshot_id: str, experiment_text: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Prepares the pixels of a snapshot for an experiment's recipe; only what is new is computed. Returns the counts."""
    import time

    here = settings.read()
    frozen = _snapshot(here, snapshot_id)
    chosen = _experiment(here, experiment_text)
    start, total = time.monotonic(), len(frozen.records)
    done = _fill(here, chosen.recipe, frozen, lambda count: progress(count, total))[1]
    seconds = round(time.monotonic() - start, 2)
    return {
        "snapshot": snapshot_id,
        "images": total,
        "computed": done.computed,
        "reused": done.reused,
        "seconds": seconds,
    }


def train(
    snapshot_id: str, experiment_text: str, attempt: str = "", progress: Progress = say_nothing
) -> dict[str, Any]:
    """Trains an experiment on a snapshot and logs the scorer. Returns the run's id.

    The run is named by (snapshot, experiment, attempt): called again it resumes, or finds the work done. Another `attempt`
    trains anew on the same data.
    """
    from dermanet.learning import curves
    from dermanet.learning.train import fit

    here = settings.read()
    frozen, chosen = _snapshot(here, snapshot_id), _experiment(here, experiment_text)
    tracking = _tracking(here)
    work = hashlib.sha256(f"{frozen.id}\n{chosen.digest}\n{attempt}".encode()).hexdigest()[:24]
    tags = {"dermanet.snapshot": frozen.id, "dermanet.holdout": frozen.holdout_digest, "dermanet.version": __version__}
    run_id = tracking.run_for(work, f"{chosen.name}-{frozen.id[:8]}", tags).info.run_id
    if "dermanet.model" in tracking.run(run_id).data.tags:
        progress(f"run {run_id} has trained this already")
        return {"run_id": run_id, "trained": False}
    tracking.end(run_id, "RUNNING")
    tracking.log_params(run_id, {**chosen.as_dict(), "snapshot": frozen.id, "taxonomy": frozen.taxonomy.digest})
    pixels = _fill(here, chosen.recipe, frozen)[0]
    report = _EpochReport(tracking, run_id, chosen.epochs, progress)
    try:
        trained = fit(
            chosen,
            frozen.taxonomy.codes,
            frozen.train,
            frozen.validation,
            pixels,
            here.home / "training" / work,
            report,
        )
        tracking.log_picture(run_id, curves.draw(trained.history, trained.best_epoch), "learning_curves.png")
        tracking.log_params(run_id, {"best_epoch": trained.best_epoch})
        files = _model_files(trained.keras_file, trained.onnx_file, _card(frozen, chosen, run_id), chosen.recipe)
        tracking.log_model(run_id, _package() / "serving" / "scorer.py", files, _package(), _requirements())
    except Exception:
        tracking.end(run_id, "FAILED")
        raise
    tracking.end(run_id, "FINISHED")
    _discard(here.home / "training" / work)
    return {"run_id": run_id, "trained": True, "epochs": len(trained.history), "best_epoch": trained.best_epoch}


def evaluate(run_id: str) -> dict[str, Any]:
    """Scores a run's model and the champion on the same holdout, by the same code, beside the trivial baseline."""
    from dermanet.judging import metrics, report
    from dermanet.judging.intervals import intervals
    from dermanet.registry.tracking import model_files
    from dermanet.registry.versions import CHAMPION

    here = settings.read()
    tracking = _tracking(here)
    tags = tracking.run(run_id).data.tags
    frozen = _snapshot(here, tags["dermanet.snapshot"])
    codes, holdout = frozen.taxonomy.codes, frozen.holdout
    answers = _answers(here, _network(model_files(tags["dermanet.model"])), frozen)
    champion = _versions(here, tracking).holder(CHAMPION)
    record: dict[str, Any] = {
        "run_id": run_id, "snapshot": frozen.id, "holdout": frozen.holdout_digest,
        "candidate": metrics.figures(holdout, answers, codes),
        "intervals": intervals(holdout, answers, codes),
        "baseline": metrics.figures(holdout, metrics.trivial_answers(frozen.train, len(holdout), codes), codes),
        "champion": _champion_figures(here, f"models:/{here.model}/{champion}", frozen) if champion else None,
        "champion_version": champion,
        "support": metrics.support(holdout),
    }  # fmt: skip
    tracking.log_figures(run_id, record["candidate"])
    tracking.log_figures(run_id, {f"baseline_{name}": value for name, value in record["baseline"].items()})
    tracking.log_picture(
        run_id, report.confusion_matrix(metrics.confusion(holdout, answers, codes), codes), "confusion_matrix.png"
    )
    tracking.log_json(run_id, record, EVALUATION)
    return record


def judge(run_id: str) -> dict[str, Any]:
    """Applies the gates to a run's evaluation. Returns and keeps the verdict with every check."""
    from dermanet.judging import gates, report

    here = settings.read()
    tracking = _tracking(here)
    evaluation = tracking.read_json(run_id, EVALUATION)
    figures = (evaluation["candidate"], evaluation["baseline"], evaluation["champion"])
    verdict = gates.judge(gates.load(here.gates), *figures, evaluation["support"])
    record = {
        "run_id": run_id,
        "holdout": evaluation["holdout"],
        "champion_version": evaluation["champion_version"],
        **verdict.as_dict(),
    }
    tracking.log_json(run_id, record, VERDICT)
    tracking.log_text(run_id, report.verdict_page(verdict, evaluation), "verdict.md")
    tracking.tag(run_id, verdict=verdict.word)
    return record


def register(run_id: str) -> dict[str, Any]:
    """Registers a run's model, if its verdict is a pass. Returns the version. Raises GateRefused otherwise."""
    here = settings.read()
    tracking = _tracking(here)
    verdict = tracking.read_json(run_id, VERDICT)
    if verdict["verdict"] != "pass":
        failed = [check["metric"] for check in verdict["checks"] if check["outcome"] != "pass"]
        raise GateRefused(
            f"run {run_id} is not registered: the verdict is {verdict['verdict']} ({', '.join(dict.fromkeys(failed))})"
        )
    tags = tracking.run(run_id).data.tags
    carried = {
        name: tags[name] for name in ("dermanet.snapshot", "dermanet.holdout", "dermanet.version", "dermanet.verdict")
    }
    return {"run_id": run_id, "version": _versions(here, tracking).register(run_id, tags["dermanet.model"], carried)}


def promote(version: str) -> dict[str, Any]:
    """Makes a version the champion; the champion before it becomes `previous`."""
    here = settings.read()
    _versions(here, _tracking(here)).promote(version)
    return {"model": here.model, "champion": version}


def roll_back() -> dict[str, Any]:
    """Makes the previous champion the champion again."""
    here = settings.read()
    return {"model": here.model, "champion": _versions(here, _tracking(here)).roll_back()}


def retrain(
    sources: Sequence[str], experiment_text: str, attempt: str = "", progress: Progress = say_nothing
) -> dict[str, Any]:
    """Every stage in order, by hand. Returns run, snapshot, verdict, version (None if refused) and the holdout figures."""
    # What is wrong is said now, not after an hour of training.
    here = settings.read()
    _experiment(here, experiment_text)
    gates_summary(here)
    for source in sources:
        progress(f"ingest {source}")
        progress(f"  {ingest(source)}")
    frozen = snapshot()
    sides = ", ".join(f"{frozen[side]} {side}" for side in ("train", "validation", "holdout"))
    progress(f"snapshot {frozen['snapshot']}: {sides} images")
    prepared = prepare(frozen["snapshot"], experiment_text)
    progress(f"prepared {prepared['computed']} images, reused {prepared['reused']}")
    run_id = train(frozen["snapshot"], experiment_text, attempt, progress)["run_id"]
    evaluation = evaluate(run_id)
    verdict = judge(run_id)
    version = None
    if verdict["verdict"] == "pass":
        version = register(run_id)["version"]
        promote(version)
    return {
        "run_id": run_id, "snapshot": frozen["snapshot"], "verdict": verdict["verdict"], "version": version,
        "metrics": evaluation["candidate"], "intervals": evaluation["intervals"], "baseline": evaluation["baseline"],
        "checks": verdict["checks"],
    }  # fmt: skip


def champion(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Which version serves and which run it comes from; `version` is None where there is none."""
    here = settings.read(environ)
    versions = _versions(here, _tracking(here))
    version = versions.holder("champion")
    return {"model": here.model, "version": version, "run_id": versions.get(version).run_id if version else None}


def holds_real_images(here: Settings) -> bool:
    """Whether the catalogue has any image that is not synthetic."""
    from dermanet.intake.catalogue import Catalogue

    return Catalogue(here.catalogue).holds_real_images()


def catalogued(here: Settings) -> int:
    """How many images the catalogue holds, synthetic ones aside where there are others."""
    from dermanet.intake.catalogue import Catalogue

    return len(Catalogue(here.catalogue).records())


def gates_summary(here: Settings) -> str:
    """One line on the gates file. Raises BadInput where it is wrong."""
    from dermanet.judging import gates

    return f"{len(gates.load(here.gates).limits)} metrics have limits in {here.gates}"


def example(here: Settings) -> dict[str, Any]:
    """One image of the holdout, for a demonstration: its bytes, its image_id and its labels. Raises BadInput without one."""
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.ingest import object_name
    from dermanet.intake.split import side

    for record in Catalogue(here.catalogue).records():
        if side(record.labels.lesion_id) == "holdout":
            labels = record.labels
            data = place(here.objects).read(object_name(record.digest))
            return {
                "data": data,
                "image_id": record.image_id,
                "age": labels.age,
                "sex": labels.sex,
                "diagnosis": labels.diagnosis,
            }
    raise BadInput("the holdout has no image; take more lesions in")


def training_now(here: Settings) -> str:
    """One line on the training under way on this machine, or nothing."""
    import json

    states = sorted((here.home / "training").glob("*/progress.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        return ""
    history = json.loads(states[-1].read_text())["history"]
    return _epoch_line(history) if history else ""


def predict(images: Sequence[str], model: str | None = None) -> list[dict[str, Any]]:
    """Age, sex and diagnosis of image files, a row each; a file that is no image gets `error` instead. Raises BadInput."""
    from dermanet.errors import UnreadableImage
    from dermanet.pixels.preprocess import prepare as prepared
    from dermanet.registry.tracking import model_files
    from dermanet.serving.scorer import as_rows

    here = settings.read()
    _tracking(here)
    network = _network(model_files(model or f"models:/{here.model}@champion"))
    rows: list[dict[str, Any]] = []
    for image in images:
        try:
            pixels = prepared(Path(image).read_bytes(), network.recipe)
        except (UnreadableImage, OSError) as error:
            rows.append({"image": image, "error": str(error)})
            continue
        rows.append({"image": image, **as_rows(network.answer(pixels[None]), network.diagnoses)[0]})
    return rows


def export(version: str, path: str) -> dict[str, Any]:
    """Writes a version as `.keras`, `.h5` (DermaNet's published form) or `.onnx`, told by the path's ending. Raises BadInput."""
    import shutil

    from dermanet.registry.tracking import model_files

    target, known = Path(path), (".keras", ".h5", ".onnx")
    if target.suffix not in known:
        raise BadInput(f"{path}: the ending {target.suffix!r} names no form; allowed are {', '.join(known)}")
    here = settings.read()
    known_version = _versions(here, _tracking(here)).get(version)
    files = model_files(f"models:/{here.model}/{known_version.version}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".h5":
        from dermanet.learning.model import export_published_form, load

        export_published_form(load(files / "model.keras"), target)
    else:
        shutil.copyfile(files / f"model{target.suffix}", target)
    return {"version": version, "path": str(target), "bytes": target.stat().st_size}


class _IngestReport:
    """A line in the task's log every two thousand records."""

    def __init__(self) -> None:
        self.due = 2000

    def __call__(self, outcome: "Outcome") -> None:
        if outcome.total >= self.due:
            print(
                f"{outcome.total} records: accepted {outcome.accepted}, known {outcome.known}, refused {outcome.quarantined.total()}"
            )
            self.due = outcome.total + 2000


class _EpochReport:
    """After each epoch: its figures to MLflow, and one line with the time left to whoever watches."""

    def __init__(self, tracking: "Tracking", run_id: str, epochs: int, progress: Progress) -> None:
        import time

        self.tracking, self.run_id, self.epochs, self.progress = tracking, run_id, epochs, progress
        self.clock = time.monotonic
        self.start = self.clock()
        self.resumed = -1

    def __call__(self, history: list[dict[str, float]]) -> None:
        self.tracking.log_history(self.run_id, history)
        if self.resumed < 0:
            self.resumed = len(history)
            if history:
                self.progress(f"resumes after epoch {len(history)}")
            return
        done = len(history)
        left = (self.clock() - self.start) / (done - self.resumed) * (self.epochs - done)
        self.progress(f"{_epoch_line(history)}; {self.epochs} at most, {left:.0f} s")


def _epoch_line(history: list[dict[str, float]]) -> str:
    last = history[-1]
    return (
        f"epoch {len(history)}: validation loss {last['val_loss']:.3f}, age error {last['val_age_mae']:.1f} years, "
        f"sex {last['val_sex_accuracy']:.3f}, diagnosis {last['val_diagnosis_accuracy']:.3f}"
    )


def _experiment(here: Settings, text: str) -> experiment.Experiment:
    """The experiment asked for, or the configured one where `text` is empty."""
    return experiment.named(text or here.experiment)


def _snapshots(here: Settings) -> Folder:
    return Folder(here.home / "snapshots")


def _snapshot(here: Settings, snapshot_id: str) -> "Snapshot":
    from dermanet.intake import snapshots

    return snapshots.read(snapshot_id, _snapshots(here))


def _tracking(here: Settings) -> "Tracking":
    from dermanet.registry.tracking import Tracking

    return Tracking(here.tracking_uri, here.artifacts)


def _versions(here: Settings, tracking: "Tracking") -> "Versions":
    from dermanet.registry.versions import Versions

    return Versions(tracking.client, here.model)


def _fill(
    here: Settings, recipe_text: str, frozen: "Snapshot", progress: Callable[[int], None] = lambda done: None
) -> "tuple[PreparedPixels, Any]":
    from dermanet.intake.ingest import object_name
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.pixels.preprocess import recipe

    objects = place(here.objects)
    pixels = PreparedPixels(here.home / "prepared", recipe(recipe_text))
    done = pixels.fill(
        [record.digest for record in frozen.records], lambda digest: objects.read(object_name(digest)), progress
    )
    return pixels, done


def _network(files: Path) -> "Network":
    from dermanet.serving import golden
    from dermanet.serving.network import CARD, load

    network = load(files / "model.onnx", files / CARD)
    golden.check(files / golden.FILE, network)
    return network


def _answers(here: Settings, network: "Network", frozen: "Snapshot") -> "Answers":
    """A network's answers on the holdout, from pixels prepared by its own recipe."""
    text = f"{network.recipe.name}@{network.recipe.size}"
    pixels = _fill(here, text, frozen)[0]
    digests = [record.digest for record in frozen.holdout]
    return network.answer_in_batches(
        [pixels.batch(digests[start : start + 32]) for start in range(0, len(digests), 32)]
    )


def _champion_figures(here: Settings, uri: str, frozen: "Snapshot") -> "Figures | None":
    """The champion's figures on this holdout; none where it answers another list of diagnoses: the two cannot be compared."""
    from dermanet.judging import metrics
    from dermanet.registry.tracking import model_files

    network = _network(model_files(uri))
    if network.diagnoses != frozen.taxonomy.codes:
        return None
    return metrics.figures(frozen.holdout, _answers(here, network, frozen), frozen.taxonomy.codes)


def _card(frozen: "Snapshot", chosen: experiment.Experiment, run_id: str) -> dict[str, Any]:
    from dermanet.pixels.preprocess import recipe
    from dermanet.records import SEXES

    prepared_by = recipe(chosen.recipe)
    return {
        "dermanet": __version__, "run_id": run_id, "snapshot": frozen.id, "holdout": frozen.holdout_digest,
        "experiment": chosen.as_dict(), "recipe": prepared_by.as_dict(), "fingerprint": prepared_by.fingerprint,
        "taxonomy": frozen.taxonomy.as_list(), "sexes": list(SEXES),
        "use": "For research use; not a medical device.",
    }  # fmt: skip


def _model_files(keras_file: Path, onnx_file: Path, card: dict[str, Any], recipe_text: str) -> dict[str, Path]:
    """The files that travel with a model, by name: both graphs, the card, and the golden images with Keras's answers."""
    import json

    from dermanet.learning.model import answers, load
    from dermanet.pixels.preprocess import recipe
    from dermanet.serving import golden
    from dermanet.serving.network import CARD

    folder = onnx_file.parent
    (folder / CARD).write_text(json.dumps(card, indent=2))
    images, chosen = golden.draw(), recipe(recipe_text)
    golden.write(folder / golden.FILE, images, chosen, answers(load(keras_file), golden.prepared(images, chosen)))
    return {"model.keras": keras_file, "model.onnx": onnx_file, CARD: folder / CARD, golden.FILE: folder / golden.FILE}


def _package() -> Path:
    return Path(__file__).parent


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in SCORER_REQUIREMENTS]


def _discard(folder: Path) -> None:
    """The files of a finished training; its model and figures are in MLflow by now."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
