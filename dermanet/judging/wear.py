"""How worn a holdout is: each verdict tells a little about its lesions, and who tries often enough passes by chance.

Of k models, the best one may seem sqrt(log(k) / 2n) better on n images than it is, by its choice alone (Hoeffding): .036 for
52 verdicts on 1,500 images. Blum and Hardt, 2015, say how much worse it is where models are tuned to the answers.
"""

from dermanet.judging.gates import HoldoutWear
from dermanet.judging.verdict import Check

REMEDY = "renew it: docs/gates.md, Holdout wear"


def wear(given: float, uses: int, limits: HoldoutWear, n: int) -> Check:
    """Whether a holdout may give one more verdict.

    `given`: in how many its lesions took part, on average; `uses`: how many of those were on this very holdout. `n`: its images.
    """
    told = f"its lesions have taken part in {given:.3g} verdicts on average, {uses} of them on this very holdout"
    if given >= limits.refuse_after:
        return _check("fail", given, limits.refuse_after, f"{told}; at most {limits.refuse_after}: {REMEDY}", n)
    if given >= limits.warn_after:
        reason = f"{told}; after {limits.refuse_after} nothing passes any more: {REMEDY}"
        return _check("warning", given, limits.refuse_after, reason, n)
    return _check("pass", given, limits.refuse_after, f"{told}; fewer than {limits.refuse_after}", n)


def _check(outcome: str, given: float, limit: int, reason: str, n: int) -> Check:
    return Check("holdout_wear", "integrity", given, limit, outcome, reason, n)  # type: ignore[arg-type]
