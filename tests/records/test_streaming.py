"""Many episodes and long ones: memory, and what is read for one of them."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.records import RecordWriter, groups
from agentopd.types import Key, Record, Segment, Sparse

STEPS, EACH, TOKENS = 16, 250, 50
MB = 2**20


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,000 episodes."""
    folder = tmp_path_factory.mktemp("many")
    writer, plain = RecordWriter(folder), [plain_record(0, i, TOKENS) for i in range(EACH)]
    for step in range(STEPS):
        writer.write(step, [_under(Key("run", step, i), one) for i, one in enumerate(plain)])
    return folder


def _under(key: Key, record: Record) -> Record:
    return replace(record, trajectory=replace(record.trajectory, key=key))


def _peaks(folder: Path, steps: int) -> tuple[float, float]:
    """The most that Python and Arrow held while ``steps`` steps are read, in MB."""
    opened, arrow = records.open(folder), pa.proxy_memory_pool(pa.default_memory_pool())
    default = pa.default_memory_pool()
    tracemalloc.start()
    pa.set_memory_pool(arrow)
    try:
        count = sum(1 for step in range(steps) for _ in opened.step(step))
        assert count == steps * EACH
        return tracemalloc.get_traced_memory()[1] / MB, arrow.max_memory() / MB
    finally:
        pa.set_memory_pool(default)
        tracemalloc.stop()


def test_iterating_takes_the_same_memory_for_many_episodes_as_for_few(many: Path) -> None:
    _peaks(many, 1)
    few, all_ = _peaks(many, 2), _peaks(many, STEPS)
    assert all_[0] < few[0] + 0.5
    assert all_[1] < few[1] + 0.5
    assert all_[0] < 8
    assert all_[1] < 16


def test_long_episodes_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups are bounded by what is in them, not by how many episodes that is."""
    monkeypatch.setattr(groups, "NUMBERS_AT_MOST", 5 * 1000 + 4 * 998)
    written = [plain_record(0, i, tokens) for i, tokens in enumerate((10, 20, 900, 1000, 5000, 3, 4))]
    assert [len(table) for table in groups.encoded(written)] == [3, 1, 1, 2]
    RecordWriter(tmp_path).write(0, written)
    assert list(records.open(tmp_path)) == written


def test_a_key_reads_the_row_group_that_holds_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "RECORDS_AT_MOST", 50)
    written = [plain_record(0, i) for i in range(1000)]
    RecordWriter(tmp_path).write(0, written)
    read: list[Any] = []
    whole = pq.ParquetFile.read_row_group

    def counted(self: Any, group: int, *more: Any, **named: Any) -> Any:
        read.append((group, named.get("columns")))
        return whole(self, group, *more, **named)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert records.open(tmp_path)["run/0/777/0"] == written[777]
    assert read == [(15, ["key"]), (15, None)]


def test_an_episode_of_64_thousand_tokens_with_two_segments_and_sparse_annotations(tmp_path: Path) -> None:
    tokens, k, random = 2**16, 4, np.random.default_rng(0)
    plain = plain_record(0, 0, tokens)
    (first,) = plain.trajectory.segments
    halves: Any = [array[: tokens // 2] for array in _arrays(first)]
    second = Segment(*halves)
    n = len(plain.annotations[0].index_N)
    block = Sparse(
        random.integers(0, 150_000, (n, k)).astype(np.int32),
        -random.exponential(3, (n, k)).astype(np.float32),
        -random.exponential(3, n).astype(np.float32),
    )
    said = replace(plain.annotations[0], block=block)
    record = replace(plain, trajectory=replace(plain.trajectory, segments=(first, second)), annotations=(said, said))
    RecordWriter(tmp_path).write(0, [record, plain_record(0, 1)])
    assert list(records.open(tmp_path)) == [record, plain_record(0, 1)]
    assert records.open(tmp_path)["run/0/1/0"] == plain_record(0, 1)


def _arrays(segment: Segment) -> list[Any]:
    return [segment.tokens_T, segment.turn_T, segment.actor_T, segment.trainable_T, segment.logprob_T]


def test_an_episode_without_turns_segments_or_annotations(tmp_path: Path) -> None:
    plain = plain_record(0, 0)
    bare = Record(replace(plain.trajectory, turns=(), segments=()))
    RecordWriter(tmp_path).write(0, [bare, replace(bare, trajectory=replace(bare.trajectory, key=Key("run", 0, 1)))])
    assert next(iter(records.open(tmp_path))) == bare
    assert records.open(tmp_path).table(["turns", "source"]).to_pylist()[0] == {
        "turns": 0,
        "source": None,
        "superseded": 0,
    }
