"""What one step draws: from which sources, how many tasks of each, and under which keys."""

from collections import Counter
from pathlib import Path

import pytest
import training_cases as cases

from agentopd import records
from agentopd.errors import ConfigError
from agentopd.training.run import train
from agentopd.types import Key

EXPERTS = "method={sources: {a: {actors: {expert: 1}}, b: {actors: {expert: 1}}}, where: {}, target: {kind: taken}}"


def test_sources_share_exactly_the_tasks_of_a_step_and_every_step_alike(tmp_path: Path) -> None:
    river = cases.trainer(cases.tiny(EXPERTS, tasks_per_step=5), tmp_path).river
    for step in range(2):
        records = river.draw(step).records
        assert Counter(record.trajectory.segments[0].source for record in records) == {"a": 3, "b": 2}
        assert [record.trajectory.key.index for record in records] == list(range(5))


def test_an_episode_that_is_learned_from_again_keeps_the_key_it_was_played_under(tmp_path: Path) -> None:
    first = cases.trainer(cases.tiny(method="sft"), tmp_path)
    drawn = [record.trajectory for record in first.river.draw(3).records]
    assert [t.key for t in drawn] == [Key(drawn[0].key.run, 3, 0), Key(drawn[0].key.run, 3, 1)]
    assert all(t.origin is not None and t.origin.step == 0 for t in drawn)
    again = cases.trainer(cases.tiny(method="sft"), tmp_path / "again", train_dataset=drawn)
    assert {record.trajectory.origin for record in again.river.draw(1).records} == {t.origin for t in drawn}
    assert {segment.source for r in again.river.draw(1).records for segment in r.trajectory.segments} == {"fresh"}
    played = cases.trainer(cases.tiny(), tmp_path / "fresh").river.draw(1).records
    assert all(record.trajectory.origin is None for record in played)


OLD = "method={sources: {old: {kind: frozen}}, where: {source: old}, target: {kind: taken}}"


def test_given_records_are_of_the_source_that_draws_from_them(tmp_path: Path) -> None:
    train(cases.tiny(steps=1), tmp_path / "run")
    kept = records.open(tmp_path / "run")
    trainer = cases.trainer(cases.tiny(OLD), tmp_path / "again", train_dataset=kept)
    assert {r.trajectory.origin for r in trainer.river.draw(0).records} == {r.trajectory.key for r in kept}
    trainer.train()
    assert trainer.step_metrics["objective/loss/rows"] > 0


def test_given_episodes_are_for_one_source(tmp_path: Path) -> None:
    two = "method={sources: {a: {kind: frozen}, b: {kind: frozen}}, target: {kind: taken}}"
    for override, said in (("method=gkd", "draws from no frozen source"), (two, "draws from a, b")):
        with pytest.raises(ConfigError, match=f"{said}, and episodes are given for one"):
            cases.trainer(cases.tiny(override), tmp_path, train_dataset=[])


def test_sources_of_a_step_play_tasks_of_their_own(tmp_path: Path) -> None:
    river = cases.trainer(cases.tiny(EXPERTS, tasks_per_step=5), tmp_path).river
    tasks = [record.trajectory.task.id for step in range(2) for record in river.draw(step).records]
    assert len(set(tasks)) == 10
