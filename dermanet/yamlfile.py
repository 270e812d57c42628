"""YAML files that people write: a key that stands twice is refused, where YAML itself lets the last one win in silence."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet.errors import BadInput

if TYPE_CHECKING:
    from yaml import MappingNode, SafeLoader

MERGE = "tag:yaml.org,2002:merge"
"""What YAML calls the key `<<`."""


def load(path: Path, what: str, setting: str) -> Any:
    """What a file says, as plain Python. `what` and the variable `setting`, which names the file, are for the message.

    Raises BadInput where the file cannot be read, is no YAML, or gives a key twice.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        """Safe, and strict about keys."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            _refuse_repeated(self, node)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Strict)  # A subclass of SafeLoader.
    except OSError as error:
        raise BadInput(f"{what} {path}: {error.strerror}; set {setting} to a readable file") from None
    except _Repeated as error:
        raise BadInput(f"{what} {path}: {error}; keep one of them") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{what} {path}: not YAML ({' '.join(str(error).split())})") from None


def lines(path: Path) -> dict[tuple[Any, ...], int]:
    """In which line, from 1, each key of a file stands that `load` has read: by the keys and places that lead to it."""
    import yaml

    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    found: dict[tuple[Any, ...], int] = {}

    def walk(node: yaml.Node | None, way: tuple[Any, ...], above: tuple[int, ...] = ()) -> None:
        if id(node) in above:
            return  # An alias of what it stands in.
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.tag != MERGE:
                    inside = (*way, loader.construct_object(key))
                    found[inside] = key.start_mark.line + 1
                    walk(value, inside, above)
        elif isinstance(node, yaml.SequenceNode):
            for place, value in enumerate(node.value):
                found[(*way, place)] = value.start_mark.line + 1
                walk(value, (*way, place), above)

    walk(loader.get_single_node(), ())
    return found


def line(lines: Mapping[tuple[Any, ...], int], way: tuple[Any, ...]) -> int:
    """The line of the innermost key on `way` that stands in the file."""
    return next((lines[way[:length]] for length in range(len(way), 0, -1) if way[:length] in lines), 1)


class _Repeated(Exception):
    """A key that stands twice in one mapping."""


def _refuse_repeated(loader: "SafeLoader", node: "MappingNode") -> None:
    first: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == MERGE:
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            return  # The loader's own to refuse.
        if key in first:
            raise _Repeated(f"line {line}: {key!r} stands in line {first[key]} already")
        first[key] = line
