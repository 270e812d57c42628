"""The stages of the groups: what ties lesions together, and what a person decides where a group is torn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.lateness import forgotten_among
from dermanet.storage import Folder, place

if TYPE_CHECKING:
    from dermanet.intake.groups import Group
    from dermanet.intake.placing import Placement


def groups() -> dict[str, Any]:
    """The groups of more than one lesion, torn ones first: lesions with their sides, patients, and the images that tie them."""
    from dermanet.intake import placing
    from dermanet.intake.catalogue import Catalogue

    found = placing.survey(Catalogue(settings.read().catalogue))
    names = {record.digest: record.image_id for record in found.records}
    return {"torn": len(found.torn), "groups": [_told(group, names) for group in found.several]}


def part_images(image: str, other: str) -> dict[str, Any]:
    """Keeps in mind that two images only look alike, so that they tie their lesions no longer. Raises BadInput."""
    from dermanet.intake import placing
    from dermanet.intake.catalogue import Catalogue

    found = placing.part(Catalogue(settings.read().catalogue), (image, other))
    return {"parted": [record.image_id for record in found]}


def settle_group(lesion_id: str) -> dict[str, Any]:
    """Puts the whole group of a lesion into train, for ever. Raises BadInput where there is no such lesion."""
    from dermanet.intake import placing
    from dermanet.intake.catalogue import Catalogue

    group = placing.settle(Catalogue(settings.read().catalogue), lesion_id)
    return {"lesions": list(group.lesions), "side": "train"}


def group_sheet(lesion_id: str) -> dict[str, Any]:
    """Writes the contact sheet of a lesion's group and returns its path. Raises BadInput where there is no such lesion."""
    from dermanet.intake import placing
    from dermanet.intake.catalogue import Catalogue

    here = settings.read()
    found = placing.survey(Catalogue(here.catalogue))
    group = placing.group_of(found, lesion_id)
    return {"lesions": list(group.lesions), "sheet": str(write_sheet(here, group, found))}


def refuse_torn(here: Settings, found: "Placement") -> None:
    """Raises BadInput where a group is torn, in one line, with the contact sheet of each such group written."""
    if not found.torn:
        return
    paths = [str(write_sheet(here, group, found)) for group in found.torn]
    first = ", ".join(f"{lesion} ({side})" for lesion, side in found.torn[0].sides.items())
    more = f", and {len(paths) - 1} more groups" if len(paths) > 1 else ""
    raise BadInput(
        f"lesions that belong together lie on different sides: {first}{more}; look at {paths[0]}, then "
        f"`dermanet groups part IMAGE IMAGE` if they only look alike, or `dermanet groups settle LESION`"
    )


def write_sheet(here: Settings, group: "Group", found: "Placement") -> Path:
    """A group's contact sheet in the home, named by its first lesion. Raises BadInput where it shows what was forgotten meanwhile."""
    from dermanet.intake import sheets
    from dermanet.intake.stored import object_name

    objects, folder = place(here.objects), sheets_place(here)
    name = f"{group.lesions[0]}.png"
    sheet = sheets.draw(group, found.records, lambda digest: objects.read(object_name(digest)))
    folder.write(name, sheet)
    if forgotten_among(here, [record.digest for record in found.records if record.labels.lesion_id in group.lesions]):
        folder.remove(name)
        raise BadInput(f"an image of lesion {group.lesions[0]}'s group was forgotten meanwhile; run this again")
    return folder.root / name


def sheets_place(here: Settings) -> Folder:
    """Where contact sheets are kept."""
    return Folder(here.home / "sheets")


def forget_sheets(here: Settings) -> None:
    """Removes every contact sheet: any may show what was forgotten, and each is drawn again on demand."""
    folder = sheets_place(here)
    if folder.root.is_dir():
        for name in folder.listing():
            folder.remove(name)


def _told(group: "Group", names: dict[str, str]) -> dict[str, Any]:
    return {
        "torn": group.torn,
        "lesions": {lesion: group.sides.get(lesion) for lesion in group.lesions},
        "patients": list(group.patients),
        "alike": [[names[tie.one], names[tie.other], round(tie.likeness, 3)] for tie in group.ties],
        "moved": [[names[move.digest], move.before, group.sides[move.before]] for move in group.moves],
    }
