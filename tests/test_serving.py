"""Serving: the application in process, MLflow's own commands as processes."""

import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
from fastapi.testclient import TestClient
from installation import Installation, photo

from dermanet import stages
from dermanet.errors import DermaNetError
from dermanet.registry.tracking import Tracking, model_files
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving import app, golden
from dermanet.serving.follow import Following
from dermanet.serving.network import CARD, load
from dermanet.serving.reader import COLUMNS

HERE = "http://127.0.0.1"


def _following(installation: Installation) -> Following:
    tracking = Tracking(installation.tracking_uri, installation.home / "mlartifacts")
    return Following(Versions(tracking.client, "dermanet"), CHAMPION, 0.1, installation.home / "served")


@pytest.fixture
def client(installation: Installation) -> Iterator[TestClient]:
    following = _following(installation)
    following.look()
    with TestClient(app.build(following), base_url=HERE) as made:
        yield made


def _cell(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _ask(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["predictions"])


def test_every_payload_form_gets_the_same_row(client: TestClient, tmp_path: Path) -> None:
    cell = _cell(photo(tmp_path))
    forms: list[dict[str, Any]] = [
        {"dataframe_split": {"columns": ["image"], "data": [[cell]]}},
        {"dataframe_records": [{"image": cell}]},
        {"inputs": {"image": [cell]}},
        {"instances": [{"image": cell}]},
        {"inputs": [[cell]]},
        {"dataframe_records": [{"image": f"data:image/jpeg;base64,{cell}"}]},
        {"dataframe_records": [{"image": f"data:application/octet-stream;name=x;base64,{cell}"}]},
        {"dataframe_records": [{"image": base64.encodebytes(base64.b64decode(cell)).decode().replace("\n", "\r\n")}]},
        {"dataframe_records": [{"image": cell.translate(str.maketrans("+/", "-_")).rstrip("=")}]},
    ]
    rows = [_ask(client, form) for form in forms]
    assert all(row == rows[0] for row in rows)
    (row,) = rows[0]
    assert set(row) == set(COLUMNS)
    assert sum(row["sex_probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert row["error"] is None


def test_the_signature_states_every_column(trained: Installation) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    signature = mlflow.models.get_model_info("models:/dermanet/1").signature
    assert signature.inputs.input_names() == ["image"]
    assert set(signature.outputs.input_names()) == set(COLUMNS)


def test_a_bad_image_among_good_ones_gets_its_reason(client: TestClient, tmp_path: Path) -> None:
    good = _cell(photo(tmp_path))
    cells = [good, "%%%", base64.b64encode(b"GIF89a").decode(), good[: len(good) // 2 // 4 * 4], ""]
    rows = _ask(client, {"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in cells]}})
    reasons = [(row["error"] or "fine").split(":")[0] for row in rows]
    assert reasons == ["fine", "not base64", "not an image", "truncated", "empty file"]
    assert rows[1]["age"] is None


def test_a_request_without_the_column_is_the_client_s_fault(client: TestClient) -> None:
    assert client.post("/invocations", json={"dataframe_records": [{"picture": "x"}]}).status_code == 400


def test_before_the_first_champion_it_waits_and_says_so(installation: Installation) -> None:
    following = _following(installation)
    following.versions.client.delete_registered_model_alias("dermanet", CHAMPION)
    following.look()
    with TestClient(app.build(following), base_url=HERE) as client:
        assert [client.get(path).status_code for path in ("/ping", "/health", "/ready")] == [200, 200, 503]
        answer = client.post("/invocations", json={"dataframe_records": [{"image": "x"}]})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        following.versions.move(CHAMPION, "1")
        following.look()
        assert client.get("/ready").status_code == 200


def test_promotion_and_rollback_are_followed(installation: Installation, client: TestClient) -> None:
    following = _following(installation)
    following.look()
    second = stages.retrain([], "smoke:epochs=1,seed=5")["version"]
    following.look()
    assert following.served is not None
    assert following.served.version == second
    stages.roll_back()
    following.look()
    assert following.served.version == "1"


def test_a_version_that_does_not_load_leaves_the_old_one_serving(installation: Installation, tmp_path: Path) -> None:
    following = _following(installation)
    following.look()
    broken = following.versions.client.create_model_version("dermanet", (tmp_path / "nothing").as_uri())
    following.versions.client.set_registered_model_alias("dermanet", CHAMPION, broken.version)
    following.look()
    assert following.served is not None
    assert following.served.version == "1"
    assert following.trouble is not None
    assert f"version {broken.version} does not load" in following.trouble


def test_a_registry_that_is_down_leaves_the_old_one_serving(installation: Installation) -> None:
    following = _following(installation)
    following.look()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        following.versions = Versions(mlflow.MlflowClient(nobody), "dermanet")
        following.look()
    assert following.served is not None
    assert following.trouble


def test_a_model_whose_pixels_this_code_does_not_make_is_refused(trained: Installation, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    files = model_files("models:/dermanet/1")
    card = json.loads((files / CARD).read_text())
    for change in (
        {"fingerprint": "0" * 16},
        {"recipe": {**card["recipe"], "revision": 99}},
        {"sexes": ["female", "male", "unknown"]},
    ):
        (tmp_path / CARD).write_text(json.dumps({**card, **change}))
        with pytest.raises(DermaNetError):
            load(files / "model.onnx", tmp_path / CARD)


def test_golden_images_find_a_swapped_channel(trained: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    files = model_files("models:/dermanet/1")
    network = load(files / "model.onnx", files / CARD)
    assert golden.check(files / golden.FILE, network) <= 1
    whole = golden.prepared
    monkeypatch.setattr(
        golden, "prepared", lambda images, recipe: np.ascontiguousarray(whole(images, recipe)[..., ::-1])
    )
    with pytest.raises(DermaNetError, match="golden images"):
        golden.check(files / golden.FILE, network)


def test_golden_images_are_drawn_the_same_every_time() -> None:
    assert golden.draw() == golden.draw()


def test_mlflow_models_predict_answers_from_a_file(trained: Installation, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"dataframe_split": {"columns": ["image"], "data": [[_cell(photo(tmp_path))]]}}))
    command = ["models", "predict", "-m", "models:/dermanet@champion", "-i", str(request), "--env-manager", "local"]
    environment = {**trained.environment(), "MLFLOW_TRACKING_URI": trained.tracking_uri}
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (row,) = json.loads(done.stdout.strip().splitlines()[-1])["predictions"]
    assert set(row) == set(COLUMNS)
    assert "tensorflow" not in done.stderr.lower()


def test_mlflow_models_serve_answers_over_http(trained: Installation, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        "models",
        "serve",
        "-m",
        "models:/dermanet@champion",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    environment = {**trained.environment(), "MLFLOW_TRACKING_URI": trained.tracking_uri}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(f"{address}/ping", process)
            answer = requests.post(
                f"{address}/invocations", json={"inputs": {"image": [_cell(photo(tmp_path))]}}, timeout=30
            )
        finally:
            process.terminate()
            process.wait(30)
    assert set(answer.json()["predictions"][0]) == set(COLUMNS)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {url}")
