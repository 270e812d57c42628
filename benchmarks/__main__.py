"""Runs every benchmark in a process of its own; each prints one JSON line."""

import subprocess
import sys

BENCHMARKS = ("synthetic", "pixels", "ingest", "training", "evaluation", "promotion", "serving", "predict", "workers")


def main() -> None:
    """Runs them in turn; ends with the status of the first that failed."""
    for name in BENCHMARKS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)


if __name__ == "__main__":
    main()
