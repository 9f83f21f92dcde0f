"""The snippets of docs/environments.md, word for word and in order, as one reader types them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from agentopd.env import TextEnv
from agentopd.errors import ToolError

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def reader() -> Iterator[dict[str, Any]]:
    """What a reader has defined; what they registered is forgotten afterwards."""
    before = dict(gymnasium.registry)
    yield {"__name__": "reader"}
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_every_snippet_runs(reader: dict[str, Any]) -> None:
    assert len(SNIPPETS) == PAGE.count("```") / 2  # none in a fence of another kind
    for snippet in SNIPPETS:
        line = PAGE[: PAGE.index(snippet)].count("\n")
        exec(compile("\n" * line + snippet, "environments.md", "exec"), reader)


def test_the_page_names_what_there_is() -> None:
    for method in re.findall(r"^\| `(?:self\.)?(\w+)\(", PAGE, re.MULTILINE):
        assert hasattr(TextEnv, method), method
    kinds = re.search(r"The kinds are (.*?)`invalid_action`", PAGE, re.DOTALL)
    assert kinds is not None
    assert ToolError("x").kind in re.findall(r"`(\w+)`", kinds[1])
