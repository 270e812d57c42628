"""Contact sheets: the images of a group side by side, for a person to see whether they are of one lesion."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dermanet.contactsheet import fitted
from dermanet.errors import UnreadableImage
from dermanet.imagefile import decode_reduced
from dermanet.intake.groups import Group
from dermanet.records import Record

TILE, LINES, ACROSS = 240, 64, 4
"""Pixels of a picture's side and of the text below it; pictures in a row."""

MOST = 48
"""Pictures on one sheet, the most alike first: a patient may have hundreds."""

Pixels = NDArray[np.uint8]


def draw(group: Group, records: Sequence[Record], read: Callable[[str], bytes]) -> bytes:
    """A group's images as one PNG, each with its name, lesion, side and likeness; the same lines are in its `Description`.

    `records`: the catalogue's; `read`: the stored bytes of a digest. An image that is gone leaves its tile grey.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    shown = _shown(group, records)
    rows = -(-len(shown) // ACROSS)
    sheet = Image.new("RGB", (TILE * min(ACROSS, len(shown)), (TILE + LINES) * rows), "white")
    pen, texts = ImageDraw.Draw(sheet), []
    for place, record in enumerate(shown):
        left, top = place % ACROSS * TILE, place // ACROSS * (TILE + LINES)
        sheet.paste(Image.fromarray(_picture(record.digest, read)), (left, top))
        texts.append(_text(record, group))
        pen.multiline_text((left + 4, top + TILE + 2), texts[-1], fill="black", spacing=2)
    described, file = PngInfo(), io.BytesIO()
    described.add_text("Description", "\n\n".join(texts))
    sheet.save(file, "PNG", pnginfo=described)
    return file.getvalue()


def _shown(group: Group, records: Sequence[Record]) -> list[Record]:
    """The images that tie the lesions, those most alike side by side, then the others."""
    ours = {record.digest: record for record in records if record.labels.lesion_id in group.lesions}
    tied = [digest for tie in group.ties for digest in (tie.one, tie.other)]
    rest = sorted(ours, key=lambda digest: (ours[digest].labels.lesion_id, ours[digest].image_id))
    return [ours[digest] for digest in dict.fromkeys([*tied, *rest])][:MOST]


def _text(record: Record, group: Group) -> str:
    labels = record.labels
    lines = [record.image_id, f"lesion {labels.lesion_id}, {group.sides.get(labels.lesion_id, 'no side yet')}"]
    if labels.patient_id:
        lines.append(f"patient {labels.patient_id}")
    lines += [
        f"was of {move.before}, {group.sides[move.before]}" for move in group.moves if move.digest == record.digest
    ]
    found = max((tie.likeness for tie in group.ties if record.digest in (tie.one, tie.other)), default=None)
    if found is not None:
        lines.append(f"likeness {found:.2f}")
    return "\n".join(lines)


def _picture(digest: str, read: Callable[[str], bytes]) -> Pixels:
    tile = np.full((TILE, TILE, 3), 128, np.uint8)
    try:
        pixels = fitted(decode_reduced(read(digest), TILE)[0], TILE - 4)
    except (FileNotFoundError, UnreadableImage):
        return tile
    tile[: len(pixels), : pixels.shape[1]] = pixels
    return tile
