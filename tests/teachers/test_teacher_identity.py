"""What decides an annotation: digests that change with it, and with nothing else."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from teacher_cases import context, episode, tiny_llama

from agentopd.chat import Hint
from agentopd.freezing import Twin
from agentopd.teachers import EVERYWHERE, Teacher, annotate
from agentopd.teachers.ensemble import ensemble
from agentopd.teachers.expert import expert
from agentopd.teachers.identity import Identity, digest, of_model, read_of
from agentopd.teachers.local import LocalTeacher, local
from agentopd.teachers.rewards import reward
from agentopd.teachers.views import own_view
from agentopd.types import CallOutcome, Key, Message, Task, Trajectory, Turn, View
from agentopd.where import Where

EPISODE = episode("...00..1", seed=1, rewards=[0.0, 1.0])


def test_values_do_not_run_into_one_another() -> None:
    different = [
        (["a", "b"],), (["ab"],), ("a", "b"), ("ab",), (1,), (1.0,), ("1",), (True,), (None,), (b"1",), ({"a": 1},), ({"a": 2},),
        (["a", ["b"]],), ([["a"], "b"],), (np.zeros(2, np.int32),), (np.zeros(2, np.float32),), (np.zeros((1, 2), np.int32),),
        (EVERYWHERE,), (Where(min_turn=1),), ("\ud800",), ("\udfff",), ({},), ([],), (),
    ]  # fmt: skip
    assert len({digest(*values) for values in different}) == len(different)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(float("nan")) == digest(float("nan"))
    with pytest.raises(TypeError, match="a object has no digest"):
        digest([object()])


def test_every_weight_counts_and_where_they_lie_does_not() -> None:
    whole = of_model(tiny_llama(0))
    assert of_model(tiny_llama(0)) == whole
    moved = tiny_llama(0)
    moved.config._name_or_path = "elsewhere"
    assert of_model(moved) == whole
    assert of_model(tiny_llama(0).to(torch.float64)) != whole  # type: ignore[arg-type]
    for name, _ in moved.named_parameters():
        other = tiny_llama(0)
        with torch.no_grad():
            other.get_parameter(name).view(-1)[-1] += 1.0
        assert of_model(other) != whole, name
    scaled = tiny_llama(0)
    scaled.config.rms_norm_eps = 1e-3
    assert of_model(scaled) != whole
    assert of_model(Twin(tiny_llama(0))) is None  # type: ignore[arg-type]


MESSAGE: Message = {"role": "user", "content": "Begin!"}
CHANGED: dict[str, Any] = {
    "task": Task("test/Other-v0", 1),
    "actors": ("expert",),
    "outcome": replace(EPISODE.outcome, success=True),
    "privileged": {"answer": 17},
    "failure": episode("..0", failed=True).failure,
    "opening": (MESSAGE,),
    "tools": ({"name": "look"},),
    "family": "sums",
}
UNREAD: dict[str, Any] = {"key": Key("other", 3, 4), "origin": Key("other", 3, 4), "versions": {"torch": "9"}}


def test_all_that_may_be_read_of_an_episode_counts_and_its_name_does_not() -> None:
    whole = read_of(EPISODE)
    assert read_of(replace(EPISODE, **UNREAD)) == whole
    for name, value in CHANGED.items():
        assert read_of(replace(EPISODE, **{name: value})) != whole, name
    for column in ("tokens_T", "turn_T", "actor_T"):
        changed = getattr(EPISODE.segments[0], column).copy()
        changed[-1] += 1
        assert read_of(replace(EPISODE, segments=(replace(EPISODE.segments[0], **{column: changed}),))) != whole
    known = {"segments", "turns", *CHANGED, *UNREAD}
    assert {field.name for field in fields(Trajectory)} == known  # a new field is looked at here


TURN: dict[str, Any] = {
    "index": 9, "actor": "expert", "segment": 9, "start": 9, "stop": 9, "text": "!", "action": "!", "calls": ((),), "observations": (MESSAGE,),
    "reward": 9.0, "terminated": True, "truncated": True, "finish": "length", "drift": "forked", "errors": ("no_call",), "advice": "!",
    "outcomes": (CallOutcome("no_call"),),
}  # fmt: skip
CLOCK: dict[str, Any] = {"seconds_policy": 9.0, "seconds_env": 9.0, "prefilled": 9, "policy_version": 9, "thinking": 9}


def test_all_that_may_be_read_of_a_turn_counts_and_what_a_clock_says_does_not() -> None:
    def with_turn(**changes: Any) -> str:
        return read_of(replace(EPISODE, turns=(EPISODE.turns[0], replace(EPISODE.turns[1], **changes))))

    assert with_turn(**CLOCK) == with_turn()
    for name, value in TURN.items():
        assert with_turn(**{name: value}) != with_turn(), name
    assert {field.name for field in fields(Turn)} == {*TURN, *CLOCK}
    one = CallOutcome("tell", seconds=1.0)
    assert with_turn(outcomes=(one,)) == with_turn(outcomes=(replace(one, seconds=2.0),))


def own_view_of_mine(trajectory: Trajectory, segment: int) -> list[View]:
    return [own_view(trajectory, segment)]


def identity(teacher: Teacher) -> Identity | None:
    return teacher.identity


def teacher_of(name: str, seed: int, **settings: Any) -> LocalTeacher:
    made = local(context(name, model=tiny_llama(seed)), model="a-folder", **settings)
    assert isinstance(made, LocalTeacher)
    return made


def test_settings_that_change_what_is_said_count_and_the_name_does_not() -> None:
    def one(name: str = "teacher", **settings: Any) -> LocalTeacher:
        return teacher_of(name, 0, **settings)

    whole = one().identity
    assert whole is not None
    assert one("other", max_tokens=7).identity == whole
    assert one(where=Where(min_turn=1)).identity != whole
    assert replace(one(), hint=Hint("{answer}")).identity != whole
    assert replace(one(), hint=Hint("{next_observation}")).identity not in (None, whole)
    assert replace(one(), hint=Hint("{sibling}")).identity is None  # which is another episode
    assert replace(one(), shown=own_view_of_mine).identity is None

    class Own(LocalTeacher):
        pass

    assert Own(**{f.name: getattr(one(), f.name) for f in fields(one())}).identity is None
    assert identity(reward(context())) is None
    assert identity(expert(context())) is None


def test_an_ensemble_is_its_members() -> None:
    members = {name: teacher_of(name, i) for i, name in enumerate("abc")}

    def of(*names: str, **settings: Any) -> Identity | None:
        return ensemble(replace(context(), other=members.__getitem__), members=names, **settings).identity

    assert of("a", "b") is not None
    assert len({of("a", "b"), of("a", "c"), of("a", "b", where=Where(min_turn=1))}) == 3
    draws: list[dict[str, Any]] = [{"draws": 2}, {"draws": 3}, {"draws": 2, "dropout": 0.2}, {"draws": 2, "seed": 1}]
    drawn = {of("a", **settings) for settings in draws}
    assert None not in drawn
    assert len(drawn | {of("b", draws=2), of("a", "b"), members["a"].identity}) == 7
    assert replace(members["a"], shown=own_view_of_mine).identity is None
    members["b"] = replace(members["b"], shown=own_view_of_mine)
    assert of("a", "b") is None
    assert of("b", draws=2) is None
    assert annotate({"a": members["a"]}, [EPISODE])[0].annotations[0].taken_logprob_N.size == 3
