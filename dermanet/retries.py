"""How the tasks of the DAGs are tried again: soon at first, then ever less often, and not at all where they would say the same."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

WRONG: list[type[BaseException] | str] = [
    "dermanet.errors.BadInput", "dermanet.errors.GateRefused", "dermanet.errors.DataRefused", "dermanet.errors.StoreFault",
]  # fmt: skip
"""What stays as it is however often it is tried; by name, since a DAG file imports nothing that it does not need to be parsed."""

AGAIN: dict[str, Any] = {
    "retries": 5,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=4),
    "retry_policy": ExceptionRetryPolicy([RetryRule(WRONG, RetryAction.FAIL, reason="it would say the same again")]),
}
"""For `default_args`. Airflow waits once to twice each time: 15 to 30 s, then 30 to 60, …: a killed process is soon made good, and a
service that is away for seven minutes is waited for without a click."""
