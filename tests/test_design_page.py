"""``docs/design.md``: no room imports what the page does not let it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## Rooms")[2].partition("\n## ")[0]
BASE = set(re.findall(r"\w+", re.findall(r"^    (.*?) +import nothing of ours", TABLE, re.MULTILINE)[0]))
ROWS = [
    (set(re.findall(r"\w+", left)), [name.partition("/")[0] for name in right.split(", ")])
    for left, right in re.findall(r"^    (\S.*?) +<- (\S.*?)(?:  .*)?$", TABLE, re.MULTILINE)
]
ROOMS = BASE.union(*(left for left, _ in ROWS))


def reached(room: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """What a room may import: what its row names, and what that may; every room where the row says so in words."""
    for left, right in ROWS:
        if room in left:
            if not ROOMS.issuperset(right):
                return set(ROOMS)
            further = (reached(name, seen | left) for name in right if name not in seen)
            return BASE | left.union(right, *further)
    return set(BASE)


def imports(room: str) -> Iterator[tuple[str, str]]:
    """The files of a room, each with the other rooms that it imports."""
    folder = ROOT / "agentopd" / room
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentopd"):
                inside = (node.module or "").split(".")[1:2] or [alias.name for alias in node.names]
                yield from ((str(path.relative_to(ROOT)), name) for name in inside if name in ROOMS - {room})


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_what_the_page_lets_it(room: str) -> None:
    allowed = set() if room in BASE else reached(room)
    assert [(path, name) for path, name in imports(room) if name not in allowed] == []


def test_the_page_names_every_room() -> None:
    there = {
        path.stem for path in (ROOT / "agentopd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__", "__main__", "envs", "tools", "configs"} == ROOMS


def test_two_rooms_that_must_not_know_of_each_other() -> None:
    assert {"models", "env", "chat", "rollout", "teachers", "records"}.isdisjoint(reached("objective"))
    assert {"models", "objective", "rollout"}.isdisjoint(reached("env") | reached("chat"))
