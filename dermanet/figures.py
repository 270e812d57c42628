"""Which way a figure shall go: the one thing about figures that gates and searches must agree on."""

import re

LESS_IS_BETTER = re.compile(r"age_mae|.*_(ece|brier|log_loss)")
"""The names of figures that are better the smaller they are; all others are better the greater they are."""
