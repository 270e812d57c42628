"""Registry: runs and versions in MLflow."""

import os

# A bar for every file that MLflow fetches would bury what is said to people, and stand in every task's log.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
