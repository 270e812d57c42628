"""DermaNet: scheduled retraining and a model registry for dermoscopic images. For research use; not a medical device."""

import os

__version__ = "0.1.0"

# Libraries that report on their use to their makers, unless told not to before they are imported. A clinic's machine tells nobody.
for _silence in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_silence, "true")
