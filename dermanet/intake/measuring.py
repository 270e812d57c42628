"""Measuring what images look like that were taken in before looks were kept: from the stored files, once."""

from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from dermanet.database.engine import writing
from dermanet.database.schema import IMAGES
from dermanet.errors import UnreadableImage
from dermanet.imagefile import decode
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.company import Company
from dermanet.intake.look import Look, look
from dermanet.intake.rows import kin, look_row, write
from dermanet.intake.stored import object_name
from dermanet.storage import Place

BATCH = 200
"""Images in one transaction: killed, it repeats at most these."""


def measure(catalogue: Catalogue, objects: Place) -> int:
    """Looks at every image that nobody has looked at and lets it meet the others; returns how many. May be killed and called again.

    An image whose file is gone stays as it is.
    """
    with catalogue.engine.connect() as connection:
        query = sa.select(IMAGES.c.digest).where(IMAGES.c.phash.is_(None)).order_by(IMAGES.c.digest)
        unseen = list(connection.scalars(query))
    done = 0
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(unseen), BATCH):
            batch = unseen[start : start + BATCH]
            seen = pool.map(lambda digest: _look(digest, objects), batch)
            done += _keep(catalogue, {digest: found for digest, found in zip(batch, seen, strict=True) if found})
    return done


def _look(digest: str, objects: Place) -> Look | None:
    try:
        return look(decode(objects.read(object_name(digest))))
    except (FileNotFoundError, UnreadableImage):
        return None


def _keep(catalogue: Catalogue, seen: dict[str, Look]) -> int:
    done = 0
    with writing(catalogue.engine) as connection:
        company = {drawn: Company(connection, "synthetic:" if drawn else "") for drawn in (True, False)}
        rows = connection.execute(sa.select(IMAGES).where(IMAGES.c.digest.in_(seen), IMAGES.c.phash.is_(None))).all()
        siblings = kin(connection, [row.digest for row in rows])
        for row in rows:
            found, ours = seen[row.digest], company[row.source.startswith("synthetic:")]
            connection.execute(sa.update(IMAGES).where(IMAGES.c.digest == row.digest).values(look_row(found)))
            ours.join(row.digest, found, ours.like(found.phash, found.thumbnail, siblings[row.digest]))
            done += 1
        for ours in company.values():
            write(connection, ours.rows)
    return done
