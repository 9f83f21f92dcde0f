"""What one step draws: from which sources, how many tasks of each, and under which keys."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd import records
from agentopd.errors import ConfigError
from agentopd.settings.choice import at
from agentopd.training.run.whole import train
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
    played = [record.trajectory for record in cases.trainer(cases.tiny(), tmp_path / "played").river.draw(0).records]
    for override, said in (("method=gkd", "draws from no frozen source"), (two, "draws from a, b")):
        with pytest.raises(ConfigError, match=f"{said}, and episodes are given for one"):
            cases.trainer(cases.tiny(override), tmp_path, train_dataset=played)


def test_sources_of_a_step_play_tasks_of_their_own(tmp_path: Path) -> None:
    river = cases.trainer(cases.tiny(EXPERTS, tasks_per_step=5), tmp_path).river
    tasks = [record.trajectory.task.id for step in range(2) for record in river.draw(step).records]
    assert len(set(tasks)) == 10


@pytest.mark.parametrize("given", [[], [{"input_ids": [1]}], "runs/first"])
def test_what_is_no_episode_is_refused_by_name(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^train_dataset holds (nothing|dict|str); give trajectories, or records"):
        cases.trainer(cases.tiny(method="sft"), tmp_path, train_dataset=given)


def test_episodes_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    [record, *_] = cases.trainer(cases.tiny(method="sft"), tmp_path).river.draw(0).records
    (segment,) = record.trajectory.segments
    foreign = replace(record.trajectory, segments=(replace(segment, tokens_T=segment.tokens_T + 50_000),))
    with pytest.raises(ConfigError, match=r"train_dataset holds the token id 5\d{4}, and the tokenizer has \d+ ids"):
        cases.trainer(cases.tiny(method="sft"), tmp_path, train_dataset=[foreign])


def test_an_origin_is_no_key_of_the_run_itself(tmp_path: Path) -> None:
    river = cases.trainer(cases.tiny(method="sft"), tmp_path).river
    drawn = [record.trajectory for step in range(2) for record in river.draw(step).records]
    assert not {t.origin for t in drawn} & {t.key for t in drawn}
    assert all(t.origin is not None and Key.parse(str(t.origin)) == t.origin for t in drawn)


TAID = "objective.coefficient={kind: taid, metric: train/loss/divergence, alpha: 0.5}"


def test_what_schedules_remember_is_kept_and_restored(tmp_path: Path) -> None:
    config = cases.tiny(TAID, steps=4)
    river = cases.trainer(config, tmp_path).river
    schedule = config.objective.terms[0].coefficient
    for step, loss in enumerate([2.0, 1.0, 0.5]):
        if step == 2:  # as a checkpoint keeps it
            kept = json.loads(json.dumps(river.state()))
            again = cases.trainer(config, tmp_path / "again").river
            again.restore(kept, cases.model(0))
            again.learned(step, {"train/loss/divergence": loss})
        river.learned(step, {"train/loss/divergence": loss})
    assert at(schedule, river.clock(3), "c") == at(schedule, again.clock(3), "c") > 0.9
    assert river.schedules == again.schedules
    with pytest.raises(
        ConfigError, match=r"'taid' cannot go on after step 0: metric=train/loss/divergence: nothing of"
    ):
        cases.trainer(config, tmp_path / "new").river.learned(0, {"loss": 1.0})


def test_a_run_advances_its_schedules(tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(TAID, steps=3), tmp_path)
    trainer.train()
    (state,) = trainer.river.schedules.values()
    assert state["t"] == 1.0
    assert state["loss"] == pytest.approx(trainer.step_metrics["train/loss/divergence"])
