"""Files of every version that was ever written and is still read: what they hold, kept as they were written.

A new version needs a file of its own: ``python tests/records/test_versions.py`` writes that of today's.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.records import RecordWriter
from agentopd.records.compact import compacted
from agentopd.records.schema import CURRENT, READABLE
from agentopd.types import CallOutcome, Failure, Key, Record, Span, Sparse

KEPT = Path(__file__).parent / "versions"


def held(version: int) -> list[Record]:
    """What the file of a version holds: something of all that it can."""
    plain = plain_record(0, 0, 6)
    (said,), (turn,), n = plain.annotations, plain.trajectory.turns, 4
    ids, logprob, tail = np.arange(2 * n).reshape(n, 2).astype(np.int32), np.full((n, 2), -1.5), np.full(n, -0.75)
    sparse = Sparse(ids, logprob.astype(np.float32), tail.astype(np.float32), "student")
    own, other = np.array([[0, 2], [2, 4]], np.int32), np.array([[0, 1], [1, 4]], np.int32)
    span = Span(own, other, np.array([-0.5, -2.0], np.float32))
    trajectory = replace(
        plain.trajectory,
        turns=(
            replace(
                turn,
                advice="b",
                thinking=1,
                outcomes=(CallOutcome("add", "tool_error", 0.5, True),),
                observations=({"role": "tool", "name": "add", "content": "5"},),
            ),
        ),
        privileged={"answer": (1, 2)},
        family="sums",
        failure=Failure("env", "timeout", "30 s"),
        origin=Key("other", 3, 1),
        opening=({"role": "user", "content": "2 + 3?"},),
        tools=({"type": "function"},),
        versions={"agentopd": "0.1.0"},
    )
    corrected = replace(plain.trajectory.segments[0], source="corrected")
    unsure = {"epistemic": said.taken_logprob_N}
    annotations = [
        said,
        replace(said, teacher="sparse", block=sparse, statistics=unsure, corrected_S=("c",), segments=(corrected,)),
        replace(said, teacher="span", block=span),
    ]
    if version >= 4:
        annotations.append(replace(said, teacher="compact", block=compacted(replace(sparse, of="teacher"))))
    return [Record(trajectory, tuple(annotations)), plain_record(0, 1, 6)]


@pytest.mark.parametrize("version", [int(each) for each in READABLE])
def test_a_file_of_an_older_version_is_read(version: int, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    shutil.copy(KEPT / f"{version}.parquet", tmp_path / "records" / "step-000000.parquet")
    opened = records.open(tmp_path)
    assert list(opened) == held(version)
    assert opened["run/0/1/0"] == held(version)[1]
    RecordWriter(tmp_path).write(1, [plain_record(1, 0)])
    assert len(records.open(tmp_path).table(["key", "annotations", "turn_S"])) == 3


def test_todays_version_has_a_file() -> None:
    assert READABLE[-1] == CURRENT
    assert sorted(path.stem for path in KEPT.iterdir()) == [each.decode() for each in READABLE]


if __name__ == "__main__":
    folder = Path("records")
    RecordWriter(folder).write(0, held(int(CURRENT)))
    shutil.move(folder / "step-000000.parquet", KEPT / f"{CURRENT.decode()}.parquet")
    folder.rmdir()
