"""The images in a request that is a Parquet file, as MLflow's clients may send one: read so that it takes no more than it brings.

A file of 100 KB may stand for gigabytes: by a codec that packs a thousandfold, by one text of many rows, by columns of nothing. So
codecs are taken that cannot, rows and columns are counted before any is read, of the columns one is read, and of equal texts one.
"""

from collections.abc import Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

COLUMN = "image"
CODECS = ("UNCOMPRESSED", "SNAPPY")
"""Snappy is what pandas writes unless told otherwise; it packs at most some twentyfold."""


class Crowded(Exception):
    """More cells, or more text, than a request may have."""


class Unreadable(Exception):
    """No Parquet file with a column of texts `image`; the message says what it is instead."""


def images(body: bytes, most_cells: int, most_bytes: int) -> list[str]:
    """The text of each row's image. Raises Crowded beyond as many cells, or bytes of texts; and Unreadable."""
    try:
        about = pq.read_metadata(BytesIO(body))
        if about.num_rows * about.num_columns > most_cells:
            raise Crowded
        if COLUMN not in about.schema.names:
            raise Unreadable("it has no column `image` of texts")
        _require_codecs(about)
        # Equal texts are kept once: written once, too, they may be of every row.
        column = pq.read_table(BytesIO(body), columns=[COLUMN], read_dictionary=[COLUMN], use_threads=False)[COLUMN]
    except (pa.ArrowException, OSError, ValueError):
        raise Unreadable("it is no Parquet file, or a damaged one") from None
    found = [text for chunk in column.chunks for text in _texts(chunk)]
    if sum(map(len, found)) > most_bytes:
        raise Crowded
    return found


def _require_codecs(about: pq.FileMetaData) -> None:
    for group in range(about.num_row_groups):
        for column in range(about.row_group(group).num_columns):
            part = about.row_group(group).column(column)
            if part.path_in_schema == COLUMN and part.compression not in CODECS:
                raise Unreadable(
                    f"its images are packed by {part.compression.lower()}; write it with snappy, or without"
                )


def _texts(chunk: pa.Array) -> Sequence[str]:
    if not isinstance(chunk, pa.DictionaryArray) or not pa.types.is_string(chunk.type.value_type) or chunk.null_count:
        raise Unreadable("its column `image` is not of texts, one in each row")
    words = chunk.dictionary.to_pylist()
    return [words[place] for place in chunk.indices.to_pylist()]
