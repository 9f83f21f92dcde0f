"""A recorded source: whole episodes from the records of another run, each once before any comes again."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.records import RecordWriter
from agentopd.training.checks.recorded import check_recorded
from agentopd.training.loop.folder import RunFolder
from agentopd.training.run import whole as running
from agentopd.training.run.whole import train
from agentopd.types import Record, Trajectory

DISTIL = "objective.where={}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    train(cases.tiny(steps=2, tasks_per_step=3), folder)
    return folder


def config(source: Path, *overrides: str, tasks: int = 4, method: str = "gkd", **sampler: Any) -> Config:
    drawn = f"objective.sampler={json.dumps({'kind': 'recorded', 'records': str(source), **sampler})}"
    return cases.tiny(drawn, *overrides, method=method, tasks_per_step=tasks)


def drawn(made: Config, output: Path, step: int, **options: Any) -> list[Trajectory]:
    return [record.trajectory for record in cases.trainer(made, output, **options).river.draw(step).records]


def check(made: Config) -> list[str]:
    return check_recorded(made, made.chat(cases.tokenizer()))


def copied(source: Path, target: Path, change: Any) -> Path:
    writer, opened = RecordWriter(target), records.open(source)
    for step in opened.steps:
        writer.write(step, [replace(one, trajectory=change(one.trajectory)) for one in opened.step(step)])
    return target


def test_each_episode_comes_once_before_any_comes_again_token_by_token(run: Path, tmp_path: Path) -> None:
    kept = {record.trajectory.key: record.trajectory for record in records.open(run)}
    river = cases.trainer(config(run), tmp_path).river
    steps = [[record.trajectory for record in river.draw(step).records] for step in range(3)]
    twelve = [one for step in steps for one in step]
    assert [one.key.step for one in twelve] == [0] * 4 + [1] * 4 + [2] * 4
    for half in (twelve[:6], twelve[6:]):
        assert {one.origin for one in half} == kept.keys()
    assert [one.origin for one in twelve[:6]] != [one.origin for one in twelve[6:]]
    for one in twelve:
        assert one.origin is not None
        was = kept[one.origin]
        assert replace(one, key=was.key, origin=None) == was
    again = cases.trainer(config(run), tmp_path / "again").river  # step 2 by itself, as a resumed run draws it
    assert [record.trajectory for record in again.draw(2).records] == steps[2]
    assert drawn(config(run, "seed=7"), tmp_path / "other", 0) != steps[0]


def test_what_a_filter_leaves_is_drawn_and_told(run: Path, tmp_path: Path) -> None:
    turns = Counter(len(record.trajectory.turns) for record in records.open(run))
    most = max(turns)
    made = config(run, keep={"turns": {"least": most}})
    assert check(made) == [f"the source 'fresh' draws from {turns[most]} of the 6 records in {run / 'records'}"]
    assert {len(one.turns) for one in drawn(made, tmp_path, 0)} == {most}
    with pytest.raises(ConfigError, match=r"^objective\.sources\.fresh\.keep: none of the 6 records .* ask for less"):
        check(config(run, keep={"turns": {"least": 99}}))


def test_an_episode_that_was_learned_from_twice_is_one(run: Path, tmp_path: Path) -> None:
    train(config(run), tmp_path / "second")  # two steps of four draw six episodes
    assert len(records.open(tmp_path / "second")) == 8
    made = config(tmp_path / "second", tasks=6)
    assert {one.origin for one in drawn(made, tmp_path / "third", 0)} == {r.trajectory.key for r in records.open(run)}


def test_the_episodes_of_a_task_come_together(run: Path, tmp_path: Path) -> None:
    first = next(iter(records.open(run))).trajectory.task
    groups = copied(run, tmp_path / "groups", lambda one: replace(one, task=first) if one.key.step else one)
    together = [one.task.id for one in drawn(config(groups, tasks=2, per_task=4), tmp_path / "drawn", 0)]
    assert Counter(Counter(together).values()) in ({4: 1, 1: 1}, {1: 2})


def test_a_resumed_run_draws_the_same_though_the_records_have_grown(run: Path, tmp_path: Path) -> None:
    source = copied(run, tmp_path / "source", lambda one: one)
    folder = RunFolder(tmp_path / "run")
    before = drawn(config(source), tmp_path, 1, folder=folder)
    more = [
        replace(r, trajectory=replace(r.trajectory, key=replace(r.trajectory.key, step=2))) for r in records.open(run)
    ]
    RecordWriter(source).write(2, more[:3])
    assert drawn(config(source), tmp_path, 1, folder=folder) == before
    assert drawn(config(source), tmp_path, 1, folder=RunFolder(tmp_path / "anew")) != before


def test_a_killed_run_goes_on_as_the_one_that_was_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = config(run, "train.save_every=1", "train.steps=3", tasks=2)
    train(raw, tmp_path / "whole")
    keep = running.AgentOPDTrainer.training_step

    def killed(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        if inputs.step == 2:
            raise KeyboardInterrupt
        return keep(self, model, inputs, *rest)

    monkeypatch.setattr(running.AgentOPDTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(raw, tmp_path / "killed")
    monkeypatch.undo()
    train(raw, tmp_path / "killed", resume=True)
    assert cases.same_weights(cases.saved(tmp_path / "whole"), cases.saved(tmp_path / "killed"))
    assert cases.kept(tmp_path / "killed")[0].trajectory.key.run == "killed"
    origins = [[one.trajectory.origin for one in records.open(tmp_path / name)] for name in ("whole", "killed")]
    assert origins[0] == origins[1]


def _with_versions(**versions: str) -> Any:
    return lambda one: replace(one, versions={**one.versions, **versions})


@pytest.mark.parametrize(
    ("change", "overrides", "said"),
    [
        (_with_versions(tokenizer="another"), [], r"records=.*: its episodes were written with another tokenizer than"),
        (
            lambda one: replace(one, versions={}, opening=one.opening[1:]),
            [],
            r"records=.*: episode run/0/0/0 was written with another tokenizer or chat template than this",
        ),
        (lambda one: one, ["rollout.max_length=100", "rollout.max_new_tokens=8"], r"more than rollout\.max_length=100"),
        (
            _with_versions(sampling="temperature=0.5 top_p=1 top_k=0"),
            ["method=lightning-opd"],
            r"^objective\.\S+: it reads what tokens were sampled with, .* temperature=0\.5 .* rollout has temperature=1 ",
        ),
        (
            lambda one: replace(one, versions={"tokenizer": one.versions["tokenizer"]}),
            ["method=lightning-opd"],
            "do not say how they were sampled, and rollout has temperature=1 top_p=1 top_k=0; sample alike",
        ),
        (
            lambda one: replace(one, actors=("expert",)),
            ["method=lightning-opd", "objective.where={}"],
            r"where selects actions of expert in 'fresh'.*\(the records of the source 'fresh' hold such\)",
        ),
    ],
)
def test_records_that_do_not_fit_are_refused_before_anything_begins(
    change: Any, overrides: Sequence[str], said: str, run: Path, tmp_path: Path
) -> None:
    source = copied(run, tmp_path / "source", change)
    with pytest.raises(ConfigError, match=said):
        check(config(source, *overrides))


def test_records_that_are_alike_are_taken(run: Path, tmp_path: Path) -> None:
    older = copied(run, tmp_path / "older", lambda one: replace(one, versions={}))
    assert "6 of the 6" in check(config(older))[0]
    assert "6 of the 6" in check(config(run, "method=lightning-opd"))[0]
    with pytest.raises(
        ConfigError, match=r"^objective\.sources\.fresh\.records=nowhere: nowhere does not exist; give a run"
    ):
        check(config(Path("nowhere")))


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("{kind: recorded}", r"kind=recorded: records is missing; give a run folder"),
        ("{records: runs/first}", r"records: only a source of kind recorded reads it, and this one is fresh"),
        ("{kind: frozen, keep: {success: true}}", r"keep: only a source of kind recorded reads it"),
        ("{kind: recorded, records: r, max_turns: 3}", r"max_turns: the episodes of a recorded source are over"),
        ("{kind: recorded, records: r, actors: {expert: 1}}", r"actors: the episodes of a recorded source are over"),
        ("{kind: recorded, records: r, acting: turns}", r"acting: the episodes of a recorded source are over"),
        ("{acting: {kind: prefix, by: recorded}}", r"acting\.by=recorded: only tasks of a source of kind recorded can"),
        ("{share: 0}", r"share: .*a share is above 0"),
        ("{share: {kind: linear, start: 0.0, end: 0.0}}", r"share: .*a share is above 0"),
    ],
)
def test_settings_that_do_not_go_together(sampler: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cases.tiny(f"objective.sampler={sampler}", method="gkd")


def test_a_record_says_what_its_tokens_depend_on(run: Path) -> None:
    record: Record = next(iter(records.open(run)))
    assert record.trajectory.versions["tokenizer"] == cases.tiny().chat(cases.tokenizer()).vocabulary
    assert record.trajectory.versions["sampling"] == "temperature=1 top_p=1 top_k=0"
