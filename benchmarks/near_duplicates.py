"""What near-duplicates look like to `dermanet.intake.likeness`: copies against other images, and the pairs in whole sets.

    python -m benchmarks.near_duplicates [FOLDER…]     each a source as for `dermanet ingest`, or images.npz with labels.csv

Without a folder, synthetic images. One JSON line a set: its pairs of near-duplicates, how many of them cross lesions, and the
processor time that finding them takes an image. Of images of 256 pixels or more also one line a kind of copy: how many copies are
found again.
"""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dermanet.errors import UnreadableImage
from dermanet.imagefile import decode
from dermanet.intake.likeness import ALIKE, SAME, Gallery, Grey, matches
from dermanet.intake.look import THUMBNAIL, look
from dermanet.intake.sources import open_source
from dermanet.records import Row

COPIED = 200
"""Images of which copies are made."""

SMALLEST = 256
"""Pixels: copies of smaller images say nothing about photographs."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Seen:
    """One image: its name, its lesion, its hash and its thumbnail."""

    name: str
    lesion: str
    phash: str
    thumbnail: Grey


def seen(name: str, lesion: str, pixels: Pixels) -> Seen:
    """Looks at an image."""
    found = look(np.ascontiguousarray(pixels))
    return Seen(name, lesion, found.phash, np.frombuffer(found.thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL))


def images_of(folder: Path) -> Iterator[tuple[str, str, Pixels]]:
    """Name, lesion and pixels of every image of a set."""
    if (folder / "images.npz").exists():
        with (folder / "labels.csv").open(newline="") as file:
            for row, pixels in zip(csv.DictReader(file), np.load(folder / "images.npz")["images"], strict=True):
                yield row["image_id"], row["lesion_id"], pixels
        return
    source = open_source(str(folder))
    for found in source.rows():
        if isinstance(found, Row) and found.image:
            try:
                yield found.image_id, found.lesion_id, decode(source.read(found.image))
            except UnreadableImage:
                continue


def resized(pixels: Pixels, factor: float) -> Pixels:
    """The image enlarged or reduced."""
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=way), np.uint8)


def encoded(pixels: Pixels, quality: int) -> Pixels:
    """The image as JPEG of a quality."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")
    return np.asarray(simplejpeg.decode_jpeg(data), np.uint8)


def cropped(pixels: Pixels, top: float, right: float, bottom: float, left: float) -> Pixels:
    """The image without these parts of its sides."""
    height, width = pixels.shape[:2]
    rows = slice(round(height * top), height - round(height * bottom))
    return pixels[rows, round(width * left) : width - round(width * right)]


def brighter(pixels: Pixels, factor: float) -> Pixels:
    """The image with every level multiplied."""
    return np.asarray(np.clip(pixels * factor, 0, 255), np.uint8)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG quality 50": lambda image: encoded(image, 50),
    "JPEG quality 75": lambda image: encoded(image, 75),
    "half the size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "10 % brighter": lambda image: brighter(image, 1.1),
    "10 % darker": lambda image: brighter(image, 0.9),
    "2 % cropped off each side": lambda image: cropped(image, 0.02, 0.02, 0.02, 0.02),
    "5 % cropped off each side": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "5 % cropped off two sides": lambda image: cropped(image, 0, 0.05, 0.05, 0),
    "10 % cropped off two sides": lambda image: cropped(image, 0, 0.1, 0.1, 0),
    "the middle square": lambda image: cropped(image, 0, 0.125, 0, 0.125),
    "mirrored": lambda image: image[:, ::-1],
    "a quarter turn": lambda image: np.rot90(image),
    "a half turn": lambda image: np.rot90(image, 2),
    "mirrored, 2 % cropped, brighter, quality 75": lambda image: encoded(
        brighter(cropped(image[:, ::-1], 0.02, 0.02, 0.02, 0.02), 1.08), 75
    ),
}  # fmt: skip


def likest(one: Seen, others: Gallery, by_name: dict[str, Seen]) -> list[tuple[float, str]]:
    """Whom an image looks like, with how much."""
    candidates = list(others.near(one.phash, one.thumbnail))
    thumbnails = {candidate.digest: by_name[candidate.digest].thumbnail for candidate in candidates}
    return [(match.likeness, match.digest) for match in matches(one.thumbnail, thumbnails, candidates)]


def pairs(images: Sequence[Seen]) -> dict[str, object]:
    """The near-duplicates among the images, each compared with those before it, as at an ingest."""
    gallery, by_name = Gallery(), {one.name: one for one in images}
    found: list[tuple[float, str, str]] = []
    start = time.process_time()
    for one in images:
        found += [(alike, one.name, other) for alike, other in likest(one, gallery, by_name)]
        gallery.add({one.name: one.phash})
    seconds = time.process_time() - start
    crossing = [(alike, one, other) for alike, one, other in found if by_name[one].lesion != by_name[other].lesion]
    return {
        "images": len(images), "pairs_alike": len(found), "of_two_lesions": len(crossing),
        "pairs_same": sum(alike >= SAME for alike, *_ in found),
        "same_of_two_lesions": sum(alike >= SAME for alike, *_ in crossing),
        "crossing": [[round(alike, 3), one, other] for alike, one, other in sorted(crossing, reverse=True)],
        "milliseconds_an_image": round(seconds / len(images) * 1000, 2),
    }  # fmt: skip


def found_again(originals: Sequence[tuple[Seen, Pixels]], change: Callable[[Pixels], Pixels]) -> dict[str, float]:
    """The shares of copies that are alike, and the same, by the limits of `likeness`."""
    best = []
    for original, pixels in originals:
        gallery = Gallery()
        gallery.add({original.name: original.phash})
        alike = likest(seen("copy", "", change(pixels)), gallery, {original.name: original})
        best.append(max((found for found, _ in alike), default=0.0))
    return {
        "alike": round(float(np.mean(np.array(best) >= ALIKE)), 3),
        "same": round(float(np.mean(np.array(best) >= SAME)), 3),
    }


def main() -> None:
    """Prints a line a set and a line a kind of copy."""
    for folder in map(Path, sys.argv[1:] or ["synthetic:lesions=300"]):
        looked: list[Seen] = []
        whole: list[tuple[Seen, Pixels]] = []
        for number, (name, lesion, pixels) in enumerate(images_of(folder)):
            looked.append(seen(name, lesion, pixels))
            if min(pixels.shape[:2]) >= SMALLEST and number % 5 == 0 and len(whole) < COPIED:
                whole.append((looked[-1], pixels))
        print(json.dumps({"set": folder.name, **pairs(looked)}), flush=True)
        for what, change in COPIES.items() if whole else ():
            print(json.dumps({"copies": what, "of": len(whole), **found_again(whole, change)}), flush=True)


if __name__ == "__main__":
    main()
