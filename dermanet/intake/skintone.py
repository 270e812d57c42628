"""How light the skin around a lesion is: the individual typology angle, which slices of a holdout are made by.

Chardon, Cretois & Hourseau, "Skin colour typology and suntanning pathways", Int. J. Cosmet. Sci. 13 (1991). That a dermoscopic image
has skin at all to measure, and light that is what the camera took it for, is an assumption: the angle sorts images into bands, and
says nothing of one person (Kinyanjui et al., "Estimating skin tone and effects on classification performance", 2019).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 96
"""Pixels of the longer side at which skin is looked for: a median needs no more."""

DARKEST = 12.0
"""Lightness below which nothing is skin: the dark corners of a dermoscope, hair, the border of a picture."""

MIDDLE = 0.6
"""What lies within so much of the way from the centre to the edges is left to the lesion."""

FEWEST = 100
"""Pixels of skin below which there is no angle."""


def typology_angle(pixels: "NDArray[np.uint8]") -> float | None:
    """Degrees, -90 to 90, the greater the lighter, of RGB pixels, uint8 (height, width, 3); None where little skin is seen.

    Of the pixels around the middle that are not nearly black, the lighter group (Otsu, 1979) is taken for skin: its median lightness
    and yellowness make the angle. CIELAB with the white of sRGB.
    """
    import cv2
    import numpy as np

    scale = SIDE / max(pixels.shape[:2])
    if scale < 1:
        size = [max(2, round(side * scale)) for side in pixels.shape[1::-1]]
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    lightness, _, yellowness = cv2.split(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab))
    height, width = lightness.shape
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    around = (rows**2 + columns**2 > MIDDLE**2) & (lightness > DARKEST)
    if around.sum() < FEWEST:
        return None
    levels = np.clip(lightness[around] * 2.55, 0, 255).astype(np.uint8)
    bound, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    skin = around & (lightness * 2.55 >= bound)
    if skin.sum() < FEWEST:
        return None
    light, yellow = float(np.median(lightness[skin])), float(np.median(yellowness[skin]))
    return float(np.degrees(np.arctan2(light - 50.0, max(yellow, 1e-3))))
