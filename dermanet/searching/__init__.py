"""Searching: the space of experiments, and studies whose trials are kept by Optuna."""
