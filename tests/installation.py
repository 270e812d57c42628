"""A small real installation with a champion: made once a session, copied for whoever changes it."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from dermanet.intake.synthetic import SyntheticSource
from dermanet.stages.relocation import relocate

SOURCE = "synthetic:lesions=60,seed=3"
GATES = {
    "open": "checks:\n  age_mae: {greater_is_better: false, threshold: 100}\n",
    "shut": "checks:\n  age_mae: {greater_is_better: false, threshold: 0.001}\n",
}


@dataclass(frozen=True)
class Installation:
    """A home, and gates that let everything (`open`) or nothing (`shut`) pass."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def environment(self, gates: str = "open") -> dict[str, str]:
        """The variables of a process that works here."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DERMANET_", "MLFLOW_TRACKING"))
        }
        own = {"DERMANET_HOME": str(self.home), "DERMANET_GATES": str(self.gates(gates)), "TF_CPP_MIN_LOG_LEVEL": "3"}
        # As an activated environment has it: MLflow starts uvicorn by its name.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**kept, **own, "PATH": path}

    def gates(self, name: str) -> Path:
        """The gates file of that name."""
        path = self.root / f"{name}.yaml"
        path.write_text(GATES[name])
        return path

    def enter(self, patch: pytest.MonkeyPatch, gates: str = "open") -> None:
        """Makes this process work here."""
        for name in [name for name in os.environ if name.startswith(("DERMANET_", "MLFLOW_TRACKING"))]:
            patch.delenv(name)
        patch.setenv("DERMANET_HOME", str(self.home))
        patch.setenv("DERMANET_GATES", str(self.gates(gates)))
        # MLflow keeps in mind, for a whole process, where the files of a run lie; those of a copy lie elsewhere.
        _artifact_repos_cache.clear()

    def copy(self, root: Path) -> "Installation":
        """The same with everything of its own: databases, and what they say of where files lie."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        made = Installation(root)
        relocate(made.tracking_uri, str(self.home / "mlartifacts"), str(made.home / "mlartifacts"))
        return made


def photo(folder: Path, seed: int = 99) -> Path:
    """A drawn dermoscopic image as a file."""
    source = SyntheticSource(lesions=4, seed=seed)
    path = folder / "photo.jpg"
    path.write_bytes(source.read(str(next(iter(source.rows())).image)))
    return path
