"""What a promotion and a rollback cost: the stage by itself, and the command as a process with its imports.

python -m benchmarks.promotion
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dermanet import settings, stages
from dermanet.stages.rooms import tracking_of

TIMES = 7


def two_versions(home: Path) -> None:
    """A home of its own with two versions of a model that nobody will load."""
    os.environ |= {"DERMANET_HOME": str(home), "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    client = tracking_of(settings.read()).client
    client.create_registered_model("dermanet")
    for _ in range(2):
        client.create_model_version("dermanet", home.as_uri())


def stage_seconds() -> list[float]:
    """Of promotions and rollbacks in turn, in this process."""
    found = []
    for _ in range(TIMES):
        for move in (lambda: stages.promote("2"), stages.roll_back):
            start = time.perf_counter()
            move()
            found.append(time.perf_counter() - start)
    return found


def process_seconds(*words: str) -> float:
    """Of a command, from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Prints one JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        two_versions(Path(folder))
        stages.promote("1")
        stages.promote("2")
        stages.roll_back()
        alone = stage_seconds()
        commands = [process_seconds("dermanet", "promote", "2" if turn % 2 else "1") for turn in range(TIMES)]
        imports = [process_seconds("mlflow", "--version") for _ in range(TIMES)]
    told = {"stage": alone, "command": commands, "mlflow_version": imports}
    print(
        json.dumps(
            {"benchmark": "promotion", **{name: round(statistics.median(some), 3) for name, some in told.items()}}
        )
    )


if __name__ == "__main__":
    main()
