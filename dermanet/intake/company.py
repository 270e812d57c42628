"""The images that an arriving one finds in the catalogue: which of them it looks like, found once and kept for ever.

An image is compared with all others in the transaction that takes it in, so that of every two images in the catalogue one has met
the other, however many ingests ran side by side and were killed. Synthetic images are drawn, each lesion anew, and keep no company.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import sqlalchemy as sa

from dermanet.database.schema import ALIKE, FORGOTTEN, IMAGES, THUMBNAILS
from dermanet.intake.likeness import Gallery, Grey, Match, matches
from dermanet.intake.look import THUMBNAIL, Look
from dermanet.intake.rows import Rows

SYNTHETIC = "synthetic:%"
"""What the names of synthetic sources are like, in SQL."""

SOME = 500
"""Digests in one query: SQLite takes no more than some thousand values."""


@dataclass
class Memory:
    """The gallery that transactions hand on, and what it was made of: reading it anew each time would cost more than the comparing."""

    gallery: Gallery = field(default_factory=Gallery)
    made_of: tuple[int, int] = (0, 0)


class Company:
    """What the catalogue holds as one transaction sees it. Read when first asked for: most transactions bring nothing new.

    `rows`: the thumbnails and likenesses of those that joined, to be written once their images' rows are.
    """

    def __init__(self, connection: sa.Connection, source: str, memory: Memory | None = None) -> None:
        self.connection = connection
        self.drawn = source.startswith(SYNTHETIC[:-1])
        self.memory = memory or Memory()
        self.rows: Rows = {THUMBNAILS: [], ALIKE: []}
        self._joined: dict[str, Grey] = {}
        self._newcomers = Gallery()
        self._gallery: Gallery | None = None

    def like(self, phash: str, thumbnail: bytes, but: Collection[str] = ()) -> list[Match]:
        """The images that look like another, from `likeness.ALIKE` on, the most alike first; those in `but` are not looked at."""
        if self.drawn:
            return []
        grey = _grey(thumbnail)
        near = chain(self._others().near(phash, grey), self._newcomers.near(phash, grey))
        candidates = [found for found in near if found.digest not in but]
        strangers = [candidate.digest for candidate in candidates if candidate.digest not in self._joined]
        others = self._joined | _thumbnails(self.connection, strangers) if candidates else {}
        found = matches(grey, others, candidates)
        return sorted(found, key=lambda match: (-match.likeness, match.digest))

    def join(self, digest: str, seen: Look, met: Sequence[Match]) -> None:
        """Takes an image and whom it looks like among the rows to write, and lets those that come after it meet it."""
        if self.drawn:
            return
        self.rows[THUMBNAILS].append({"digest": digest, "grey": seen.thumbnail})
        self._tie(digest, met)
        self._joined[digest] = _grey(seen.thumbnail)
        self._newcomers.add({digest: seen.phash})

    def remember(self) -> None:
        """Hands on those who joined, once the transaction has been committed."""
        if self._gallery is not None:
            self.memory.gallery.extend(self._newcomers)
            images, forgotten = self.memory.made_of
            self.memory.made_of = (images + len(self._newcomers.digests), forgotten)

    def meet_again(self, digest: str, but: Collection[str]) -> None:
        """Lets an image that is there already meet those that it had no need to meet: its lesion has become another."""
        query = sa.select(IMAGES.c.phash, THUMBNAILS.c.grey).join(THUMBNAILS, THUMBNAILS.c.digest == IMAGES.c.digest)
        row = self.connection.execute(query.where(IMAGES.c.digest == digest)).first()
        if row:
            self._tie(digest, self.like(row.phash, row.grey, {digest, *but}))

    def _tie(self, digest: str, met: Sequence[Match]) -> None:
        for match in met:
            one, other = sorted((digest, match.digest))
            self.rows[ALIKE].append({"one": one, "other": other, "likeness": match.likeness})

    def _others(self) -> Gallery:
        if self._gallery is None:
            counts = (_count(self.connection, THUMBNAILS), _count(self.connection, FORGOTTEN))
            if counts != self.memory.made_of:
                # Others have written. Whoever removes an image leaves a tombstone, so that the two counts are never the same again.
                self.memory.gallery, self.memory.made_of = self._read(), counts
            self._gallery = self.memory.gallery
        return self._gallery

    def _read(self) -> Gallery:
        query = sa.select(IMAGES.c.digest, IMAGES.c.phash).join(THUMBNAILS, THUMBNAILS.c.digest == IMAGES.c.digest)
        gallery = Gallery()
        gallery.add({row.digest: row.phash for row in self.connection.execute(query)})
        return gallery


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


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
