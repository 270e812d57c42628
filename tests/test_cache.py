"""Upkeep of the cache of prepared pixels, and a snapshot prepared in parts."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import samples

from dermanet import settings, stages
from dermanet.errors import BadInput
from dermanet.pixels import feature_rows, preprocess, removal, shards, upkeep
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe

SMALL = recipe("plain@32")
FILES = {f"{number:064x}": samples.jpeg(number) for number in range(12)}
NAMES = list(FILES)


@pytest.fixture
def root(home: Path) -> Path:
    return home / "prepared"


def filled(root: Path, names: list[str], chosen: preprocess.Recipe = SMALL) -> PreparedPixels:
    pixels = PreparedPixels(root, chosen)
    pixels.fill(names, FILES.__getitem__)
    return pixels


def test_the_cache_is_shown_by_recipe(root: Path) -> None:
    assert stages.cache()["recipes"] == []
    filled(root, NAMES[:5])
    filled(root, NAMES[3:])
    filled(root, NAMES[:2], recipe("grey@16"))
    held = {one["recipe"]: one for one in stages.cache()["recipes"]}
    assert {name: (one["images"], one["shards"], one["current"]) for name, one in held.items()} == {
        "plain@32": (12, 2, True), "grey@16": (2, 1, True),
    }  # fmt: skip
    assert held["plain@32"]["fingerprint"] == SMALL.fingerprint
    assert held["plain@32"]["bytes"] == sum(path.stat().st_size for path in (root / SMALL.fingerprint).iterdir())


def test_a_check_names_what_is_damaged_and_the_next_fill_makes_it_again(root: Path) -> None:
    filled(root, NAMES[:5])
    filled(root, NAMES)
    assert stages.check_cache() == {"damaged": []}
    first, second = sorted((root / SMALL.fingerprint).glob("*.npy"))
    data = bytearray(first.read_bytes())
    data[5000] ^= 255
    first.write_bytes(data)
    (named,) = stages.check_cache()["damaged"]
    assert named.startswith(str(first)) and second.exists() and not first.exists()
    assert stages.check_cache() == {"damaged": []}
    pixels = PreparedPixels(root, SMALL)
    assert pixels.fill(NAMES, FILES.__getitem__).computed in {5, 7}
    assert len(pixels.batch(NAMES)) == 12


@pytest.mark.parametrize("damage", ["", "junk", "[1]", '{"name": "plain", "size": 33}'])
def test_a_folder_that_no_longer_says_what_it_holds_is_named_and_mended_and_nothing_is_made_again(
    root: Path, damage: str
) -> None:
    filled(root, NAMES)
    about = root / SMALL.fingerprint / "recipe.json"
    whole = about.read_bytes()
    about.write_text(damage)
    assert not stages.cache()["recipes"][0]["current"]
    # What is whole JSON may well be another recipe's.
    assert stages.check_cache()["damaged"] == ([] if "size" in damage else [f"{about} cannot be read"])
    assert PreparedPixels(root, SMALL).fill(NAMES, FILES.__getitem__).computed == 0
    assert about.read_bytes() == whole and stages.check_cache() == {"damaged": []}
    assert stages.cache()["recipes"][0]["current"]


def test_the_cache_is_shown_while_files_come_and_go(root: Path) -> None:
    filled(root, NAMES)
    # As a file under way that was renamed after the folder was listed.
    (root / SMALL.fingerprint / ".gone").symlink_to("nowhere")
    assert stages.cache()["recipes"][0]["images"] == 12


@pytest.mark.parametrize("about", [{}, {"width": None}, {"width": "x"}])
def test_a_folder_of_features_that_lacks_its_width_is_of_other_code(about: dict[str, object]) -> None:
    assert feature_rows.rows({"revision": feature_rows.REVISION, "fingerprint": "f", **about}, "f") is None


def test_what_no_snapshot_needs_is_listed_first_and_removed_when_asked(root: Path) -> None:
    filled(root, NAMES[:5])
    filled(root, NAMES)
    kept, gone = upkeep.unneeded(root, {NAMES[7]}), upkeep.unneeded(root, {NAMES[1]})
    assert len(kept) == len(gone) == 1 and kept != gone and upkeep.unneeded(root, set(NAMES[4:6])) == []
    listed = stages.prune_cache()
    assert not listed["removed"] and len(listed["shards"]) == 2 and len(PreparedPixels(root, SMALL).batch(NAMES)) == 12
    done = stages.prune_cache(really=True)
    assert done == {**listed, "removed": True} and not list(root.iterdir())
    assert stages.prune_cache(really=True)["shards"] == []


def test_pixels_of_an_older_revision_go_and_strange_folders_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preprocess, "REVISION", 1)
        filled(root, NAMES)
    filled(root, NAMES)
    (root / "notes").mkdir()
    (root / "notes" / "x.json").write_text("{}")
    old = {one["recipe"]: one["current"] for one in stages.cache()["recipes"]}
    assert old == {"plain@32": True, "plain@32 of revision 1": False}
    going = upkeep.unneeded(root, set(NAMES))
    upkeep.remove(going)
    assert {path.name for path in root.iterdir()} == {SMALL.fingerprint, "notes"}
    assert PreparedPixels(root, SMALL).fill(NAMES, FILES.__getitem__).computed == 0


@pytest.mark.parametrize("by", ["forgetting", "pruning", "pruning all"])
def test_what_a_killed_run_left_goes_at_once_and_what_somebody_holds_stays(root: Path, home: Path, by: str) -> None:
    folder, features = filled(root, NAMES).shards.folder, home / "features" / ("f" * 16)
    (features / "graphs").mkdir(parents=True)
    left = [folder / ".dead", folder / "dead.npy", features / ".dead", features / "dead.npy"]
    for path in left:
        path.write_bytes(b"half")
    assert not set(upkeep.unneeded(root, NAMES, before=0.0)) and len(upkeep.unneeded(root, NAMES)) == 2
    with shards._Temporary(folder) as held:
        if by == "forgetting":
            for cache in (root, home / "features"):
                removal.remove(cache, [])
        else:
            listed = stages.prune_cache(everything=by == "pruning all")
            assert set(map(str, left)) <= set(listed["shards"]) and str(held.path) not in listed["shards"]
            assert stages.prune_cache(by == "pruning all", really=True)["bytes"] == listed["bytes"] >= 16
        assert held.path.exists() and not any(path.exists() for path in left)


def test_a_snapshot_is_prepared_in_parts_and_pruned_with_none_lost(
    home: Path, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.ingest(str(ham10000(count=11)))
    snapshot = stages.snapshot()["snapshot"]
    assert stages.preparation_parts(snapshot, "smoke") == [{"part": 0, "parts": 1}]
    monkeypatch.setattr("dermanet.stages.data.PIXELS_COST", 2)
    parts = stages.preparation_parts(snapshot, "smoke")
    assert parts == [{"part": 0, "parts": 2}, {"part": 1, "parts": 2}]
    monkeypatch.setattr("dermanet.pixels.shards.SHARD", 1)
    done = [stages.prepare_part(snapshot, "smoke", json.loads(json.dumps(part))) for part in parts]
    assert [one["images"] for one in done] == [one["computed"] for one in done] == [5, 6]
    assert stages.prepare(snapshot, "smoke")["reused"] == 11
    assert stages.preparation_parts(snapshot, "smoke") == [{"part": 0, "parts": 1}], (
        "an empty mapping would skip what follows"
    )
    assert stages.prune_cache(really=True)["shards"] == []
    assert len(stages.prune_cache(everything=True)["shards"]) == 11
    with pytest.raises(BadInput, match="no snapshot"):
        stages.preparation_parts("0" * 16, "smoke")


def test_a_damaged_shard_is_named_by_prepare(home: Path, ham10000: Callable[..., Path]) -> None:
    stages.ingest(str(ham10000(count=5)))
    snapshot = stages.snapshot()["snapshot"]
    assert stages.prepare(snapshot, "smoke")["damaged"] == []
    (shard,) = (settings.read().home / "prepared").rglob("*.npy")
    os.truncate(shard, 1000)
    again = stages.prepare(snapshot, "smoke")
    assert (again["computed"], len(again["damaged"])) == (5, 1) and str(shard) in again["damaged"][0]
    assert stages.prepare(snapshot, "smoke")["computed"] == 0
