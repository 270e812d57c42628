"""Where a network looks: the map of a network of which that is known, and what /explain answers."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pytest
from fastapi.testclient import TestClient
from installation import Installation, photo
from numpy.typing import NDArray

from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions
from dermanet.serving import app, saliency
from dermanet.serving.follow import Following
from dermanet.serving.network import A_BYTE, Network, load

SIZE = 64


def _dark_corner() -> NDArray[np.uint8]:
    """Skin, and a lesion in the corner at the top left."""
    pixels = np.full((SIZE, SIZE, 3), (200, 160, 140), np.uint8)
    pixels[:16, :16] = 40
    return pixels


def _darkness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A network that looks at that corner only."""
    return 1 - images[:, :16, :16].mean(axis=(1, 2, 3)) / 255


@pytest.mark.parametrize("grid", [saliency.COARSE, saliency.FINE])
def test_heat_is_where_the_network_looks_and_nowhere_else(grid: int) -> None:
    found = saliency.occlude(_darkness, _dark_corner(), grid)
    assert found.heat.shape == (grid, grid)
    assert found.heat.max() == 1
    # A cover reaches a little over a sixth of the side beyond its middle.
    beyond = (np.arange(grid) + 0.5) / grid > 0.25 + saliency.REACH
    assert not found.heat[beyond].any()
    assert not found.heat[:, beyond].any()
    assert found.heat[(np.arange(grid) + 0.5) / grid < 0.25][:, 0].min() > 0.4
    assert 0.1 < found.fall < _darkness(_dark_corner()[None])[0]


def test_no_place_falls_between_two_covers() -> None:
    for grid in (saliency.COARSE, saliency.FINE):
        assert saliency._covers(112, grid)[:, 10:-10].max(axis=0).min() > 0.4


def test_a_network_that_looks_nowhere_has_no_heat() -> None:
    found = saliency.occlude(lambda images: np.full(len(images), 0.7), _dark_corner(), 6)
    assert not found.heat.any()
    assert found.fall == 0


def test_noise_is_not_drawn_in_full_colour() -> None:
    found = saliency.occlude(lambda images: 0.5 + 0.001 * _darkness(images), _dark_corner(), 6)
    assert found.heat.max() < 0.1


def test_what_makes_a_diagnosis_less_likely_has_no_heat() -> None:
    assert not saliency.occlude(lambda images: 1 - _darkness(images), _dark_corner(), 6).heat.any()


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_batches_and_threads_change_nothing(batch: int) -> None:
    sizes = []

    def counted(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        sizes.append(len(images))
        return _darkness(images)

    whole = saliency.occlude(_darkness, _dark_corner(), 6)
    with ThreadPoolExecutor(2) as pool:
        found = saliency.occlude(counted, _dark_corner(), 6, batch, pool.map)
    assert np.array_equal(whole.heat, found.heat)
    assert max(sizes) <= batch
    assert sum(sizes) == 1 + 36


def test_a_large_network_gets_a_coarse_map() -> None:
    assert saliency.fineness(2_600_000_000) == saliency.FINE
    assert saliency.fineness(4_000_000_001) == saliency.COARSE


def test_a_graph_tells_what_one_image_costs(trained: Installation, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    files = Path(mlflow.artifacts.download_artifacts("models:/dermanet/1")) / "artifacts"
    card = json.loads((files / "card.json").read_text())
    # `smoke`: five convolutions of 3x3 at 32 pixels and half as many each time, and little besides.
    convolutions = sum(
        (32 // 2**step) ** 2 * 9 * before * after
        for step, (before, after) in enumerate(pairwise((3, 16, 32, 64, 96, 128)))
    )
    assert convolutions < card["multiply_adds"] < 1.1 * convolutions
    assert load(files / "model.onnx", files / "card.json").multiply_adds == card["multiply_adds"]
    del card["multiply_adds"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    earlier = load(files / "model.onnx", tmp_path / "card.json")
    assert earlier.multiply_adds == A_BYTE * (files / "model.onnx").stat().st_size


def test_a_busy_machine_draws_the_same_map(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, whole = photo(tmp_path).read_bytes(), Network.answer

    def slowly(self: Network, pixels: NDArray[np.uint8]) -> Any:
        time.sleep(0.1)
        return whole(self, pixels)

    idle = _explain(client, data).json()
    monkeypatch.setattr(Network, "answer", slowly)
    assert _explain(client, data).json() == idle
    assert idle["grid"] == saliency.FINE


def test_the_overlay_is_clear_where_nothing_depends_on_a_place() -> None:
    heat = np.zeros((6, 6), np.float32)
    heat[0, 0] = 1
    picture = saliency.overlay(heat, SIZE)
    assert picture.shape == (SIZE, SIZE, 4)
    assert picture[0, 0, 3] == picture[..., 3].max() == round(255 * saliency.STRONGEST)
    assert not picture[SIZE // 2 :, SIZE // 2 :, 3].any()
    red, green, blue = map(int, picture[0, 0, :3])
    assert min(red, green) > 200 > 100 > blue, "most weight is yellow"


@pytest.fixture
def client(trained: Installation, tmp_path: Path) -> Iterator[TestClient]:
    tracking = Tracking(trained.tracking_uri, trained.home / "mlartifacts")
    following = Following(Versions(tracking.client, "dermanet"), CHAMPION, 0.1, tmp_path / "served")
    following.look()
    with TestClient(app.build(following), base_url="http://127.0.0.1") as made:
        yield made


def _pixels(uri: str) -> NDArray[np.uint8]:
    start, data = uri.split(",")
    assert start == "data:image/png;base64"
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def _explain(client: TestClient, *images: bytes) -> Any:
    return client.post("/explain", files=[("image", ("image", image)) for image in images])


def test_an_image_is_explained_as_it_is_answered(client: TestClient, tmp_path: Path) -> None:
    data = photo(tmp_path).read_bytes()
    answer = _explain(client, data)
    told, (row,) = answer.json(), client.post("/predict", files={"image": data}).json()["predictions"]
    seen, over = _pixels(told["seen"]), _pixels(told["saliency"])
    assert answer.status_code == 200
    assert told["error"] is None
    assert (told["version"], told["digest"]) == ("1", answer.headers["X-Model-Digest"])
    assert told["diagnosis"] == row["diagnosis"]
    assert told["probability"] == pytest.approx(row["diagnosis_probabilities"][row["diagnosis"]], abs=1e-5)
    assert 0 <= told["fall"] <= told["probability"]
    assert seen.shape[2] == 3
    assert over.shape == (*seen.shape[:2], 4)


def test_the_image_is_shown_as_the_network_sees_it(client: TestClient, tmp_path: Path) -> None:
    data = photo(tmp_path).read_bytes()
    seen = _pixels(_explain(client, data).json()["seen"])
    following: Following = client.app.user_middleware[0].kwargs["following"]  # type: ignore[attr-defined]
    assert following.served is not None
    assert np.array_equal(seen[..., ::-1], following.served.reader.prepared(data))


def test_a_bad_image_gets_the_reason_that_its_row_has(client: TestClient, tmp_path: Path) -> None:
    for bad in (b"GIF89a", b"", photo(tmp_path).read_bytes()[:2000]):
        explained, answered = _explain(client, bad), client.post("/predict", files={"image": bad})
        told, (row,) = explained.json(), answered.json()["predictions"]
        assert explained.status_code == answered.status_code == 422
        assert told["error"] == row["error"] is not None
        assert told["seen"] is told["saliency"] is None


def test_one_image_is_explained_at_a_time(client: TestClient, tmp_path: Path) -> None:
    data = photo(tmp_path).read_bytes()
    answer = _explain(client, data, data)
    assert (answer.status_code, answer.json()["message"].split(";")[0]) == (400, "2 images")


def test_a_request_without_an_image_says_what_to_send(client: TestClient) -> None:
    for wrong in ({"data": {"image": "text"}}, {"files": {"picture": b"x"}}, {"json": {}}):
        answer = client.post("/explain", **wrong)  # type: ignore[arg-type]
        assert answer.status_code == 400
        assert "multipart/form-data" in answer.json()["message"]


def test_the_state_names_the_malignant_diagnoses_and_the_largest_request(client: TestClient) -> None:
    told = client.get("/model").json()
    assert told["malignant"] == ["akiec", "bcc", "mel"]
    assert told["largest"] == 32 * 1024 * 1024
