"""Several teachers on one trajectory, and what happens when one of them misbehaves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from teacher_cases import context, episode, tiny_llama

from agentopd.errors import ConfigError, EnvError, TeacherError
from agentopd.objective.rows import Rows
from agentopd.settings.choice import Choice
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Stateless, Teacher, TeacherContext, annotate, build_teachers
from agentopd.teachers.base import rowless
from agentopd.types import Annotation, Dense, Sparse, Trajectory

CHOICE: TypeAdapter[Choice] = TypeAdapter(Annotated[Choice, OneOf("teacher", TEACHERS)])
MODEL = tiny_llama(0)


def build(**kinds: object) -> dict[str, Teacher]:
    ours = context(model=MODEL)
    return build_teachers({n: CHOICE.validate_python(kind) for n, kind in kinds.items()}, ours.chat, ours.load, 1.0)


def test_teachers_mix_turn_by_turn_on_one_trajectory() -> None:
    teachers = build(
        logits={"kind": "local", "model": "a-folder", "where": {"every": 2}},
        judge="reward",
        mentor={"kind": "expert", "where": {"min_turn": 1, "every": 2}},
    )
    trajectory = episode("..00.11..", "...22", rewards=(0.0, 0.5, 1.0), advice={0: "a", 1: "b", 2: "c"})
    failed = episode("..00", failed=True)
    records = annotate(teachers, [trajectory, failed])
    assert [said.teacher for said in records[0].annotations] == ["logits", "judge", "mentor"]
    assert records[0].trajectory is trajectory
    rows = Rows.of(records)
    own = (rows.trajectory_A == 0) & (rows.source_A == "fresh")
    assert rows.turn_A[own].tolist() == [0, 0, 1, 1, 2, 2]
    assert rows.teachers["logits"].covered_A[own].tolist() == [True, True, False, False, True, True]
    assert np.isnan(rows.teachers["logits"].taken_logprob_A[own]).tolist() == [False, False, True, True, False, False]
    assert rows.teachers["judge"].rewarded_A[own].all()
    assert rows.teachers["judge"].reward_A[own].tolist() == [0.0, 0.0, 0.0, 0.5, 0.0, 1.0]
    corrected = rows.source_A == "corrected"
    assert set(rows.turn_A[corrected]) == {1}
    for said in rows.teachers.values():
        assert not said.covered_A[~own].any()
        assert not said.rewarded_A[~own].any()


def test_settings_reach_the_teacher() -> None:
    assert build(judge={"kind": "reward", "scale": 3, "where": {"every": 2}})["judge"].where.every == 2
    with pytest.raises(ValueError, match=r"'scal' .*did you mean 'scale'"):
        build(judge={"kind": "reward", "scal": 3})
    with pytest.raises(ConfigError, match=r"teachers\.judge\.scale: a teacher takes no schedule"):
        build(judge={"kind": "reward", "scale": {"kind": "linear", "start": 0, "end": 1}})


def test_a_choice_reads_back_equal_and_has_a_whole_schema() -> None:
    given = {"kind": "local", "new": {"layers": 2}, "where": {"every": 2}, "max_tokens": 64}
    choice = CHOICE.validate_python(given)
    assert CHOICE.validate_python(CHOICE.dump_python(choice, mode="json")) == choice
    schema = CHOICE.json_schema()
    kinds = {branch["properties"]["kind"].get("const"): branch for branch in schema["anyOf"]}
    assert set(kinds) == {*TEACHERS, None}
    assert kinds["local"]["properties"]["max_tokens"]["minimum"] == 1
    assert "layers" in schema["$defs"]["NewModel"]["properties"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Misbehaving(Stateless):
    fault: str

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        if self.fault == "crash":
            raise ZeroDivisionError("division by zero")
        if self.fault == "env":
            raise EnvError("its own kind of error")
        return [self._said(trajectory) for trajectory in trajectories][self.fault == "count" :]

    def _said(self, trajectory: Trajectory) -> Annotation:
        good = rowless(self.name, trajectory)
        row, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
        at_0, at_1, at_2 = (np.array([i], np.int32) for i in range(3))
        faulty: dict[str, Annotation] = {
            "sign": replace(good, teacher="somebody"),
            "turns": replace(good, skip_S=np.zeros(9, np.bool_)),
            "rows": replace(good, taken_logprob_N=two),
            "place": replace(good, segment_N=at_0, index_N=at_1, taken_logprob_N=row, entropy_N=row),
            "head": replace(good, block=Dense(torch.zeros(0, 4), "nowhere")),
            "block": replace(good, block=Sparse(np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32), two)),
            "twice": replace(
                good, segment_N=at_0.repeat(2), index_N=at_2.repeat(2), taken_logprob_N=two, entropy_N=two
            ),
        }
        return faulty.get(self.fault, good)


def misbehaving(context: TeacherContext, *, fault: str) -> Teacher:
    return Misbehaving(name=context.name, fault=fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crash", "'odd' failed: ZeroDivisionError: division by zero"),
        ("count", "'odd' returned 0 annotations for 1"),
        ("sign", "'odd', trajectory test/0/0/0: .*somebody"),
        ("turns", "skip_S has 9 entries for 2 turns"),
        ("rows", "taken_logprob_N has 2 entries"),
        ("head", r"names the head 'nowhere'; the teacher has: none"),
        ("block", "its block has 2 rows and segment_N has 0"),
        ("twice", "two of its rows are the same action token"),
        ("place", "segment 0, position 1 is not an action token"),
    ],
)
def test_a_misbehaving_teacher_is_named(fault: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        annotate({"odd": misbehaving(context("odd"), fault=fault)}, [episode("..00.1")])


def test_typed_errors_pass_through() -> None:
    with pytest.raises(EnvError):
        annotate({"odd": misbehaving(context("odd"), fault="env")}, [episode("..0")])


def test_a_kind_is_found_by_import_path() -> None:
    (said,) = annotate(build(odd={"kind": f"{__name__}:misbehaving", "fault": "none"}), [episode("..0")])[0].annotations
    assert said.teacher == "odd"
    assert said.skip_S.all()


def test_heads_of_two_models_have_different_names() -> None:
    teachers = build(one={"kind": "local", "model": "a-folder"}, two={"kind": "local", "model": "a-folder"})
    assert [list(teacher.heads) for teacher in teachers.values()] == [["one"], ["two"]]
    for said in annotate(teachers, [episode("..0")])[0].annotations:
        assert isinstance(said.block, Dense)
        assert said.block.head == said.teacher


def broken(context: TeacherContext) -> Teacher:
    raise ValueError("my api key is missing")


def forgotten(context: TeacherContext) -> None:
    """A kind whose return was forgotten."""


@pytest.mark.parametrize(
    ("kind", "said"),
    [("broken", "raised ValueError: my api key is missing"), ("forgotten", "returned NoneType; return a Teacher")],
)
def test_a_kind_of_ones_own_that_makes_no_teacher_is_named(kind: str, said: str) -> None:
    ours, path = context(), f"test_teacher_routing:{kind}"
    choice = OneOf("teacher", TEACHERS).validate(path)
    with pytest.raises(ConfigError, match=f"^teachers.judge.kind={path} {said}"):
        build_teachers({"judge": choice}, ours.chat, ours.load, 1.0)
