"""``docs/configuration.md`` and ``docs/api.md`` are what the code says of itself, and it says something of everything."""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentopd.config import Config, load_config
from agentopd.reference import api, configuration
from agentopd.reference.__main__ import PAGES
from agentopd.reference.docstrings import fields_of, markdown, settings_of
from agentopd.reference.values import default, taken
from agentopd.teachers import TEACHERS
from agentopd.where import Where

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: write() for name, write in PAGES.items()}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_command_writes(name: str, pages: dict[str, str]) -> None:
    stored = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert stored == pages[name], f"python -m agentopd.reference {name} > docs/{name}.md"


def test_every_setting_says_what_it_does(pages: dict[str, str]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.*) \|$", pages["configuration"], re.MULTILINE)
    assert len(rows) > 300
    assert [name for name, *_, said in rows if not said] == []


def test_every_key_of_a_whole_configuration_is_there(pages: dict[str, str]) -> None:
    sections = re.split(r"^## ", pages["configuration"], flags=re.MULTILINE)
    named = {
        part.partition("\n")[0].strip("`"): set(re.findall(r"^\| `(\w+)`", part, re.MULTILINE)) for part in sections
    }
    told = load_config("quickstart", ["train.lora={}", "train.budget={tokens: 5}"]).model_dump(mode="json")
    assert named["The root"] == told.keys() == Config.model_fields.keys()
    for section in (
        "rollout",
        "objective",
        "stages",
        "train",
        "train.lora",
        "train.budget",
        "evaluation",
        "records",
        "cluster",
    ):
        value: Any = told
        for key in section.split("."):
            value = value[key]
        assert named[section] == value.keys(), section
    assert named["envs.<i>"] == told["envs"][0].keys()
    assert named["objective.terms.<i>"] == told["objective"]["terms"][0].keys()


def test_every_kind_of_every_part_is_there_once(pages: dict[str, str]) -> None:
    listed = re.findall(r"^### (\w+): `(\w+)`$", pages["configuration"], re.MULTILINE)
    assert len(listed) == len(set(listed)) > 80
    assert {kind for part, kind in listed if part == "teacher"} == TEACHERS.keys()
    assert ("schedule", "cosine") in listed


def test_links_within_the_page_lead_somewhere(pages: dict[str, str]) -> None:
    headings = re.findall(r"^#+ (.*)$", pages["configuration"], re.MULTILINE)
    anchors = {configuration.anchor(heading) for heading in headings}
    assert set(re.findall(r"\]\(#(.*?)\)", pages["configuration"])) <= anchors


def test_what_a_row_says() -> None:
    (row,) = re.findall(r"^\| `top_p` .*$", configuration.page(), re.MULTILINE)
    assert row == (
        "| `top_p` | number, above 0, at most 1 | `1.0` | Keeps the fewest tokens whose probabilities reach this sum; applied after `top_k`. |"
    )


def test_types_and_defaults_in_words() -> None:
    def told(what: Any) -> str:
        return "settings"

    assert taken(int | None, told) == "whole number or `null`"
    assert taken(dict[str, float], told) == "mapping of names to: number"
    assert taken(tuple[float, float], told) == "list of 2: number"
    assert taken(Where, told) == "settings"
    assert default(Where()) == "its defaults"
    assert default(Where(actor=("student",))) == "`{actor: [student]}`"
    assert default(None) == "`null`"


def test_a_subclass_has_what_stands_under_the_fields_of_its_base() -> None:
    from agentopd.acting import Prefix, Turns

    assert fields_of(Turns)["by"] == "Who: `expert`, or a teacher that is a model."
    assert fields_of(Prefix)["turns"].startswith("How many")
    assert settings_of(TEACHERS["local"])["where"] == "The turns and tokens that it teaches; the others cost nothing."
    assert markdown("see :func:`~agentopd.records.open` and ``x``") == "see `open` and `x`"


def test_every_public_name_is_there_and_says_what_it_is(pages: dict[str, str]) -> None:
    for module in map(importlib.import_module, api.MODULES):
        (part,) = re.findall(rf"^## `{module.__name__}`$(.*?)(?=^## |\Z)", pages["api"], re.MULTILINE | re.DOTALL)
        names = [name for name in api.names_of(module) if not isinstance(getattr(module, name), ModuleType)]
        said = dict(re.findall(r"^### `(\w+)`\n\n```text\n.*?```\n(.*?)(?=^### |\Z)", part, re.MULTILINE | re.DOTALL))
        assert list(said) == [name for name in names if name in said]
        assert [name for name in names if not said.get(name, "").strip()] == []


def test_signatures_are_as_they_are_written(pages: dict[str, str]) -> None:
    assert "\ntrain(config: Config, output: str | Path | None = None, resume: bool = False) -> Result\n" in pages["api"]
    assert "\ncall(name: str, /, **arguments: Any) -> str\n" in pages["api"]
