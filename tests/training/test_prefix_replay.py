"""Prefix replay: a recorded task is begun again by its own recorded tokens, then the student goes on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_cases as cases

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import Config
from agentopd.errors import ConfigError, EnvError
from agentopd.records import RecordWriter
from agentopd.training.checks.recorded import check_recorded
from agentopd.types import Message, Record, Trajectory


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes of the expert, as a person records them."""
    folder = tmp_path_factory.mktemp("shown")
    (folder / "config.yaml").write_text(json.dumps(cases.raw()))
    asked = ["--episodes", "4", "--actor", "expert", "--output", str(folder / "expert")]
    assert main(["rollout", str(folder / "config.yaml"), *asked]) == 0
    return folder / "expert"


def config(source: Path, *overrides: str, **acting: Any) -> Config:
    prefix = {"kind": "prefix", "by": "recorded"} | acting
    sampler = {"kind": "recorded", "records": str(source), "acting": prefix}
    return cases.tiny(f"objective.sampler={json.dumps(sampler)}", *overrides, tasks_per_step=4, steps=8)


def drawn(made: Config, folder: Path, step: int = 0) -> list[Trajectory]:
    return [record.trajectory for record in cases.trainer(made, folder).river.draw(step).records]


def actors(one: Trajectory) -> list[str]:
    return [turn.actor for turn in one.turns]


def test_the_recorded_tokens_come_again_and_the_students_alone_are_trained(shown: Path, tmp_path: Path) -> None:
    kept = {record.trajectory.task.id: record.trajectory for record in records.open(shown)}
    trainer = cases.trainer(config(shown, "train.steps=1", turns=2.0), tmp_path)
    played = [record.trajectory for record in trainer.river.draw(0).records]
    assert {one.task.id for one in played} == kept.keys()
    for one in played:
        was = kept[one.task.id]
        assert actors(one)[:3] == ["recorded", "recorded", "student"]
        assert one.actors == ("student", "recorded")
        (before,), (now,) = was.segments, one.segments
        stop = was.turns[2].start  # all that stands before the student's first token
        assert now.tokens_T[:stop].tolist() == before.tokens_T[:stop].tolist()
        assert now.source == "fresh"
        assert one.origin is None
        for turn, recorded in zip(one.turns[:2], was.turns, strict=False):
            assert (turn.action, turn.observations, turn.reward) == (
                recorded.action,
                recorded.observations,
                recorded.reward,
            )
    weights = cases.weights(trainer.student)
    trainer.train()
    last = list(trainer.river.played)
    students = [int((segment.actor_T == 0).sum()) for one in last for segment in one.segments]
    assert trainer.step_metrics["objective/loss/rows"] == sum(students) > 0
    assert not cases.same_weights(weights, cases.weights(trainer.student))


@pytest.mark.parametrize(
    ("acting", "step", "depths"),
    [
        ({"turns": 1.0}, 0, lambda length: 1),
        ({"turns": 99.0}, 0, lambda length: length - 1),  # the last turn is the student's
        ({"turns": {"kind": "stairs", "start": 1.0, "end": 9.0, "every": 2}, "counted_from": "end"}, 0, lambda length: length - 1),
        ({"turns": {"kind": "stairs", "start": 1.0, "end": 9.0, "every": 2}, "counted_from": "end"}, 3, lambda length: length - 2),
        ({"turns": {"kind": "stairs", "start": 1.0, "end": 99.0, "every": 1, "by": 9.0}, "counted_from": "end"}, 7, lambda length: 0),
    ],
)  # fmt: skip
def test_how_deep_the_record_is_followed(
    acting: dict[str, Any], step: int, depths: Any, shown: Path, tmp_path: Path
) -> None:
    kept = {record.trajectory.task.id: record.trajectory for record in records.open(shown)}
    for one in drawn(config(shown, **acting), tmp_path, step):
        assert actors(one).count("recorded") == depths(len(kept[one.task.id].turns))


def test_tcod_backward_from_records_is_the_recipe_with_this_source(shown: Path, tmp_path: Path) -> None:
    acting = "{kind: prefix, by: recorded, counted_from: end, turns: {kind: stairs, start: 1.0, end: 30.0, every: 2}}"
    sampler = f"objective.sampler={{kind: recorded, records: {shown}, acting: {acting}}}"
    trainer = cases.trainer(cases.tiny(sampler, method="tcod-b2f", steps=1), tmp_path)
    before = cases.weights(trainer.student)
    trainer.train()
    assert not cases.same_weights(before, cases.weights(trainer.student))


def _tampered(shown: Path, target: Path, change: Any) -> Path:
    kept = list(records.open(shown))
    RecordWriter(target).write(0, [Record(change(record.trajectory)) for record in kept])
    return target


def _other_answer(one: Trajectory) -> Trajectory:
    said = tuple(Message(role=message["role"], content="something else") for message in one.turns[1].observations)
    return replace(one, turns=(one.turns[0], replace(one.turns[1], observations=said), *one.turns[2:]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_answer, r"agentopd/Checkout-v0 with seed \d+ does not repeat episode expert/0/\d/0: turn 1, observations\.0\.content: recorded .something else"),
        (lambda one: replace(one, turns=(replace(one.turns[0], reward=2.0), *one.turns[1:])), r"turn 0, reward: recorded 2\.0, now 0\.0"),
        (lambda one: replace(one, task=replace(one.task, seed=one.task.seed + 1)), r"opening\.\d+\.content: recorded"),
    ],
)  # fmt: skip
def test_an_environment_that_answers_otherwise_fails_the_episode_by_its_turn(
    change: Any, said: str, shown: Path, tmp_path: Path
) -> None:
    other = _tampered(shown, tmp_path / "other", change)
    played = drawn(config(other, "rollout.max_failures=1.0", turns=2.0), tmp_path)
    for one in played:
        assert one.failure is not None
        assert (one.failure.boundary, one.failure.kind) == ("env", "unrepeated")
        assert one.outcome.stop == "failed"
    with pytest.raises(EnvError, match=said):
        drawn(config(other, turns=2.0), tmp_path)


def test_another_template_is_found_before_anything_begins(shown: Path, tmp_path: Path) -> None:
    other = _tampered(shown, tmp_path / "other", lambda one: replace(one, opening=one.opening[1:]))
    made = config(other)
    with pytest.raises(ConfigError, match="was written with another tokenizer or chat template"):
        check_recorded(made, made.chat(cases.tokenizer()))


def test_an_environment_that_is_gone_is_found_before_anything_begins(shown: Path, tmp_path: Path) -> None:
    gone = _tampered(
        shown, tmp_path / "gone", lambda one: replace(one, task=replace(one.task, env_id="tests/Nowhere-v0"))
    )
    made = config(gone)
    with pytest.raises(
        ConfigError,
        match=r"^objective\.sources\.fresh\.records=\S+: its episodes of tests/Nowhere-v0 cannot be begun again; of 4 that were tried the first, "
        r"expert/0/0/0: no environment is registered as .tests/Nowhere-v0.",
    ):
        check_recorded(made, made.chat(cases.tokenizer()))


def test_an_environment_that_answers_otherwise_is_told_before_anything_begins(shown: Path, tmp_path: Path) -> None:
    other = _tampered(shown, tmp_path / "other", lambda one: _other_answer(one) if one.key.index else one)
    made = config(other)
    told = check_recorded(made, made.chat(cases.tokenizer()))
    assert "3 of 4 episodes of agentopd/Checkout-v0 that were tried again are not what they were" in told[1]
    assert "expert/0/1/0: turn 1, observations.0.content: recorded" in told[1]
    same = config(shown)
    assert len(check_recorded(same, same.chat(cases.tokenizer()))) == 1


def test_groups_go_on_from_the_same_state(shown: Path, tmp_path: Path) -> None:
    made = config(shown, "objective.sampler.per_task=3", "train.tasks_per_step=1", turns=2.0)
    played = drawn(made, tmp_path)
    assert len({one.task.id for one in played}) == 1
    assert len(played) == 3
    starts = [one.segments[0].tokens_T[: one.turns[2].start].tolist() for one in played]
    assert starts[0] == starts[1] == starts[2]
    rest: Sequence[Any] = [one.segments[0].tokens_T[one.turns[2].start :] for one in played]
    assert not all(np.array_equal(rest[0], other) for other in rest[1:])


def test_recorded_actions_are_nobodys_draws() -> None:
    sampler = "objective.sampler={kind: recorded, records: r, acting: {kind: prefix, by: recorded}}"
    with pytest.raises(ConfigError, match=r"where selects recorded actions that are given again, which nobody sampled"):
        cases.tiny(sampler, "objective.where={actor: recorded}", method="thinking-machines")
    cases.tiny(sampler, method="thinking-machines")
    with pytest.raises(ConfigError, match=r"no teacher may be called 'recorded'"):
        cases.tiny("teachers.recorded={kind: self}")
