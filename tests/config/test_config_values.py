"""Whatever stands behind a key, it is held as it was given or refused in one line that begins with the key."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from agentopd.__main__ import main
from agentopd.config import Config, dump, load_config
from agentopd.config.shipped import find, load_yaml
from agentopd.errors import ConfigError
from agentopd.models import NewModel
from agentopd.objective.term import TERM_PARTS
from agentopd.where import Where

QUICKSTART = load_yaml(find("quickstart"))
VALUES = ("null", "true", "-1", "0", "1.5", "7.0", ".inf", "-.inf", ".nan", "''", "x", "'7'", "[]", "[1]", "[x]", "{}",
          "{a: 1}", "{1: 2}", "[[1]]", "2001-01-01", "99999999999999999999")  # fmt: skip
SECOND = re.compile(r"; [a-z_.0-9]+: ")
"""Where a second complaint begins."""
LONG = {"method": "objective", "objective.sampler.actors": "objective.sources.fresh.actors"}
"""What a key may be called when what it says does not fit the rest."""


def _keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{path}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{path}{name}.")


UNDER: dict[str, tuple[str, ...]] = {
    "objective.": (*(part for part in TERM_PARTS), "sampler"),
    "objective.sampler.": ("kind", "actors", "per_task", "share", "episodes"),
    "objective.target.": ("kind", "name", "reference"),
    "objective.where.": tuple(Where.model_fields),
    "objective.divergence.": ("kind", "beta", "clip"),
    "": ("env", "teacher", "method"),
    "env.": ("id", "kwargs", "weight", "tags", "options"),
    "teacher.": ("kind", "model", "new", "dtype", "attention", "where", "max_tokens"),
    "teacher.where.": tuple(Where.model_fields),
    "teachers.": ("teacher", "other"),
    "student.new.": tuple(NewModel.model_fields),
    "stages.teacher.": ("episodes", "steps", "episodes_per_step", "learning_rate"),
}
KEYS = [*_keys(Config)] + [f"{a}{b}" for a in UNDER for b in UNDER[a]]


def _held(config: Config, key: str) -> Any:
    """What the resolved configuration has under ``key``; the key itself where it is a short form of something else."""
    node = yaml.safe_load(dump(config))
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return key
        node = node[part]
    return node


@pytest.mark.parametrize("key", KEYS)
def test_a_value_is_held_as_given_or_refused_by_its_key(key: str) -> None:
    refused = 0
    for text in VALUES:
        given = yaml.safe_load(text)
        try:
            config = load_config(QUICKSTART, [f"{key}={text}"])
        except ConfigError as error:
            refused += 1
            line, path = str(error), str(error).partition(": ")[0]
            assert "\n" not in line
            assert path.startswith((key, LONG.get(key, key))) or key.startswith(path) or key in line, (text, line)
            assert isinstance(given, list | dict) or not SECOND.search(line), line
        else:
            held = _held(config, key)
            if isinstance(held, bool | int | float):
                assert held == type(held)(given), (key, text)
                assert isinstance(held, bool) == isinstance(given, bool), (key, text)
    assert refused


@pytest.mark.parametrize(
    ("override", "begins"),
    [
        ("method=null", "method: expected the name of a recipe, a path, or a recipe itself, got None; agentopd methods lists"),
        ("method=[1]", "method: expected the name of a recipe"),
        ("method={bad: 1}", "objective.bad: unknown key"),
        ("seed=-1", "seed: Input should be greater than or equal to 0 (got -1)"),
        ("seed=4294967296", "seed: Input should be less than 4294967296"),
        ("evaluation.seed=-1", "evaluation.seed: Input should be greater than or equal to 0"),
        ("seed=true", "seed: Input should be a valid integer (got True)"),
        ("train.steps=true", "train.steps: Input should be a valid integer (got True)"),
        ("train.steps='10'", "train.steps: Input should be a valid integer (got '10')"),
        ("train.steps=1.5", "train.steps: Input should be a valid integer"),
        ("train.steps=10.0", "train.steps: Input should be a valid integer (got 10.0)"),
        ("train.learning_rate=.inf", "train.learning_rate: Input should be a finite number (got inf)"),
        ("train.learning_rate=.nan", "train.learning_rate: Input should be a finite number (got nan)"),
        ("train.learning_rate=true", "train.learning_rate: Input should be a valid number (got True)"),
        ("train.learning_rate='1'", "train.learning_rate: Input should be a valid number (got '1')"),
        ("train.betas=[0.9, '0.9']", "train.betas: Input should be a valid number"),
        ("train.betas=[0.9, 1.0]", "train.betas.1: Input should be less than 1 (got 1.0)"),
        ("records.keep=1", "records.keep: Input should be a valid boolean (got 1)"),
        ("objective.coefficient=.inf", "objective.coefficient: Input should be a finite number (got inf)"),
        ("objective.coefficient='2'", "objective.coefficient: Input should be a valid number (got '2')"),
        ("objective.divergence={kind: jsd, beta: '0.5'}", "objective.divergence: divergence 'jsd': beta: Input should be a valid number"),
        ("teacher.max_tokens=true", "teacher: teacher 'local': max_tokens: Input should be a valid integer (got True)"),
        ("teacher.where.every=2.0", "teacher: teacher 'local': where.every: Input should be a valid integer (got 2.0)"),
        ("env.id=[1]", "env.id: Input should be a valid string (got [1])"),
        ("env.weight=.inf", "env.weight: Input should be a finite number (got inf)"),
        ("envs=[]", "envs: give at least one environment"),
        ("envs=null", "envs: expected a list (got None)"),
        ("teachers=null", "teachers: expected a mapping of names to values (got None)"),
        ("teachers.student.kind=reward", "teachers: no teacher may be called 'student', which names the policy that is trained"),
        ("teachers.outcome.kind=reward", "teachers: no teacher may be called 'outcome', which names the episodes' own reward; choose another"),
        ("teachers.student_after.kind=reward", "teachers: no teacher may be called 'student_after': panels have such names"),
        ("teachers.t_sampled.kind=reward", "teachers: no teacher may be called 't_sampled': panels have such names"),
        ("objective.target.name=student", "objective.target.name=student: the live student is no teacher; name one, such as the student as it began, {kind: self}; there are: teacher, expert"),
        ("stages=null", "stages: expected a mapping of settings (got None)"),
        ("objective=null", "objective: expected a mapping of settings (got None)"),
        ("student=null", "student: expected a mapping of settings (got None)"),
    ],
)  # fmt: skip
def test_what_is_said(override: str, begins: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(QUICKSTART, [override])
    assert str(caught.value).startswith(begins)
    assert not SECOND.search(str(caught.value))


def test_an_integer_may_stand_for_a_float() -> None:
    assert load_config(QUICKSTART, ["train.weight_decay=0"]).train.weight_decay == 0.0


def test_a_key_left_empty_in_a_file_is_refused_by_its_name() -> None:
    for key in ("teachers", "objective", "train", "envs"):
        file = {name: value for name, value in QUICKSTART.items() if (name, key) != ("env", "envs")} | {key: None}
        with pytest.raises(ConfigError, match=rf"^{key}: expected a "):
            load_config(file)
        with pytest.raises(ConfigError, match=rf"^{key}: expected a "):
            load_config(file, ["seed=1"])


@pytest.mark.parametrize("override", ["method=[1]", "seed=-1", "student=null", "train.learning_rate=.nan"])
def test_the_command_line_says_it_in_one_line(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "quickstart", override]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"agentopd: ConfigError: {override.partition('=')[0]}: ")
    assert said.count("\n") == 1
