"""The pictures of the synthetic source: skin drawn as it is seen, by absorption.

Maps of melanin, haemoglobin, deep (blue) melanin and keratin are weighted with the colour each one takes away, and light is
what is left. Age shows in yellowing, mottling and furrows; sex in redness and hair. They are cues of this simulation alone and
say nothing about people.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""One map over the canvas or over a periodic tile: (rows, columns), float32."""

TILE = 256
TRUTH, SHAPE = 0, 9  # the streams of a lesion beside its views 1..4; a view's own stream bears its number
# What each substance takes from red, green and blue, as optical density per unit; the last row is the lamp itself.
ABSORPTION = ((0.45, 0.85, 1.20), (0.10, 1.05, 0.70), (1.25, 0.85, 0.45), (0.08, 0.25, 0.95), (1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Sight:
    """What the pictures of lesion `number` show: age in years 2..85, sex, diagnosis; and at which clinic they were taken."""

    number: int
    age: float
    sex: str
    diagnosis: str
    clinic: str


@lru_cache(maxsize=4)
def _tiles(seed: int) -> dict[str, Field]:
    """Periodic textures of TILE x TILE: clouds and cells at several scales."""
    rng = np.random.default_rng((seed, 0, TRUTH))
    tiles = {"cloud": _cloud(rng, 2, 12), "patch": _cloud(rng, 3, 6), "speck": _cloud(rng, 12, 40)}
    for name, count in (("net", 44), ("furrow", 24), ("globule", 22), ("lacuna", 12)):
        near, gap, chance = _cells(rng, count)
        tiles |= {f"{name}_near": near, f"{name}_gap": gap, f"{name}_chance": chance}
    return tiles


@lru_cache(maxsize=4)
def _grain(seed: int) -> NDArray[np.uint8]:
    """The sensor's noise over its black level, in grey levels, with room to cut a canvas of 600 x 1200 anywhere."""
    noise = np.random.default_rng((seed, 0, SHAPE)).normal(8, 2.2, (1400, 1400, 3))
    return np.clip(noise, 0, 16).astype(np.uint8)


def _cloud(rng: np.random.Generator, low: float, high: float) -> Field:
    """Noise of `low` to `high` waves per tile, mean 0 and variance 1."""
    fy, fx = np.fft.fftfreq(TILE, 1 / TILE)[:, None], np.fft.rfftfreq(TILE, 1 / TILE)[None]
    waves = np.hypot(fy, fx)
    shape = np.exp(-((waves / high) ** 2)) * (1 - np.exp(-((waves / low) ** 4))) / np.maximum(waves, 1)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * shape, s=(TILE, TILE))
    return np.asarray(noise / noise.std(), np.float32)


def _cells(rng: np.random.Generator, count: int) -> tuple[Field, Field, Field]:
    """A crazed pavement of `count` x `count` cells: distance to seed and to border (in cells), a chance per cell."""
    jitter, chance = rng.uniform(0.15, 0.85, (count, count, 2)), rng.random((count, count))
    y, x = np.mgrid[:TILE, :TILE] * (count / TILE)
    # Straight-sided cells look like tiles on a floor; bending the plane under them makes them look grown.
    y, x = (axis + 0.13 * _cloud(rng, count / 4, count) + 0.3 * _cloud(rng, 2, 6) for axis in (y, x))
    found = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            at = jitter[row % count, column % count]
            found.append((np.hypot(row + at[..., 1] - y, column + at[..., 0] - x), chance[row % count, column % count]))
    distances, chances = (np.stack(part) for part in zip(*found, strict=True))
    nearest = distances.argmin(0)[None]
    first, second = np.partition(distances, 1, axis=0)[:2]
    own = np.take_along_axis(chances, nearest, 0)[0]
    return first.astype(np.float32), (second - first).astype(np.float32), own.astype(np.float32)


def _step(values: Field, low: float, high: float) -> Field:
    """A soft threshold: 0 below `low`, 1 above `high`."""
    t = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


@dataclass
class _Skin:
    """The maps of one picture at half resolution. Lengths are in half its shorter side, the lesion at the origin."""

    tiles: dict[str, Field]
    frame: NDArray[np.float64]  # 2 x 3: pixel to lesion
    shape: tuple[int, int]
    rng: np.random.Generator  # the lesion's own stream: every view draws the same lesion
    melanin: Field = field(init=False)
    blood: Field = field(init=False)
    deep: Field = field(init=False)
    keratin: Field = field(init=False)
    white: Field = field(init=False)

    def __post_init__(self) -> None:
        self.melanin, self.blood, self.deep, self.keratin, self.white = np.zeros((5, *self.shape), np.float32)

    def texture(self, *names: str, per_unit: float) -> list[Field]:
        """Tiles laid over the picture in the lesion's frame at one random offset, `per_unit` tile pixels to a unit."""
        import cv2

        matrix = self.frame * per_unit
        matrix[:, 2] += self.rng.uniform(0, TILE, 2)
        flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, self.shape[::-1]
        laid = (cv2.warpAffine(self.tiles[n], matrix, size, flags=flags, borderMode=cv2.BORDER_WRAP) for n in names)
        return [np.asarray(tile, np.float32) for tile in laid]

    def depth(self, radius: float, wobble: float, fray: float) -> Field:
        """How far inside the lesion a pixel lies: 1 at the centre, 0 on the border, negative outside."""
        import cv2

        (a, b, c), (d, e, f) = self.frame
        x, y = np.arange(self.shape[1]), np.arange(self.shape[0])[:, None]
        stretch = self.rng.uniform(1.0, 1.35)
        u, v = np.float32(stretch) * (a * x + b * y + c).astype(np.float32), (d * x + e * y + f).astype(np.float32)
        distance, angle = cv2.cartToPolar(u, v)
        turn = np.linspace(0, 2 * np.pi, 513)
        order = np.arange(2, 9)[:, None]
        waves = np.cos(order * turn + self.rng.uniform(0, 6.3, (7, 1))) * self.rng.normal(0, 1, (7, 1)) / order
        border = (1 / (radius * np.exp(wobble * waves.sum(0)))).astype(np.float32)
        (cloud,) = self.texture("cloud", per_unit=60)
        return np.asarray(1 - distance * border[(angle * np.float32(512 / 2 / np.pi)).astype(np.int32)] + fray * cloud)

    def strokes(self, paths: list[NDArray[np.float64]], widths: list[int], soften: float) -> Field:
        """Lines through points in the lesion's frame, as coverage 0..1."""
        import cv2

        layer = np.zeros(self.shape, np.uint8)
        inverse = np.linalg.inv(self.frame[:, :2])
        for path, width in zip(paths, widths, strict=True):
            points = ((path - self.frame[:, 2]) @ inverse.T * 16).astype(np.int32)
            cv2.polylines(layer, [points], False, 255, width, cv2.LINE_AA, 4)
        return np.asarray(cv2.GaussianBlur(layer, (0, 0), soften) * np.float32(1 / 255))


def _akiec(skin: _Skin) -> None:
    """Pink-red, a strawberry's pale follicles, white scale in plates, rosettes."""
    depth = skin.depth(skin.rng.uniform(0.5, 0.75), 0.25, 0.14)
    inside = _step(depth, -0.1, 0.5)
    near, gap = skin.texture("globule_near", "globule_gap", per_unit=130)
    plates, cloud, speck = skin.texture("patch", "cloud", "speck", per_unit=110)
    scale = _step(plates + 0.7 * speck, 0.5, 2.2) * inside
    skin.blood += inside * (0.45 + 0.35 * (1 - _step(gap, 0.0, 0.7)) + 0.14 * cloud)
    skin.keratin += 0.3 * scale + 0.08 * inside
    skin.melanin += 0.4 * inside * _step(-plates + 0.4 * speck, 0.6, 2.0)
    skin.white += 0.62 * scale + 0.16 * inside * (1 - _step(near, 0.05, 0.4))
    spots = skin.rng.normal(0, 0.16, (5, 2))
    dots = [spot + 0.016 * np.array(corner) for spot in spots for corner in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    skin.white += 0.8 * skin.strokes([np.array([dot, dot]) for dot in dots], [2] * len(dots), 0.7)


def _bcc(skin: _Skin) -> None:
    """Pink and shiny, arborising vessels, blue-grey ovoid nests."""
    depth = skin.depth(skin.rng.uniform(0.48, 0.72), 0.25, 0.10)
    inside = _step(depth, -0.1, 0.45)
    near, chance = skin.texture("lacuna_near", "lacuna_chance", per_unit=skin.rng.uniform(110, 170))
    sheen, speck = skin.texture("cloud", "speck", per_unit=90)
    skin.blood += 0.24 * inside
    skin.white += inside * (0.2 + 0.2 * _step(sheen + 0.5 * speck, 0.2, 1.8))
    # A cell's chance decides whether it holds a nest, and how large and how dark that nest is.
    nests = np.clip(chance * 3 - 1.6, 0, 1) * (1 - _step(near + 0.05 * speck, 0.12, 0.5)) * _step(depth, 0.0, 0.3)
    skin.deep += 1.5 * nests
    skin.white *= 1 - 0.7 * nests
    skin.blood += 1.5 * _vessels(skin) * _step(depth, -0.3, 0.1)


def _vessels(skin: _Skin) -> Field:
    """Arborising vessels: stems that fork into thinner and thinner branches, as coverage 0..1."""
    paths, widths = [], []
    for _ in range(int(skin.rng.integers(4, 7))):
        heading, start = skin.rng.uniform(0, 2 * np.pi), skin.rng.normal(0, 0.28, 2)
        for width, length, spread in ((2, 0.065, 0.0), (1, 0.045, 0.8), (1, 0.045, -0.8), (1, 0.03, 1.5)):
            headings = heading + spread + np.cumsum(skin.rng.normal(0, 0.35, 8))
            paths.append(start + length * np.cumsum(np.stack([np.cos(headings), np.sin(headings)], 1), 0))
            widths.append(width)
            start = paths[-1][3] if spread == 0 else start  # branches leave the stem half way along it
    return skin.strokes(paths, widths, 0.8)


def _bkl(skin: _Skin) -> None:
    """Yellowish brown, stuck on with a sharp border, fissured; milia-like cysts and comedo-like openings."""
    depth = skin.depth(skin.rng.uniform(0.42, 0.75), 0.2, 0.06)
    inside = _step(depth, 0.0, 0.08)
    ridges, cloud = skin.texture("speck", "cloud", per_unit=75)
    near, chance = skin.texture("globule_near", "globule_chance", per_unit=85)
    small = 1 - _step(near, 0.1, 0.42)
    dark = skin.rng.uniform(0.1, 0.6)
    fissures = 1 - _step(np.abs(ridges), 0.0, 0.45)
    skin.keratin += inside * (0.42 + 0.1 * cloud)
    skin.melanin += inside * (dark + 0.1 * cloud + 0.4 * fissures + 0.9 * small * np.clip(1 - 7 * chance, 0, 1))
    skin.white += 0.7 * inside * small * np.clip(chance * 8 - 6.8, 0, 1)


def _df(skin: _Skin) -> None:
    """A central white patch, a pinkish brown rim, a faint peripheral network."""
    depth = skin.depth(skin.rng.uniform(0.55, 0.8), 0.1, 0.05)
    inside = _step(depth, -0.05, 0.5)
    (gap,) = skin.texture("net_gap", per_unit=90)
    streak, cloud = skin.texture("speck", "cloud", per_unit=60)
    centre = _step(depth + 0.06 * streak + 0.05 * cloud, 0.35, 0.85)
    skin.melanin += (inside - 0.85 * centre) * (0.3 + 0.05 * cloud + 0.3 * (1 - _step(gap, 0.0, 0.5)))
    skin.blood += 0.22 * inside - 0.1 * centre
    skin.white += centre * (0.46 + 0.08 * streak)


def _mel(skin: _Skin) -> None:
    """Dark, asymmetric, ragged, in several colours, with a blue-white veil, regression and stray dots."""
    depth = skin.depth(skin.rng.uniform(0.5, 0.8), 0.36, 0.12)
    inside = _step(depth, 0.0, 0.16)
    browns, cloud, near = skin.texture("patch", "cloud", "globule_near", per_unit=75)
    veils, speck = skin.texture("patch", "speck", per_unit=60)
    (gap,) = skin.texture("net_gap", per_unit=95)
    veil = _step(veils + 0.25 * speck, 0.0, 1.6) * _step(depth, 0.05, 0.4)
    scar = _step(-veils + 0.3 * speck, 0.8, 2.2) * inside
    brown = 0.75 + 0.9 * _step(browns + 0.4 * cloud, -0.8, 1.4) + 0.4 * (1 - _step(gap, 0.0, 0.5)) + 0.12 * speck
    skin.melanin += inside * brown * (1 - 0.35 * veil - 0.7 * scar)
    skin.melanin += 0.7 * (1 - _step(near, 0.08, 0.35)) * _step(depth, -0.12, -0.02)
    skin.deep += 0.9 * veil
    skin.blood += inside * (0.15 + 0.5 * _step(-browns, 0.2, 1.5))
    skin.white += 0.3 * veil + 0.25 * scar


def _nv(skin: _Skin) -> None:
    """Brown, regular, a pigment network that fades at a soft border."""
    depth = skin.depth(skin.rng.uniform(0.32, 0.66), 0.10, 0.06)
    inside = _step(depth, -0.05, skin.rng.uniform(0.2, 0.55))
    (gap,) = skin.texture("net_gap", per_unit=skin.rng.uniform(70, 100))
    (cloud,) = skin.texture("cloud", per_unit=60)
    brown, network, core = skin.rng.uniform(0.35, 0.95), skin.rng.uniform(0.2, 0.5), skin.rng.uniform(0.0, 0.8)
    skin.melanin += inside * (brown + 0.08 * cloud + core * depth + network * (1 - _step(gap, 0.0, 0.5)))
    skin.blood += 0.12 * inside


def _vasc(skin: _Skin) -> None:
    """Red to purple lacunae with pale septa, sharply bordered."""
    depth = skin.depth(skin.rng.uniform(0.32, 0.58), 0.15, 0.08)
    inside = _step(depth, -0.04, 0.14)
    near, chance = skin.texture("lacuna_near", "lacuna_chance", per_unit=skin.rng.uniform(80, 130))
    (cloud,) = skin.texture("cloud", per_unit=60)
    lacunae = 1 - _step(near, 0.3, 0.75)
    purple = skin.rng.uniform(0.0, 1.0)
    skin.blood += inside * (0.85 + 0.65 * lacunae + 0.12 * cloud)
    skin.deep += inside * purple * (0.12 + lacunae * (0.2 + chance))
    skin.white += 0.1 * inside * (1 - lacunae)


DRAW: dict[str, Callable[[_Skin], None]] = {
    "akiec": _akiec, "bcc": _bcc, "bkl": _bkl, "df": _df, "mel": _mel, "nv": _nv, "vasc": _vasc,
}  # fmt: skip


def render(seed: int, sight: Sight, view: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture of one view as RGB uint8 (height, width, 3) for `size` (width, height)."""
    import cv2

    rng = np.random.default_rng((seed, sight.number, view))
    width, height = 600, 2 * round(300 * size[1] / size[0])
    half = (height // 2, 300)
    angle, unit = rng.uniform(0, 2 * np.pi), 2 / min(half) / rng.uniform(0.85, 1.2)
    turn = unit * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([150, half[0] / 2]) + rng.normal(0, 0.09, 2) * min(half)
    own = np.random.default_rng((seed, sight.number, SHAPE))
    skin = _Skin(_tiles(seed), np.column_stack([turn, -turn @ centre]), half, own)
    tone = _background(skin, sight)
    DRAW[sight.diagnosis](skin)
    _gel(skin, rng)
    lamp = _lamp(half, sight.clinic, rng)
    cast = rng.normal(0, 0.025, 3) * (1, 0.4, 1)
    matrix = np.column_stack([np.transpose(ABSORPTION), tone + cast]).astype(np.float32)
    maps = cv2.merge([skin.melanin, skin.blood, skin.deep, skin.keratin, lamp])
    light: Field = np.asarray(cv2.exp(cv2.transform(maps, -matrix)), np.float32)
    scattered = np.exp(-lamp)[..., None] * np.array((0.93, 0.88, 0.87), np.float32)
    light += np.clip(skin.white, 0, 0.9)[..., None] * (scattered - light)
    picture = cv2.resize(cv2.convertScaleAbs(light, alpha=255), (width, height), interpolation=cv2.INTER_CUBIC)
    picture = cv2.multiply(picture, _overlay(picture.shape, sight, rng), scale=1 / 255)
    return np.asarray(_expose(picture, _grain(seed), size, rng), np.uint8)


def _background(skin: _Skin, sight: Sight) -> NDArray[np.float64]:
    """Lays the skin's texture by age and sex and returns its even density (red, green, blue)."""
    old, rng = sight.age / 85, skin.rng
    (gap,) = skin.texture("furrow_gap", per_unit=60 + 60 * old)
    mottle, cloud = skin.texture("patch", "cloud", per_unit=150)
    (speck,) = skin.texture("speck", per_unit=60)
    furrows = 1 - _step(gap, 0.0, 0.4)
    spots = _step(mottle + 0.25 * speck, 2.5 - 1.9 * old, 3.9 - 1.9 * old) * (1 + 0.4 * cloud)
    skin.melanin += (0.01 + 0.13 * old) * furrows * (1 + 0.4 * cloud) + 0.6 * old * spots + 0.012 * speck
    red = rng.normal(0.31 if sight.sex == "male" else 0.08, 0.035)
    skin.blood += 0.03 * cloud
    # Skin tone darkens all three colours nearly alike: neither yellow (age) nor red (sex) can be mistaken for it.
    even = np.array((0.03, 0.12, 0.12)) + rng.beta(1.2, 2.0) * np.array((0.26, 0.32, 0.34))
    return np.asarray(even + red * np.array(ABSORPTION[1]) + (0.5 * old - 0.08) * np.array((0.02, 0.10, 0.85)))


def _gel(skin: _Skin, rng: np.random.Generator) -> None:
    """Bubbles of the immersion gel: bright rings, on one picture in four."""
    import cv2

    if rng.random() > 0.25:
        return
    layer = np.zeros(skin.shape, np.uint8)
    for _ in range(int(rng.integers(1, 7))):
        spot, radius = rng.uniform(0, 1, 2) * skin.shape[::-1], rng.uniform(2, 8)
        cv2.circle(layer, (int(spot[0]), int(spot[1])), int(radius), 120, 1, cv2.LINE_AA)
        cv2.circle(layer, (int(spot[0] - radius / 3), int(spot[1] - radius / 3)), 1, 220, -1, cv2.LINE_AA)
    skin.white += layer * np.float32(1 / 255)


def _lamp(shape: tuple[int, int], clinic: str, rng: np.random.Generator) -> Field:
    """Density of the light's falling off: a gradient, dark corners, and at one clinic often a round stop."""
    reach = np.array(shape) * (5 / 3 / np.hypot(*shape))  # the corners lie as far out in every format
    y = np.linspace(-reach[0], reach[0], shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-reach[1], reach[1], shape[1], dtype=np.float32)
    slope = rng.normal(0, 0.06, 2)
    fall = x * x + y * y
    lamp = np.float32(slope[0]) * x + np.float32(slope[1]) * y + np.float32(rng.uniform(0, 0.09)) * fall * fall
    if clinic == "clinic_c" and rng.random() < 0.5:
        edge = rng.uniform(1.7, 2.3)
        lamp += 3.5 * _step(fall, edge, edge * 1.12)
    return np.asarray(lamp + np.float32(rng.normal(0, 0.05)), np.float32)


def _overlay(shape: tuple[int, ...], sight: Sight, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What lies on the skin, as transmission: hairs, more and thicker on the male; at one clinic a ruler's ticks."""
    import cv2

    layer = np.full(shape, 255, np.uint8)
    male = sight.sex == "male"
    comb, dark = rng.uniform(0, 2 * np.pi), int(rng.integers(40, 110))
    for _ in range(int(rng.poisson(13 if male else 3) * rng.uniform(0.6, 1.4))):
        heading = comb + rng.normal(0, 0.5) + np.linspace(-0.5, 0.5, 9) * rng.normal(0, 1.2)
        steps = np.stack([np.cos(heading), np.sin(heading)], 1) * rng.uniform(12, 40)
        points = rng.uniform(0, 1, 2) * (shape[1], shape[0]) + np.cumsum(steps, 0)
        colour = (dark + 20, dark + 5, dark)
        thickness = int(rng.integers(2, 4)) if male else 1
        cv2.polylines(layer, [(points * 16).astype(np.int32)], False, colour, thickness, cv2.LINE_AA, 4)
    if sight.clinic == "clinic_b" and rng.random() < 0.3:
        for tick in range(14):
            x, y = shape[1] - 14 - 26 * tick, shape[0] - (22 if tick % 5 else 34)
            cv2.line(layer, (x, y), (x + 2, shape[0] - 6), (50, 50, 55), 2, cv2.LINE_AA)
    return np.asarray(cv2.blur(layer, (2, 2)), np.uint8)


def _expose(
    picture: NDArray[Any], grain: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator
) -> NDArray[Any]:
    """The camera's part: a little blur now and then, the sensor's grain, the wanted size."""
    import cv2

    if rng.random() < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.6, 1.2))
    height, width = picture.shape[:2]
    top, left = rng.integers(0, grain.shape[0] - height + 1), rng.integers(0, grain.shape[1] - width + 1)
    picture = cv2.add(picture, grain[top : top + height, left : left + width])
    if (width, height) == size:
        return picture
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if size[0] < width else cv2.INTER_CUBIC)
