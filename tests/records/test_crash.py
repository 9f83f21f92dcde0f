"""A writer that is killed at any moment leaves every step whole or absent."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from record_cases import plain_record

from agentopd import records

EACH, TOKENS = 200, 400

WRITER = f"""
import sys
sys.path.insert(0, sys.argv[2])
from agentopd.records import RecordWriter
from record_cases import plain_record
batches = [[plain_record(step, i, {TOKENS}) for i in range({EACH})] for step in range(40)]
writer = RecordWriter(sys.argv[1])
print("ready", flush=True)
for step, batch in enumerate(batches):
    writer.write(step, batch)
"""


@pytest.mark.parametrize("milliseconds", [7, 31, 83])
def test_invariant_10_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path, milliseconds: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    read = records.open(tmp_path)
    done = len(read.steps)
    assert read.steps == tuple(range(done))
    assert len(read) == done * EACH
    keys = read.table(["key"])["key"].to_pylist()
    assert len(set(keys)) == len(keys) == done * EACH
    assert all(list(read.step(step))[-1] == plain_record(step, EACH - 1, TOKENS) for step in read.steps)
    records.RecordWriter(tmp_path).write(done, [plain_record(done, 0)])
    assert records.open(tmp_path).steps == (*range(done), done)
    assert not list((tmp_path / "records").glob(".*"))
