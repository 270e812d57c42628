"""Backbones by name: what turns prepared pixels into a vector of features.

plain                            the reference network, trained from nothing
efficientnet-lite0               also lite1 and lite2, with ImageNet weights from their packages
MobileNetV2, EfficientNetB0, …   any name of keras.applications; its weights are downloaded at the first use
efficientnet-lite0@224           fed 224 pixels, whatever the side of the prepared image
efficientnet-lite0@224x1.5       fed the middle of the image, magnified 1.5 times
efficientnet-lite0@224/textures  how its patterns go together beside how much of each there is
A+B                              both, their features side by side
"""

import re
from dataclasses import dataclass

from dermanet.errors import BadInput
from dermanet.learning import lite

PLAIN = "plain"

PATTERN = re.compile(
    r"(?P<name>[A-Za-z][\w-]*?)(?:@(?P<side>\d{2,4})(?:x(?P<zoom>\d(?:\.\d+)?))?)?(?P<textures>/textures)?"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One network among those whose features stand side by side."""

    name: str
    side: int = 0
    """Pixels it is fed along each side; 0: those of the prepared image."""
    zoom: float = 1.0
    """How many times the middle of the image is magnified; 1: the whole image."""
    textures: bool = False
    """Whether a sketch of how the channels of its maps vary together stands among its features."""

    def __str__(self) -> str:
        zoom = f"x{self.zoom:g}" if self.zoom != 1 else ""
        return self.name + (f"@{self.side}{zoom}" if self.side else "") + ("/textures" if self.textures else "")

    @property
    def layer(self) -> str:
        """What the network is called inside a model that holds it: no slash, no space."""
        return re.sub(r"[^\w.-]", "_", str(self))


def parts(text: str) -> tuple[Part, ...]:
    """The networks of a backbone's name. Raises BadInput for a name there is not, or a side or zoom out of range."""
    found = tuple(_part(one) for one in text.split("+"))
    if len(set(found)) < len(found):
        raise BadInput(f"backbone {text!r}; each of its parts is allowed once")
    return found


def _part(text: str) -> Part:
    found = PATTERN.fullmatch(text)
    name = found["name"] if found else ""
    if not found or not (name == PLAIN or name in lite.VARIANTS or _is_application(name)):
        raise BadInput(
            f"backbone {text!r}; allowed are {', '.join((PLAIN, *lite.VARIANTS))} and the names of "
            "keras.applications, as MobileNetV2, each with @SIDE or @SIDExZOOM, joined by +"
        )
    if found["textures"] and name not in lite.VARIANTS:
        raise BadInput(
            f"backbone {text!r}; /textures is allowed for {', '.join(lite.VARIANTS)}, whose stages are known"
        )
    part = Part(name, int(found["side"] or 0), float(found["zoom"] or 1), bool(found["textures"]))
    if (part.side and not 32 <= part.side <= 1024) or not 1 <= part.zoom <= 4:
        raise BadInput(f"backbone {text!r}; allowed are 32 to 1024 pixels and a zoom of 1 to 4")
    return part


def _is_application(name: str) -> bool:
    # Only these have to be asked for of Keras, whose start costs more than the features of hundreds of images.
    from dermanet.learning.ready_made import networks

    return name in networks()
