"""Registry: runs and versions in MLflow."""
