"""Further versions of an installation's model, made from its first without a training: the same network, years older, or broken."""

import json
import shutil
from pathlib import Path

import mlflow
import onnx
from installation import Installation
from onnx import helper

from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving.follow import Following


def registry(installation: Installation) -> Versions:
    """The versions of an installation."""
    return Versions(Tracking(installation.tracking_uri, installation.home / "mlartifacts").client, "dermanet")


def champion(installation: Installation, folder: Path) -> Following:
    """Serves an installation's champion, which it has looked for once; `folder`: for versions."""
    found = Following(registry(installation), CHAMPION, 3600, folder)
    found.look()
    assert found.served
    return found


def older(installation: Installation, folder: Path, years: float = 10.0, spoilt: str = "") -> str:
    """Registers a version that answers ages `years` higher, and returns its number.

    `spoilt`: what is wrong with it: `graph`, `fingerprint`, `golden`, `gone`; nothing where it is empty.
    """
    versions = registry(installation)
    source = Path(mlflow.artifacts.download_artifacts("models:/dermanet/1"))
    shutil.copytree(source, folder)
    files = folder / "artifacts"
    if spoilt == "graph":
        (files / "model.onnx").write_bytes((files / "model.onnx").read_bytes()[:1000])
    else:
        _add_years(files / "model.onnx", years)
    if spoilt != "golden":
        golden = json.loads((files / "golden.json").read_text())
        golden["age"] = [age + years for age in golden["age"]]
        (files / "golden.json").write_text(json.dumps(golden))
    if spoilt == "fingerprint":
        card = json.loads((files / "card.json").read_text())
        (files / "card.json").write_text(json.dumps({**card, "fingerprint": "0" * 16}))
    version = str(versions.client.create_model_version("dermanet", folder.as_uri()).version)
    if spoilt == "gone":
        shutil.rmtree(folder)
    return version


def _add_years(path: Path, years: float) -> None:
    model = onnx.load(path)
    age = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["younger" if name == age else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("years", onnx.TensorProto.FLOAT, [1], [years]))
    model.graph.node.append(helper.make_node("Add", ["younger", "years"], [age]))
    onnx.save(model, path)
