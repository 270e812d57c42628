"""Runs every benchmark in a process of its own; each prints one JSON line."""

import subprocess
import sys

BENCHMARKS = (
    "synthetic", "pixels", "ingest", "training", "training --probe", "evaluation", "promotion", "serving", "predict", "workers",
)  # fmt: skip
"""Each with its options."""


def main() -> None:
    """Runs them in turn; ends with the status of the first that failed."""
    for words in BENCHMARKS:
        subprocess.run([sys.executable, "-m", *f"benchmarks.{words}".split()], check=True)


if __name__ == "__main__":
    main()
