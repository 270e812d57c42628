"""Something that nobody needs any more, and the kind of things that it is: how those are found, and how they go."""

from collections import deque
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import ClassVar

from dermanet.settings import Settings


@dataclass(frozen=True, slots=True)
class Leaving:
    """Something that nobody needs any more. `count`: how many files or rows it stands for; `why`: for people."""

    kind: str
    name: str
    bytes: int
    why: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Ages:
    """Moments in seconds since 1970: `now`; before `grace` something may go at all, before `unused` what nobody names, before `tasks`
    what Airflow keeps of tasks."""

    now: float
    grace: float
    unused: float
    tasks: float


Outcome = tuple[list[str], dict[str, str]]
"""The names of what was removed, and why some could not be."""


class Kind:
    """One kind of things, of one installation at one moment."""

    name: ClassVar[str]
    held: ClassVar[float] = 0.0
    """Seconds that a turn goes on for what waits to be removed; 0 where it keeps nobody out, and each is looked at by itself."""

    def __init__(self, here: Settings, ages: Ages) -> None:
        self.here, self.ages = here, ages

    def find(self) -> list[Leaving]:
        """What may go."""
        return [Leaving(self.name, name, size, self.why) for name, size in self.unneeded().items()]

    def remove(self, names: Collection[str]) -> Outcome:
        """Removes those that still may go. What cannot be removed holds up none of the others."""
        gone, wrong, waiting = [], {}, deque(names)
        while waiting:
            name = waiting.popleft()
            try:
                with self.turn():
                    # By eyes of its own: what was seen in the turn before may be so no more.
                    seen, end = type(self)(self.here, self.ages), monotonic() + self.held
                    gone += [name] if seen.drop(name) else []
                    while waiting and monotonic() < end:
                        name = waiting.popleft()
                        gone += [name] if seen.drop(name) else []
            except Exception as error:
                wrong[name] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return gone, wrong

    @property
    def why(self) -> str:
        """The reason, which things of a kind have in common."""
        raise NotImplementedError

    def unneeded(self) -> Mapping[str, int]:
        """The names of what may go, with bytes."""
        raise NotImplementedError

    def drop(self, name: str) -> bool:
        """Removes one, if it still may go; whether it was removed."""
        raise NotImplementedError

    def turn(self) -> AbstractContextManager[None]:
        """The turn in which nobody can come for any of them."""
        return nullcontext()

    def unused(self) -> str:
        """How long nobody has used it."""
        return f"unused for {self.here.keep_days} days"
