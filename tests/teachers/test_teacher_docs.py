"""The snippets of docs/teachers.md, word for word."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from teacher_cases import context, episode, tiny_llama

from agentopd.settings.choice import OneOf
from agentopd.teachers import TEACHERS, annotate, build_teachers

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()


def snippet(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_two_teachers_of_the_page_route_by_where() -> None:
    ours = context(model=tiny_llama(0))
    chosen = yaml.safe_load(snippet("yaml"))["teachers"]
    choices = {name: OneOf("teacher", TEACHERS).validate(given) for name, given in chosen.items()}
    teachers = build_teachers(choices, ours.chat, ours.load, ours.temperature)
    trajectory = episode("..0.1.2.3", rewards=(0.0, 0.0, 0.0, 1.0), tools={3: "submit"})
    model, judge = annotate(teachers, [trajectory])[0].annotations
    assert model.skip_S.tolist() == [False, True, False, True]
    assert judge.skip_S.tolist() == [True, True, True, False]
    assert judge.reward_S[3] == 0.5


def test_the_kind_of_the_page_runs_by_its_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_teachers")
    monkeypatch.setitem(sys.modules, "my_teachers", module)
    exec(snippet("python"), module.__dict__)
    choice = OneOf("teacher", TEACHERS).validate({"kind": "my_teachers:brevity", "limit": 1, "where": {"max_turn": 1}})
    ours = context()
    teachers = build_teachers({"short": choice}, ours.chat, ours.load, 1.0)
    (said,) = annotate(teachers, [episode("..00.1.222")])[0].annotations
    assert said.reward_S[:2].tolist() == [-1.0, 0.0]
    assert said.skip_S.tolist() == [False, False, True]
