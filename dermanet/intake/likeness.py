"""Likeness: whether two images are one photograph, re-encoded, resized, brightened, slightly cropped, mirrored or turned.

Three steps, each for what the one before lets through:

1. The 64 lowest frequencies of the perceptual hashes, in all eight orientations: a few hundredths of all images pass.
2. All 256, against the newcomer as it would be if either image were a crop of the other: one in some ten thousand passes.
3. The pixels: the relief of the two thumbnails, fitted onto one another, is correlated. This alone decides.

A mirrored image has the same frequencies with other signs, so that its hash is the hash with some bits turned over. How well all this
does is measured by `benchmarks.near_duplicates`; docs/results.md has the figures.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from dermanet.intake.look import HASH_SIDE, THUMBNAIL

SAME = 0.80
"""From this likeness on: the same photograph, refused under another lesion."""

ALIKE = 0.70
"""From this likeness on: near-duplicates, whose lesions are one group."""

CORNER = 8
"""Step 1 compares 8 x 8 frequencies, which a crop changes least."""

FAR, FARTHER = 17, 68
"""Most bits that may differ: of the 64 of step 1, of the 256 of step 2."""

MARGINS = (0.0, 0.025, 0.05)
"""What a crop may have taken off either end, as parts of a side; besides, step 2 tries the middle square of a 4:3 image."""

SQUARE = (0.125, 0.125)

FINE, COARSE, GRAIN = 2.0, 6.0, 1.5
"""Of the relief: the pixels over which detail is taken, and evened out; the grey levels that count as noise."""

LEAST_AT_FIRST = 0.2
"""Relief that correlates less before it is fitted is not worth fitting."""

LEAST_OVERLAP, MOST_STRETCH = 0.6, 1.4
"""A fit that leaves less in common, or that stretches more, compares nothing."""

Bits = NDArray[np.bool_]
Words = NDArray[np.uint64]
Grey = NDArray[np.uint8]
Relief = NDArray[np.float32]
Crop = tuple[float, float]
"""Along one side: what another image has at a place is found in the newcomer at `scale * place + offset`, places being 0 to 1."""


@dataclass(frozen=True, slots=True)
class Match:
    """An image that looks like another: its digest, and how much, from `ALIKE` to 1."""

    digest: str
    likeness: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image whose hash is near a newcomer's: its digest, how the newcomer must be turned, and the fit to start from."""

    digest: str
    orientation: int
    start: NDArray[np.float32]


@dataclass(slots=True)
class Gallery:
    """The perceptual hashes of images, by digest, to find among them those that a newcomer may be like."""

    digests: list[str] = field(default_factory=list)
    _words: Words = field(default_factory=lambda: np.empty((64, 4), np.uint64))
    _corners: Words = field(default_factory=lambda: np.empty(64, np.uint64))

    @property
    def words(self) -> Words:
        """All bits of each hash: (images, 4)."""
        return self._words[: len(self.digests)]

    @property
    def corners(self) -> Words:
        """The bits of each hash that step 1 compares: (images,)."""
        return self._corners[: len(self.digests)]

    def add(self, hashes: Mapping[str, str]) -> None:
        """Takes images in: digest to hash, 64 hexadecimal digits."""
        if hashes:
            bits = _bits(list(hashes.values()))
            self._append(list(hashes), _words(bits), _words(_corner(bits))[:, 0])

    def extend(self, other: "Gallery") -> None:
        """Takes another gallery's images in."""
        self._append(other.digests, other.words, other.corners)

    def _append(self, digests: list[str], words: Words, corners: Words) -> None:
        known = len(self.digests)
        self._make_room(known + len(digests))
        self.digests += digests
        self.words[known:], self.corners[known:] = words, corners

    def _make_room(self, needed: int) -> None:
        if needed > len(self._words):
            # Twice as much at least, so that images which come one by one are not copied each time.
            more = max(needed, 2 * len(self._words)) - len(self._words)
            self._words = np.concatenate([self._words, np.empty((more, 4), np.uint64)])
            self._corners = np.concatenate([self._corners, np.empty(more, np.uint64)])

    def near(self, phash: str, thumbnail: Grey) -> Iterator[Candidate]:
        """The images that a newcomer may be like, nobody's pixels seen: steps 1 and 2."""
        turned = _words(_corner(_oriented(_bits([phash])[0])))
        apart = np.bitwise_count(turned ^ self.corners)
        found = np.flatnonzero(apart.min(0) <= FAR)
        if not len(found):
            return
        ways = apart[:, found].argmin(0)
        crops = _words(_hashes_of_crops(thumbnail))
        differ = _differing(crops, _turned_back(self.words[found], ways))
        fits = differ.argmin(0)
        for place in np.flatnonzero(differ.min(0) <= FARTHER):
            way = int(ways[place])
            yield Candidate(self.digests[found[place]], way, _start(_crops()[int(fits[place])], way))


def matches(newcomer: Grey, others: Mapping[str, Grey], candidates: Iterable[Candidate]) -> list[Match]:
    """The candidates that do look like the newcomer, by their thumbnails: step 3."""
    ours = _relief(newcomer)
    found = (Match(one.digest, _likeness(ours, _relief(others[one.digest]), one)) for one in candidates)
    return [match for match in found if match.likeness >= ALIKE]


def _likeness(ours: Relief, theirs: Relief, candidate: Candidate) -> float:
    """How far two reliefs show the same once they lie on one another: their correlation, from -1 to 1."""
    import cv2

    ours = _turned(ours, candidate.orientation)
    at_first = _correlation(ours, theirs, candidate.start)
    if at_first < LEAST_AT_FIRST:
        return at_first
    ending = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)
    try:
        fit = cv2.findTransformECC(theirs, ours, candidate.start.copy(), cv2.MOTION_AFFINE, ending, None, 5)[1]
    except cv2.error:  # It does not converge: there is nothing in common to converge to.
        return 0.0
    stretch = np.linalg.svd(fit[:, :2], compute_uv=False)
    return _correlation(ours, theirs, fit) if 1 / MOST_STRETCH < stretch[1] <= stretch[0] < MOST_STRETCH else 0.0


def _correlation(ours: Relief, theirs: Relief, fit: Relief) -> float:
    """Over the pixels that both have, ours laid on theirs by a fit. Relief is without a mean, so that none is taken off."""
    import cv2

    size, inverse = theirs.shape[::-1], cv2.WARP_INVERSE_MAP
    common = cv2.warpAffine(np.ones_like(ours), fit, size, flags=cv2.INTER_NEAREST | inverse)
    if common.mean() < LEAST_OVERLAP:
        return 0.0
    fitted = cv2.warpAffine(ours, fit, size, flags=cv2.INTER_LINEAR | inverse)
    theirs = theirs * common
    strength = np.vdot(fitted, fitted) * np.vdot(theirs, theirs)
    return float(np.vdot(fitted, theirs) / np.sqrt(strength)) if strength > 0 else 0.0


def _relief(thumbnail: Grey) -> Relief:
    """What stands out, as strong everywhere: neither light nor contrast matters, nor the dark spot that all lesions are."""
    import cv2

    grey = thumbnail.astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), FINE)
    strength = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), COARSE))
    return np.asarray(detail / (strength + GRAIN), np.float32)


def _turned(relief: Relief, orientation: int) -> Relief:
    """One of the eight: transposed from 4 on, then mirrored from left to right (odd) and upside down (2, 3, 6, 7)."""
    image = relief.T if orientation & 4 else relief
    return np.ascontiguousarray(image[:: -1 if orientation & 2 else 1, :: -1 if orientation & 1 else 1])


@cache
def _signs() -> Bits:
    """Which bits mirroring turns over: (8, 16, 16), in the order of `_turned`."""
    odd = np.arange(HASH_SIDE) % 2 == 1
    ways = [(odd & bool(way & 1)) ^ (odd[:, None] & bool(way & 2)) for way in range(8)]
    return np.stack(ways)


def _oriented(bits: Bits) -> Bits:
    """The hash (16, 16) of an image in all eight orientations: (8, 16, 16), in the order of `_turned`."""
    return np.stack([bits.T if way & 4 else bits for way in range(8)]) ^ _signs()


def _turned_back(words: Words, ways: NDArray[np.intp]) -> Words:
    """Hashes as they would be of images turned the other way round, each its own: what `_oriented` did, undone."""
    bits = np.unpackbits(words.view(np.uint8), axis=1).reshape(-1, HASH_SIDE, HASH_SIDE).astype(bool) ^ _signs()[ways]
    return _words(np.where((ways & 4 > 0)[:, None, None], bits.transpose(0, 2, 1), bits))


def _bits(hashes: list[str]) -> Bits:
    """Hashes as (count, 16, 16): rows are the frequencies downwards, columns those across."""
    data = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8)
    return np.unpackbits(data).reshape(-1, HASH_SIDE, HASH_SIDE).astype(bool)


def _corner(hashes: Bits) -> Bits:
    return hashes[..., :CORNER, :CORNER]


def _words(hashes: Bits) -> Words:
    """Hashes packed to words of 64 bits: (count, words)."""
    return np.packbits(hashes.reshape(len(hashes), -1), axis=1).view(np.uint64)


def _differing(some: Words, others: Words) -> NDArray[np.uint16]:
    """How many bits differ between each of some hashes and each of the others: (some, others)."""
    found = np.zeros((len(some), len(others)), np.uint16)
    for ours, theirs in zip(some.T, others.T, strict=True):
        found += np.bitwise_count(ours[:, None] ^ theirs)
    return found


@cache
def _crops() -> list[tuple[Crop, Crop]]:
    """The crops that step 2 tries, down and across: the newcomer is a part of the other image, or the other one of it."""
    edges = [*product(MARGINS, repeat=2)]
    cut = [*product(edges, repeat=2), (edges[0], SQUARE), (SQUARE, edges[0])]
    part = [(_part(*down), _part(*across)) for down, across in cut]
    return part + [(_whole(*down), _whole(*across)) for down, across in cut[1:]]


def _part(before: float, after: float) -> Crop:
    scale = 1 / (1 - before - after)
    return scale, -before * scale


def _whole(before: float, after: float) -> Crop:
    return 1 - before - after, before


@cache
def _sides() -> list[Crop]:
    return sorted({crop for pair in _crops() for crop in pair})


@cache
def _pairs() -> tuple[list[int], list[int]]:
    """Where `_sides` has the two of each of `_crops`."""
    number = {crop: place for place, crop in enumerate(_sides())}
    return [number[down] for down, _ in _crops()], [number[across] for _, across in _crops()]


@cache
def _frequencies() -> NDArray[np.float32]:
    """For each of `_sides` the matrix (16, 64) from a thumbnail's lines to the frequencies of the cropped one's."""
    place = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL
    waves = np.cos(np.pi * np.arange(HASH_SIDE)[:, None] * place)
    return np.stack([waves @ _resampling(scale * place + offset) for scale, offset in _sides()]).astype(np.float32)


def _resampling(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix that takes the lines at `places` (0 to 1) out of a thumbnail; beyond its edges it is mirrored."""
    at = np.abs(places * THUMBNAIL - 0.5)
    at = (THUMBNAIL - 1) - np.abs((THUMBNAIL - 1) - at)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(THUMBNAIL)))


def _hashes_of_crops(thumbnail: Grey) -> Bits:
    """The hashes of a thumbnail as each of `_crops`: (count, 16, 16)."""
    lines, (downs, acrosses) = _frequencies(), _pairs()
    # Many small products and not a large one: for that the library would wake its threads, and ingest uses every core already.
    down = lines @ thumbnail.astype(np.float32)
    return np.asarray(down[downs] @ lines.transpose(0, 2, 1)[acrosses] > 0)


def _start(crop: tuple[Crop, Crop], orientation: int) -> NDArray[np.float32]:
    """The fit that a crop stands for: from another thumbnail's pixels to the turned newcomer's."""
    down, across = crop[::-1] if orientation & 4 else crop
    down = _mirrored(down) if orientation & 2 else down
    across = _mirrored(across) if orientation & 1 else across
    places = [(scale, offset * THUMBNAIL + 0.5 * scale - 0.5) for scale, offset in (across, down)]
    return np.array([[places[0][0], 0, places[0][1]], [0, places[1][0], places[1][1]]], np.float32)


def _mirrored(crop: Crop) -> Crop:
    scale, offset = crop
    return scale, 1 - scale - offset
