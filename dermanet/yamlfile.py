"""YAML files that people write: a key that stands twice is refused, where YAML itself lets the last one win in silence."""

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet.errors import BadInput

if TYPE_CHECKING:
    from yaml import MappingNode, SafeLoader


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


def lines(path: Path) -> dict[Any, int]:
    """In which line, from 1, each key of the outermost mapping of a file stands that `load` has read."""
    import yaml

    loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
    node = loader.get_single_node()
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {loader.construct_object(key): key.start_mark.line + 1 for key, _ in pairs}


class _Repeated(Exception):
    """A key that stands twice in one mapping."""


def _refuse_repeated(loader: "SafeLoader", node: "MappingNode") -> None:
    first: dict[Hashable, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            return  # The loader's own to refuse.
        if key in first:
            raise _Repeated(f"line {line}: {key!r} stands in line {first[key]} already")
        first[key] = line
