"""A writer that is killed at any moment leaves every step whole or absent."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from record_cases import plain_record

from agentopd import records

EACH, TOKENS = 100, 200

PREAMBLE = f"""
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from agentopd.records import RecordWriter
from record_cases import plain_record
writer = RecordWriter(sys.argv[1])
batches = [[plain_record(step, i, {TOKENS}) for i in range({EACH})] for step in range(3)]
"""

ANY_MOMENT = f"""
print("ready", flush=True)
for step in range(10_000):
    writer.write(step, [plain_record(step, i, {TOKENS}) for i in range({EACH})])
"""

BEFORE_THE_RENAME = """
syncs, sync = 0, os.fsync
def stop_at_the_fifth(handle):  # each step syncs its file, then its folder
    global syncs
    syncs += 1
    if syncs == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(handle)
os.fsync = stop_at_the_fifth
print("ready", flush=True)
for step, batch in enumerate(batches):
    writer.write(step, batch)
"""


def _run_until_killed(folder: Path, script: str, steps: int = 0, seconds: float = 0.0) -> None:
    """Runs ``script``; kills it ``seconds`` after it has written ``steps`` steps, where it does not do so itself."""
    command = [sys.executable, "-c", PREAMBLE + script, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if steps:
            while not (folder / "records" / f"step-{steps - 1:06d}.parquet").exists():
                time.sleep(0.001)
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def _check(folder: Path) -> int:
    """Every step is whole or absent, nothing is there twice, and the writer can go on. Returns the steps that were whole."""
    read = records.open(folder)
    done = len(read.steps)
    assert read.steps == tuple(range(done))
    keys = read.table(["key"])["key"].to_pylist()
    assert len(set(keys)) == len(keys) == len(read) == done * EACH
    assert all(list(read.step(step))[-1] == plain_record(step, EACH - 1, TOKENS) for step in read.steps)
    records.RecordWriter(folder).write(done, [plain_record(done, 0)])
    assert records.open(folder).steps == (*range(done), done)
    assert not list((folder / "records").glob(".*"))
    return done


@pytest.mark.parametrize("seed", range(4))
def test_invariant_10_a_writer_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = int(random.integers(1, 4))
    _run_until_killed(tmp_path, ANY_MOMENT, steps, seconds=random.uniform(0, 0.05))
    assert _check(tmp_path) >= steps


def test_invariant_10_a_writer_killed_before_the_rename_leaves_no_half_step(tmp_path: Path) -> None:
    _run_until_killed(tmp_path, BEFORE_THE_RENAME)
    assert [path.name for path in (tmp_path / "records").glob(".*")] == [".step-000002.parquet.part"]
    assert _check(tmp_path) == 2
