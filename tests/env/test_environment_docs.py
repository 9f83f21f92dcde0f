"""The snippets of docs/environments.md, word for word and in order, as one reader types them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import yaml

from agentopd.config import load_config
from agentopd.config.shipped import find, load_yaml
from agentopd.env import TextEnv
from agentopd.env.exchange import no_call
from agentopd.errors import ToolError
from agentopd.tooling import CRASH, ToolSet
from agentopd.types import ToolCall

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
SNIPPETS, SETTINGS = (re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "yaml"))


@pytest.fixture
def reader() -> Iterator[dict[str, Any]]:
    """What a reader has defined; what they registered is forgotten afterwards."""
    before = dict(gymnasium.registry)
    yield {"__name__": "reader"}
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def test_every_snippet_runs(reader: dict[str, Any]) -> None:
    assert len(SNIPPETS) + len(SETTINGS) == PAGE.count("```") / 2  # none in a fence of another kind
    for snippet in SNIPPETS:
        line = PAGE[: PAGE.index(snippet)].count("\n")
        exec(compile("\n" * line + snippet, "environments.md", "exec"), reader)


def test_the_settings_are_settings() -> None:
    for text in SETTINGS:
        assert load_config({**load_yaml(find("quickstart")), **yaml.safe_load(text)}).envs[0].id in PAGE


def test_the_page_names_what_there_is() -> None:
    for method in re.findall(r"^\| `(?:self\.)?(\w+)\(", PAGE, re.MULTILINE):
        assert hasattr(TextEnv, method), method
    kinds = set(re.findall(r"`(\w+)`", PAGE.partition("| kind |")[2].partition("\n\n")[0]))
    assert {ToolError("x").kind, CRASH, "cut", "empty"} <= kinds
    with pytest.raises(ToolError) as unknown:
        ToolSet().call(ToolCall("x", {}))
    assert {unknown.value.kind, no_call(ToolSet()).kind} <= kinds
