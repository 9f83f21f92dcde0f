"""Where configurations differ, as plain data: setting by setting."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentopd.config.loading import LONG_FORMS
from agentopd.config.overrides import REPLACES_PARENT

UNREAD = ("title", "paper", "axes", "formula", "chosen", "needs", "notes")
"""Keys of ``objective`` that people read, and no run."""


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ: path, old, new."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, now, f"{path}.{place}")
    elif old != new:
        yield path, old, new


def deciding(plain: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plain configuration decides a run beside its seed: not where stages are cached, nor what is only read."""
    stages = {name: stage for name, stage in (plain.get("stages") or {}).items() if name != "cache"}
    objective = {name: part for name, part in (plain.get("objective") or {}).items() if name not in UNREAD}
    rest = {name: part for name, part in plain.items() if name != "seed"}
    return {**rest, "objective": objective, "stages": stages}


def apart(plain: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paths at which not all of these are equal, in the order of the first."""
    found: dict[str, None] = {}
    for one in plain[1:]:
        found |= {path: None for path, _, _ in differences(plain[0], one)}
    return [path for path in found if not any(path.startswith(f"{other}.") for other in found)]


def settings_of(paths: Sequence[str]) -> list[str]:
    """These paths as settings: with its ``kind`` (or ``id``) what belongs to a thing is chosen, so that it is one setting."""
    chosen = {whole(path) for path in paths}
    return sorted({min((one for one in chosen if within(path, [one])), key=len) for path in paths})


def whole(key: str) -> str:
    """What a key decides: all that belongs to the thing whose ``kind`` or ``id`` it is, else itself."""
    parent, _, last = key.rpartition(".")
    return parent if parent and last in REPLACES_PARENT else key


def long_form(key: str) -> str:
    """A key as a whole configuration has it: ``env.id`` is ``envs.0.id``, and ``method`` is ``objective``."""
    parts = tuple(key.split("."))
    if parts == ("method",):
        return "objective"
    for short, long in LONG_FORMS.items():
        if parts[: len(short)] == short:
            return ".".join(map(str, (*long, *parts[len(short) :])))
    return key


def within(path: str, roots: Sequence[str]) -> bool:
    """Whether a path is one of these, or lies under one."""
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def value_at(plain: Any, path: str) -> Any:
    """What stands at a path; ``None`` where nothing does."""
    for part in path.split("."):
        if isinstance(plain, list | tuple):
            plain = plain[int(part)] if part.isdigit() and int(part) < len(plain) else None
        else:
            plain = plain.get(part) if isinstance(plain, Mapping) else None
    return plain
