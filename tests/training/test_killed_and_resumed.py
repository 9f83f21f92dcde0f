"""A run that was killed and resumed is the run that was not."""

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import killed_runs
import pytest
import training_cases as cases

from agentopd import records
from agentopd.config import load_config
from agentopd.training.folder import RunFolder
from agentopd.training.run import train

STEPS = {"steps": 5, "eval_every": 2, "save_every": 2}
_held: list[Any] = []


@cache
def uninterrupted(method: str) -> Path:
    _held.append(TemporaryDirectory())
    run = Path(_held[-1].name) / "run"
    train(load_config(cases.raw(method=method, **STEPS)), run)
    return run


def _assert_same(run: Path, expected: Path) -> None:
    assert cases.same_weights(cases.saved(run), cases.saved(expected))
    for row, other in zip(cases.metrics(run), cases.metrics(expected), strict=True):
        assert row == other, {name: (row.get(name), value) for name, value in other.items() if row.get(name) != value}
    assert cases.panels(run) == cases.panels(expected)
    assert cases.kept(run) == cases.kept(expected)


@pytest.mark.parametrize(
    ("method", "when", "step", "again"),
    [
        ("gkd", killed_runs.after_the_records, 3, {2, 3}),
        ("gkd", killed_runs.inside_a_checkpoint, 4, {2, 3}),
        ("sft", killed_runs.after_the_records, 1, {0, 1}),
        ("sft", killed_runs.after_the_records, 3, {2, 3}),
    ],
)
def test_invariant_10_a_killed_run_resumes_as_if_nothing_had_happened(
    method: str, when: Callable[[int], None], step: int, again: set[int], tmp_path: Path
) -> None:
    raw, run = cases.raw(method=method, **STEPS), tmp_path / "run"
    assert killed_runs.killed(raw, run, when, step) == -signal.SIGKILL
    checkpoint = RunFolder(run).last_checkpoint()
    assert (checkpoint.name if checkpoint else None) == ("checkpoint-2" if step > 2 else None)
    begun = {record.trajectory.key for record in records.open(run)}
    train(load_config(raw), run, resume=True)
    _assert_same(run, uninterrupted(method))
    for record in records.open(run):
        turns = [turn for turn in record.trajectory.turns if turn.actor == "student"]
        assert {turn.policy_version for turn in turns} <= {record.trajectory.key.step}
    everything = [record.trajectory.key for record in records.open(run, superseded=True)]
    assert begun <= set(everything)
    assert {key.step for key in everything if everything.count(key) == 2} == again


def test_resuming_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    raw, run = cases.raw(method="gkd", **STEPS), tmp_path / "run"
    train(load_config(raw), run)
    before = cases.saved(run), cases.metrics(run), cases.kept(run)
    result = train(load_config(raw), run, resume=True)
    assert cases.same_weights(cases.saved(run), before[0])
    assert cases.same_weights(cases.weights(result.student), cases.weights(result.student) | before[0])
    assert (cases.metrics(run), cases.kept(run)) == before[1:]


def test_a_frozen_pool_that_a_kill_left_empty_is_filled(tmp_path: Path) -> None:
    raw, run = cases.raw(method="sft"), tmp_path / "run"
    config = load_config(raw)
    RunFolder(run).open(config, resume=False)
    pool = run / "frozen" / "fresh" / "records"
    pool.mkdir(parents=True)
    train(config, run, resume=True)
    assert len(records.open(pool)) == 8
