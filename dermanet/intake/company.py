"""The images that an arriving one finds in the catalogue: which of them it looks like, found once and kept for ever.

An image is compared with all others in the transaction that takes it in, so that of every two images in the catalogue one has met
the other, however many ingests ran side by side and were killed. Synthetic images are drawn, each lesion anew, and keep no company.
"""

from collections.abc import Collection, Sequence

import numpy as np
import sqlalchemy as sa

from dermanet.intake.likeness import Gallery, Grey, Match, matches
from dermanet.intake.look import THUMBNAIL, Look
from dermanet.intake.schema import ALIKE, IMAGES, THUMBNAILS

SYNTHETIC = "synthetic:%"
"""What the names of synthetic sources are like, in SQL."""

SOME = 500
"""Digests in one query: SQLite takes no more than some thousand values."""


class Company:
    """What the catalogue holds as one transaction sees it. Read when first asked for: most transactions bring nothing new."""

    def __init__(self, connection: sa.Connection, source: str) -> None:
        self.connection = connection
        self.drawn = source.startswith(SYNTHETIC[:-1])
        self._gallery: Gallery | None = None

    def like(self, seen: Look) -> list[Match]:
        """The images that look like a newcomer, from `likeness.ALIKE` on, the most alike first."""
        if self.drawn:
            return []
        thumbnail = _grey(seen.thumbnail)
        candidates = list(self._others().near(seen.phash, thumbnail))
        others = _thumbnails(self.connection, [candidate.digest for candidate in candidates])
        found = matches(thumbnail, others, candidates)
        return sorted(found, key=lambda match: (-match.likeness, match.digest))

    def join(self, digest: str, seen: Look, met: Sequence[Match]) -> None:
        """Keeps an image's thumbnail and whom it looks like. Its row is there already."""
        if self.drawn:
            return
        self.connection.execute(sa.insert(THUMBNAILS).values(digest=digest, grey=seen.thumbnail))
        for match in met:
            one, other = sorted((digest, match.digest))
            self.connection.execute(sa.insert(ALIKE).values(one=one, other=other, likeness=match.likeness))
        self._others().add({digest: seen.phash})

    def _others(self) -> Gallery:
        if self._gallery is None:
            query = sa.select(IMAGES.c.digest, IMAGES.c.phash).join(THUMBNAILS, THUMBNAILS.c.digest == IMAGES.c.digest)
            self._gallery = Gallery()
            self._gallery.add({row.digest: row.phash for row in self.connection.execute(query)})
        return self._gallery


def forget_company(connection: sa.Connection, digests: Collection[str]) -> None:
    """Removes thumbnails and likenesses of images."""
    connection.execute(sa.delete(ALIKE).where(sa.or_(ALIKE.c.one.in_(digests), ALIKE.c.other.in_(digests))))
    connection.execute(sa.delete(THUMBNAILS).where(THUMBNAILS.c.digest.in_(digests)))


def _thumbnails(connection: sa.Connection, digests: Sequence[str]) -> dict[str, Grey]:
    found = {}
    for start in range(0, len(digests), SOME):
        query = sa.select(THUMBNAILS).where(THUMBNAILS.c.digest.in_(digests[start : start + SOME]))
        found.update({row.digest: _grey(row.grey) for row in connection.execute(query)})
    return found


def _grey(thumbnail: bytes) -> Grey:
    return np.frombuffer(thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL)
