"""What was forgotten while a stage was at work with it, and would come too late for whoever forgets.

Who forgets writes tombstones first and takes everything away after. So a stage that keeps anything of images looks at the tombstones
once more after it has kept it: whichever of the two comes last, nothing stays.
"""

from collections.abc import Collection
from pathlib import Path

from dermanet.settings import Settings


def forgotten_among(here: Settings, digests: Collection[str]) -> set[str]:
    """Those of some images that are forgotten by now."""
    from dermanet.intake.catalogue import Catalogue

    return set(digests) & Catalogue(here.catalogue).forgotten()


def lose_rows(here: Settings, root: Path, digests: Collection[str]) -> set[str]:
    """Takes those of some images that are forgotten by now from a cache of prepared pixels or features. Returns their digests."""
    from dermanet.pixels import removal

    gone = forgotten_among(here, digests)
    if gone:
        removal.remove(root, gone)
    return gone
