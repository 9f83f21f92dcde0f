"""The table of the tokens of one trajectory."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.errors import RecordError
from agentopd.records import RecordWriter
from agentopd.types import Record, Segment

NAN = np.nan


class Letters:
    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(97 + i) if i < 26 else "\0" for i in ids)


def segment(tokens: list[int], turn: list[int], logprob: list[float]) -> Segment:
    turn_T = np.array(turn, np.int32)
    actor_T = np.where(turn_T < 0, -1, 0).astype(np.int32)
    return Segment(np.array(tokens, np.int32), turn_T, actor_T, turn_T >= 0, np.array(logprob, np.float32))


@pytest.fixture
def forked() -> Record:
    """Two turns of three and one tokens; the second in a segment of its own. The teacher skips one token, and corrects."""
    record = plain_record(0, 0)
    segments = (
        segment([8, 1, 2, 30, 9], [-1, 0, 0, 0, -1], [0, -0.5, -1, -2, 0]),
        segment([8, 9, 3], [-1, -1, 1], [0, 0, -4]),
    )
    annotation = replace(
        record.annotations[0],
        segment_N=np.array([0, 0, 1, 2], np.int32),
        index_N=np.array([1, 3, 2, 0], np.int32),
        taken_logprob_N=np.array([-0.25, -0.75, -1.5, -9], np.float32),
    )
    return Record(replace(record.trajectory, segments=segments), (annotation,))


SIGNALS = {
    "trajectory": np.array(["run/0/0/0", "run/0/1/0", "run/0/0/0", "run/0/0/0"]),
    "segment": np.array([1, 0, 2, 0], np.int32),
    "index": np.array([2, 1, 0, 2], np.int32),
    "turn": np.array([1, 0, 0, 0], np.int32),
    "loss/nll": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    "top": np.array([[1, 2], [3, 4], [5, 6], [7, 8]], np.int64),
}


def test_every_column_is_aligned_to_the_tokens_that_were_produced(tmp_path: Path, forked: Record) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(0, [forked, plain_record(0, 1)])
    writer.write_signals(0, SIGNALS)
    table = records.open(tmp_path).tokens("run/0/0/0", Letters())
    assert {name: column.tolist() for name, column in table.items() if name in ("turn", "segment", "index")} == {
        "turn": [0, 0, 0, 1],
        "segment": [0, 0, 0, 1],
        "index": [1, 2, 3, 2],
    }
    assert table["token"].tolist() == [1, 2, 30, 3]
    assert table["text"].tolist() == ["b", "c", "\0", "d"]
    np.testing.assert_array_equal(table["behaviour_logprob"], [-0.5, -1, -2, -4])
    np.testing.assert_array_equal(table["teacher_logprob/teacher"], [-0.25, NAN, -0.75, -1.5])
    np.testing.assert_array_equal(table["loss/nll"], np.array([NAN, 0.4, NAN, 0.1], np.float32))
    np.testing.assert_array_equal(table["top"], [[NAN, NAN], [7, 8], [NAN, NAN], [1, 2]])
    assert list(table)[-2:] == ["loss/nll", "top"]


def test_without_signals_and_tokenizer_the_rest_is_there(tmp_path: Path, forked: Record) -> None:
    RecordWriter(tmp_path).write(0, [Record(forked.trajectory), plain_record(0, 1)])
    table = records.open(tmp_path).tokens(forked.trajectory.key)
    assert list(table) == ["turn", "segment", "index", "token", "behaviour_logprob"]


def test_a_trajectory_that_failed_at_once_has_no_tokens(tmp_path: Path, forked: Record) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(0, [Record(replace(forked.trajectory, segments=(), turns=()))])
    writer.write_signals(0, {name: column[:0] for name, column in SIGNALS.items()})
    table = records.open(tmp_path).tokens("run/0/0/0", Letters())
    assert {name: len(column) for name, column in table.items() if len(column)} == {}
    assert table["loss/nll"].dtype == np.float32


def test_superseded_records_have_their_own_signals(tmp_path: Path, forked: Record) -> None:
    writer = RecordWriter(tmp_path)
    for value in (1.0, 2.0):
        writer.write(0, [forked])
        writer.write_signals(0, SIGNALS | {"loss/nll": np.full(4, value, np.float32)})
        writer.supersede_after(-1)
    everything = records.open(tmp_path, superseded=True)
    assert everything.tokens("run/0/0/0")["loss/nll"][1] == 2.0
    assert everything.signals(0)["loss/nll"][0] == 2.0
    writer.write(0, [forked])
    assert "loss/nll" not in records.open(tmp_path, superseded=True).tokens("run/0/0/0")


def test_an_unknown_trajectory_is_an_error(tmp_path: Path, forked: Record) -> None:
    RecordWriter(tmp_path).write(0, [forked])
    with pytest.raises(RecordError, match="no record run/0/7/0"):
        records.open(tmp_path).tokens("run/0/7/0")
