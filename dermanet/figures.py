"""Which way a figure shall go: the one thing about figures that gates and searches must agree on."""

import re

LESS_IS_BETTER = re.compile(r"age_mae|.*_(ece|brier|log_loss)")
"""The names of figures that are better the smaller they are; all others are better the greater they are."""


def end(metric: str) -> float:
    """What a figure cannot be better than: 0 of what is better the smaller it is, 1 of all others, which are shares."""
    return 0.0 if LESS_IS_BETTER.fullmatch(metric) else 1.0
