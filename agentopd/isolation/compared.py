"""What comes back from an environment, held against what came back before: the first place at which the two differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Compared: TypeAlias = tuple[str, Any, Any]
"""What is compared: its name, as it is on record, as it is now."""

AROUND = 20
"""Characters of a text that are shown before the first that differs."""
SHOWN = 80
"""Characters of a value that are shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which an episode is not what it was."""

    turn: int | None
    """Counted from 0; ``None`` before the first action, and for the outcome."""
    field: str
    """A path, such as ``observations.0.content``."""
    recorded: str
    now: str

    def __str__(self) -> str:
        place = self.field if self.turn is None else f"turn {self.turn}, {self.field}"
        return f"{place}: recorded {self.recorded}, now {self.now}"


def first_difference(turn: int | None, compared: Iterable[Compared]) -> Difference | None:
    """The first of ``compared`` that differs, followed into lists and mappings; ``None`` where all are equal.

    A tuple equals a list of the same items, and ``nan`` equals ``nan``.
    """
    for name, recorded, now in compared:
        found = _apart(name, recorded, now)
        if found is not None:
            path, was, is_ = found
            return Difference(turn, path, *_shown(was, is_))
    return None


_ABSENT = object()


def _apart(path: str, a: Any, b: Any) -> Compared | None:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        pairs = [(str(key), a.get(key, _ABSENT), b.get(key, _ABSENT)) for key in dict.fromkeys([*a, *b])]
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        longest = range(max(len(a), len(b)))
        pairs = [(str(i), _at(a, i), _at(b, i)) for i in longest]
    else:
        same = a is b or (a is not _ABSENT and b is not _ABSENT and (a == b or (a != a and b != b)))
        return None if same else (path, a, b)
    return next((one for name, x, y in pairs if (one := _apart(f"{path}.{name}", x, y)) is not None), None)


def _at(items: Sequence[Any], place: int) -> Any:
    return items[place] if place < len(items) else _ABSENT


def _shown(a: Any, b: Any) -> tuple[str, str]:
    """Both values, shortened; of two texts the part in which they begin to differ."""
    if isinstance(a, str) and isinstance(b, str):
        common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        start = max(common - AROUND, 0)
        return _cut(a, start), _cut(b, start)
    return _brief(a), _brief(b)


def _cut(text: str, start: int) -> str:
    part = repr(text[start : start + SHOWN])
    return ("..." if start else "") + part + ("..." if len(text) > start + SHOWN else "")


def _brief(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
