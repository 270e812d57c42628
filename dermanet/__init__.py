"""DermaNet: scheduled retraining and a model registry for dermoscopic images. For research use; not a medical device."""

__version__ = "0.1.0"
