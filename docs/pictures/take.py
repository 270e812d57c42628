"""Takes the pictures that the documents show, of a `make run` that is up on synthetic images; real ones are never shown.

    python docs/pictures/take.py [--airflow http://127.0.0.1:8080] [--mlflow http://127.0.0.1:5000] [--scorer http://127.0.0.1:8000]

Needs a Chromium or Chrome, and `DERMANET_HOME` as that run has it. Each is a PNG of 256 colours beside this file.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from dermanet import settings, stages
from dermanet.embedded.airflow import Airflow
from dermanet.intake.synthetic import SyntheticSource

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests"))

from browser import browser  # noqa: E402

DESK, PHONE = {"width": 1400, "height": 880}, {"width": 390, "height": 1090}
PAGE = {"width": 1280, "height": 1290}
PASSWORDS = "airflow/passwords.json"


def main() -> None:
    """Takes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, port in (("airflow", 8080), ("mlflow", 5000), ("scorer", 8000)):
        parser.add_argument(f"--{name}", default=f"http://127.0.0.1:{port}")
    parser.add_argument("names", nargs="*", help="airflow, mlflow, report, page, page-phone; none: all of them")
    asked = parser.parse_args()
    pictures: dict[str, Callable[[Any], bytes]] = {
        "airflow": lambda running: graph(running, asked.airflow),
        "mlflow": lambda running: version(running, asked.mlflow),
        "report": report,
        "page": lambda running: answer(running, asked.scorer, PAGE, "light"),
        "page-phone": lambda running: answer(running, asked.scorer, PHONE, "dark"),
    }
    with browser() as running:
        for name in asked.names or pictures:
            keep(name, pictures[name](running))


def keep(name: str, png: bytes) -> None:
    """Writes a picture with 256 colours: a third of the bytes, and nobody sees it."""
    path = HERE / f"{name}.png"
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def graph(running: Any, address: str) -> bytes:
    """The tasks of the last run of retrain, one after another, and when each ran."""
    (user, password), *_ = json.loads((settings.read().home / PASSWORDS).read_text()).items()
    run = next(one for one in Airflow(address, user, password).runs("retrain") if one["state"] == "success")
    page = running.new_page(viewport={"width": 1400, "height": 720}, color_scheme="light")
    page.goto(f"{address}/auth/login")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/auth/login" not in url)
    page.goto(f"{address}/dags/retrain/runs/{run['dag_run_id']}")
    page.get_by_label("Show Gantt").click()
    page.get_by_text("promote_version").first.wait_for()
    page.wait_for_timeout(3000)
    return bytes(page.screenshot())


def version(running: Any, address: str) -> bytes:
    """The champion among MLflow's registered versions."""
    page = running.new_page(viewport=DESK, color_scheme="light")
    here = settings.read()
    page.goto(f"{address}/#/models/{here.model}/versions/{stages.champion()['version']}")
    page.get_by_text("champion").first.wait_for()
    page.wait_for_timeout(3000)
    for close in page.get_by_role("button", name="Close").all():
        close.click()
    page.wait_for_timeout(1000)
    return bytes(page.screenshot())


def report(running: Any) -> bytes:
    """The page of the champion's evaluation."""
    run = stages.champion()["run_id"]
    page = running.new_page(viewport=DESK, color_scheme="light")
    page.goto(Path(stages.evaluation_page(run)).as_uri())
    page.wait_for_timeout(1000)
    return bytes(page.screenshot())


def answer(running: Any, address: str, size: dict[str, int], scheme: str) -> bytes:
    """The scorer's page with several answers, that of which it is least sure on top."""
    phone = size is PHONE
    page = running.new_page(
        viewport=size, color_scheme=scheme, is_mobile=phone, has_touch=phone, device_scale_factor=1.5 if phone else 1
    )
    page.set_default_timeout(120_000)
    page.goto(address)
    source = SyntheticSource(lesions=40, seed=99)
    drawn = [source.read(str(row.image)) for row in list(source.rows())[:24]]
    rows = requests.post(f"{address}/predict", files=[("image", data) for data in drawn], timeout=120).json()[
        "predictions"
    ]
    sure = sorted(range(len(drawn)), key=lambda one: max(rows[one]["diagnosis_probabilities"].values()), reverse=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate([*sure[:3], sure[-1]]):
            photo = Path(folder) / f"lesion-{number + 1}.jpg"
            photo.write_bytes(drawn[one])
            page.set_input_files("#choose", str(photo))
            page.locator("#strip li").nth(number).wait_for(state="attached")
            page.locator("#busy").wait_for(state="hidden")
        # Bars are on their way to where they belong.
        page.wait_for_timeout(1000)
    return bytes(page.screenshot())


if __name__ == "__main__":
    main()
