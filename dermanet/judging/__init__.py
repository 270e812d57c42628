"""Judging: figures on the holdout, and the gates that turn them into a verdict."""
