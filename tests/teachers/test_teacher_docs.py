"""The snippets of docs/teachers.md, word for word."""

import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from teacher_cases import context, episode, tiny_llama

from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Traits, annotate, build_teachers, require_members, traits_of

PAGE = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()


def snippet(language: str) -> str:
    """All snippets of one language, in their order."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person has after typing in the page's Python."""
    made = ModuleType("my_teachers")
    monkeypatch.setitem(sys.modules, "my_teachers", made)
    exec(snippet("python"), made.__dict__)


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


@pytest.mark.usefixtures("module")
def test_every_configuration_of_the_page_can_be_read() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL):
        chosen = yaml.safe_load(block)["teachers"]
        require_members({name: OneOf("teacher", TEACHERS).validate(given) for name, given in chosen.items()})


def test_every_kind_and_its_settings_are_on_the_page() -> None:
    for kind, function in TEACHERS.items():
        [section] = re.findall(rf"^\*\*`{kind}`\*\*.*?(?=^\*\*`|^## )", PAGE, re.DOTALL | re.MULTILINE)
        own = inspect.signature(function).parameters.keys() - {"context", "where"}
        shared = inspect.signature(TEACHERS["local"]).parameters.keys() if kind == "privileged" else set()
        assert [name for name in sorted(own - shared) if f"`{name}" not in section] == []


@pytest.mark.usefixtures("module")
def test_the_kind_of_the_page_runs_by_its_import_path() -> None:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "my_teachers:brevity", "limit": 1, "where": {"max_turn": 1}})
    ours = context()
    teachers = build_teachers({"short": choice}, ours.chat, ours.load, 1.0)
    (said,) = annotate(teachers, [episode("..00.1.222")])[0].annotations
    assert said.reward_S[:2].tolist() == [-1.0, 0.0]
    assert said.skip_S.tolist() == [False, False, True]


@pytest.mark.usefixtures("module")
def test_the_verifier_of_the_page_looks_for_the_answer() -> None:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "verifier", "check": "my_teachers:exact"})
    ours, played = context(), episode("..00.1")
    teachers = build_teachers({"judge": choice}, ours.chat, ours.load, 1.0)
    right, wrong = (replace(played, privileged={"answer": answer}) for answer in ("action 1", 2))
    found = [record.annotations[0].reward_S[-1] for record in annotate(teachers, [right, wrong])]
    assert found == [1.0, 0.0]


@pytest.mark.usefixtures("module")
def test_the_editor_of_the_page_corrects_turns_that_ended_in_an_error() -> None:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "my_teachers:editor"})
    ours = context()
    (editor,) = build_teachers({"editor": choice}, ours.chat, ours.load, 1.0).values()
    assert editor.corrects
    assert not editor.needs_expert
    played = episode("..00.1.222")
    played = replace(played, turns=(played.turns[0], replace(played.turns[1], errors=("no_call",)), played.turns[2]))
    (said,) = editor.annotate([played])
    assert said.skip_S.tolist() == [True, False, True]
    (segment,) = said.segments
    assert segment.turn_T[: played.turns[1].start].tolist() == [-1] * played.turns[1].start
    written = ours.chat.write([], str(said.corrected_S[1]), ())
    assert segment.tokens_T[played.turns[1].start :].tolist() == written


@pytest.mark.usefixtures("module")
def test_the_elder_of_the_page_is_a_model_that_never_corrects() -> None:
    choice = OneOf("teacher", TEACHERS).validate({"kind": "my_teachers:elder", "model": "here"})
    assert traits_of(choice) == Traits(model=True, corrects=False)
    ours = context(model=tiny_llama(0))
    (elder,) = build_teachers({"elder": choice}, ours.chat, ours.load, 1.0).values()
    assert elder.model is not None
    assert not elder.corrects
    (said,) = elder.annotate([episode("..00.1")])
    assert len(said.index_N) == 3
