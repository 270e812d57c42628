"""The gate: figures and limits in, a verdict with every check out. A pure function; nothing is registered without its pass."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dermanet import yamlfile
from dermanet.errors import BadInput

Word = Literal["pass", "fail", "insufficient"]
KEYS = {"greater_is_better", "threshold", "baseline", "champion"}


@dataclass(frozen=True, slots=True)
class Limit:
    """What one metric must reach: by itself, against the trivial baseline, against the champion (changes in its own unit)."""

    metric: str
    greater_is_better: bool
    threshold: float | None = None
    baseline: float | None = None
    champion: float | None = None


@dataclass(frozen=True, slots=True)
class Gates:
    """The whole gates file: the support without which nothing is decided, and a limit a metric."""

    minimum_support: dict[str, int]
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verdict. `value` and `limit` are None where the figure is missing; `reason` is a sentence for people."""

    metric: str
    kind: Literal["support", "threshold", "baseline", "champion"]
    value: float | None
    limit: float | None
    outcome: Word
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word and every check behind it."""

    word: Word
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON, as it is kept beside the run."""
        return {"verdict": self.word, "checks": [asdict(check) for check in self.checks]}


def judge(
    gates: Gates, candidate: Mapping[str, float], baseline: Mapping[str, float], champion: Mapping[str, float] | None,
    support: Mapping[str, int],
) -> Verdict:  # fmt: skip
    """Judges a candidate's figures. `champion` None: there is none yet, and its checks are left out.

    Too small a holdout makes the verdict `insufficient` whatever the figures say; a missing figure is a failed check.
    """
    checks = [_support(name, least, support.get(name, 0)) for name, least in gates.minimum_support.items()]
    for limit in gates.limits:
        value = candidate.get(limit.metric)
        if limit.threshold is not None:
            checks.append(_check(limit, "threshold", value, limit.threshold, "the limit"))
        if limit.baseline is not None:
            checks.append(_relative(limit, "baseline", value, baseline.get(limit.metric), limit.baseline))
        if limit.champion is not None and champion is not None:
            checks.append(_relative(limit, "champion", value, champion.get(limit.metric), limit.champion))
    outcomes = {check.outcome for check in checks}
    word: Word = "insufficient" if "insufficient" in outcomes else "fail" if "fail" in outcomes else "pass"
    return Verdict(word, tuple(checks))


def _support(name: str, least: int, seen: int) -> Check:
    enough = seen >= least
    reason = f"the holdout has {seen} {name}; {'at least' if enough else 'nothing is decided below'} {least}"
    return Check(name, "support", seen, least, "pass" if enough else "insufficient", reason)


def _relative(
    limit: Limit, kind: Literal["baseline", "champion"], value: float | None, other: float | None, change: float
) -> Check:
    if other is None:
        return Check(limit.metric, kind, value, None, "fail", f"the {kind} has no {limit.metric} on this holdout")
    bound = other + change if limit.greater_is_better else other - change
    return _check(limit, kind, value, bound, f"the {kind}'s {other:.4g} and a change of {change:+g}")


def _check(
    limit: Limit, kind: Literal["threshold", "baseline", "champion"], value: float | None, bound: float, origin: str
) -> Check:
    word = "at least" if limit.greater_is_better else "at most"
    if value is None:
        return Check(limit.metric, kind, None, bound, "fail", f"{limit.metric} could not be computed on this holdout")
    passed = value >= bound if limit.greater_is_better else value <= bound
    return Check(
        limit.metric, kind, value, bound, "pass" if passed else "fail", f"{value:.4g}; {word} {bound:.4g} ({origin})"
    )


def load(path: Path) -> Gates:
    """Reads a gates file. Raises BadInput with the entry that is wrong and what is allowed there."""
    data = yamlfile.load(path, "gates", "DERMANET_GATES")
    if not isinstance(data, dict) or not isinstance(data.get("checks"), dict) or not data["checks"]:
        raise BadInput(f"gates {path}: needs `checks`, metric by metric; see docs/gates.md")
    strange = set(data) - {"minimum_support", "checks"}
    if strange:
        raise BadInput(f"gates {path}: unknown {sorted(map(str, strange))}; allowed are minimum_support and checks")
    limits = tuple(_limit(metric, entry, path) for metric, entry in data["checks"].items())
    return Gates(_least(data.get("minimum_support") or {}, path), limits)


def _least(entry: Any, path: Path) -> dict[str, int]:
    if not isinstance(entry, dict) or not all(type(value) is int and value >= 0 for value in entry.values()):
        raise BadInput(
            f"gates {path}: minimum_support is {entry!r}; needed are whole numbers by name, as in {{images: 100}}"
        )
    return entry


def _limit(metric: str, entry: Any, path: Path) -> Limit:
    if not isinstance(entry, dict) or not set(entry) <= KEYS or not isinstance(entry.get("greater_is_better"), bool):
        raise BadInput(
            f"gates {path}: {metric} is {entry!r}; greater_is_better (true or false) and any of {sorted(KEYS)} are allowed"
        )
    if set(entry) == {"greater_is_better"}:
        raise BadInput(f"gates {path}: {metric} has no limit; give threshold, baseline or champion")
    changes = {key: _change(metric, key, entry[key], path) for key in ("baseline", "champion") if key in entry}
    threshold = _number(f"{metric}.threshold", entry["threshold"], path) if "threshold" in entry else None
    return Limit(metric, entry["greater_is_better"], threshold, **changes)


def _change(metric: str, key: str, entry: Any, path: Path) -> float:
    if not isinstance(entry, dict) or set(entry) != {"min_absolute_change"}:
        raise BadInput(f"gates {path}: {metric}.{key} is {entry!r}; needed is {{min_absolute_change: NUMBER}}")
    return _number(f"{metric}.{key}.min_absolute_change", entry["min_absolute_change"], path)


def _number(name: str, value: Any, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"gates {path}: {name} is {value!r}; a finite number is needed")
    return float(value)
