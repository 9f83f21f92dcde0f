"""A writer that is killed at any moment loses at most the record that it was writing, and nothing is there twice."""

import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from killed_writers import EACH, dies_at_a_sync, record_of, write

from agentopd import records
from agentopd.records import RecordWriter

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["agentopd.records", "killed_writers"])


def _killed(folder: Path, first: int, attempt: int, after: int, seconds: float) -> list[str]:
    """What a writer had said to be done when it was killed, ``seconds`` after it had done ``after`` things."""
    told = folder / f"told-{attempt}"
    told.touch()
    process = _processes.Process(target=write, args=(folder, first, attempt, told))
    process.start()
    while process.is_alive() and told.read_bytes().count(b"\n") <= after:
        time.sleep(0.0005)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    return told.read_text().splitlines()[1:]


def _check(folder: Path, said: list[str]) -> None:
    """The next writer goes on, and has all that was said to be done."""
    RecordWriter(folder)
    assert not list((folder / "records").glob(".*"))
    counted, everything = records.open(folder), records.open(folder, superseded=True)
    assert counted.steps == tuple(range(len(counted.steps)))
    assert len(counted) == EACH * len(counted.steps)
    keys = everything.table(["key"])["key"].to_pylist()
    assert len(set(keys)) == len(keys)
    assert set(said) <= {str(step) for step in counted.steps} | set(keys)
    for record in everything:
        key = record.trajectory.key
        assert record == record_of(key.step, key.index, key.attempt) or not record.annotations


def _kills(folder: Path, times: int, seed: int) -> int:
    """Kills so many writers one after another; returns how many records outlived a kill before their step was written."""
    random, all_said = np.random.default_rng(seed), list[str]()
    for attempt in range(times):
        first = len(records.open(folder).steps) if (folder / "records").exists() else 0
        after = int(random.integers(0, 2 * EACH + 2))  # of two steps, each EACH records and the step itself
        all_said += _killed(folder, first, attempt, after, random.uniform(0.0, 0.004))
        _check(folder, all_said)
    read = records.open(folder, superseded=True)
    return len(read) - len(records.open(folder))


def test_invariant_10_a_writer_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    assert _kills(tmp_path, 10, seed=0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_invariant_10_two_hundred_kills(tmp_path: Path, seed: int) -> None:
    assert _kills(tmp_path, 10, seed) > 0


def test_invariant_10_a_writer_killed_before_the_rename_leaves_no_half_step(tmp_path: Path) -> None:
    process = _processes.Process(target=dies_at_a_sync, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "records").glob(".step-000002.parquet.*.part"))) == 1
    assert records.open(tmp_path).steps == (0, 1)
    _check(tmp_path, ["0", "1"])
    RecordWriter(tmp_path).write(2, [record_of(2, i, 0) for i in range(EACH)])
    assert records.open(tmp_path).steps == (0, 1, 2)
