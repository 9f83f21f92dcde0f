"""The files of a run: written once, superseded, read by key, refused where they cannot be trusted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.errors import RecordError
from agentopd.records import RecordWriter
from agentopd.types import Failure, Key, Record


def _filled(path: Path, steps: int = 3, each: int = 2) -> RecordWriter:
    writer = RecordWriter(path)
    for step in range(steps):
        writer.write(step, [plain_record(step, i) for i in range(each)])
    return writer


def _signals(size: int = 3) -> dict[str, np.ndarray]:
    return {
        "trajectory": np.array(["run/0/0/0"] * size),
        "segment": np.zeros(size, np.int32),
        "index": np.arange(size, dtype=np.int32),
        "divergence": np.array([0.5, np.nan, 2.0], np.float32)[:size],
        "top_ids": np.arange(2 * size, dtype=np.int64).reshape(size, 2),
        "kept": np.arange(size) > 0,
    }


def test_a_run_folder_and_its_records_folder_are_the_same(tmp_path: Path) -> None:
    _filled(tmp_path / "records")
    by_run, by_folder = records.open(tmp_path), records.open(tmp_path / "records")
    assert by_run.steps == by_folder.steps == (0, 1, 2)
    assert len(by_run) == 6
    assert list(by_run) == list(by_folder) == [plain_record(step, i) for step in range(3) for i in range(2)]
    assert list(by_run.step(1)) == [plain_record(1, 0), plain_record(1, 1)]


def test_a_copied_folder_of_any_name_is_read(tmp_path: Path) -> None:
    _filled(tmp_path)
    (tmp_path / "records").rename(tmp_path / "kept")
    assert len(records.open(tmp_path / "kept")) == 6


def test_a_key_reads_its_own_file_alone(tmp_path: Path) -> None:
    _filled(tmp_path)
    (tmp_path / "records" / "step-000001.parquet").write_bytes(b"damaged")
    read = records.open(tmp_path)
    assert read["run/2/1/0"] == read[Key("run", 2, 1)] == plain_record(2, 1)
    assert "run/2/1/0" in read
    assert Key("run", 2, 5) not in read


def test_a_key_beyond_the_first_row_group_is_found(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write(0, [plain_record(0, i) for i in range(150)])
    read = records.open(tmp_path)
    assert read["run/0/149/0"] == plain_record(0, 149)
    assert [record.trajectory.key.index for record in read] == list(range(150))


def test_an_absent_or_malformed_key_is_an_error(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    writer.write(4, [plain_record(4, 0)])
    read = records.open(tmp_path)
    with pytest.raises(RecordError, match=r"step 7 has no records in .*; those that have some: 0 to 2, 4$"):
        read["run/7/0/0"]
    with pytest.raises(RecordError, match=r"no record run/1/2/0; step 1 holds 2, run/1/0/0 to run/1/1/0$"):
        read["run/1/2/0"]
    with pytest.raises(RecordError, match=r"no record other/4/0/0; step 4 holds 1, run/4/0/0$"):
        read[Key("other", 4, 0)]
    for malformed in ("seven", "run/1/0", "run/1/one/0", ("run", 1, 0, 0), 3):
        with pytest.raises(RecordError, match=r"is no key.*run/step/index/attempt"):
            read[malformed]  # type: ignore[index]
    assert "run/1/2/0" not in read


def test_a_step_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    writer.write(4, [])
    read = records.open(tmp_path)
    assert list(read.step(4)) == []
    with pytest.raises(RecordError, match=r"step 3 has no records in .*; those that have some: 0 to 2, 4"):
        read.step(3)
    with pytest.raises(RecordError, match=r"step 0 has no signals in .*; none has any.*records\.signals"):
        read.signals(0)
    with pytest.raises(RecordError, match=r"step -1 has no records"):
        read.signals(-1)
    writer.write_signals(1, _signals())
    with pytest.raises(RecordError, match=r"step 0 has no signals in .*; those that have some: 1$"):
        records.open(tmp_path).signals(0)


def test_a_step_is_written_once(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    with pytest.raises(RecordError, match=r"step-000001\.parquet exists already.*supersede_after"):
        writer.write(1, [plain_record(1, 0)])
    assert len(records.open(tmp_path)) == 6


def test_keys_belong_to_their_step_and_come_once(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    with pytest.raises(RecordError, match="belongs to step 4"):
        writer.write(5, [plain_record(4, 0)])
    with pytest.raises(RecordError, match="2 records of the key run/5/0/0"):
        writer.write(5, [plain_record(5, 0), plain_record(5, 0)])
    assert len(records.open(tmp_path)) == 0


def test_a_step_without_records_is_kept_as_such(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write(0, [])
    assert records.open(tmp_path).steps == (0,)
    assert list(records.open(tmp_path)) == []


def test_superseded_records_are_kept_and_not_counted(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    writer.write_signals(2, _signals())
    assert writer.supersede_after(0) == [1, 2]
    assert records.open(tmp_path).steps == (0,)
    with pytest.raises(RecordError, match=r"step 2 has no records.*: 0$"):
        records.open(tmp_path).signals(2)
    writer.write(1, [plain_record(1, 0, tokens=9)])
    assert writer.supersede_after(0) == [1]
    writer.write(1, [plain_record(1, 0, tokens=5)])
    counted, everything = records.open(tmp_path), records.open(tmp_path, superseded=True)
    assert (len(counted), len(everything)) == (3, 8)
    assert counted["run/1/0/0"] == everything["run/1/0/0"] == plain_record(1, 0, tokens=5)
    assert everything["run/2/1/0"] == plain_record(2, 1)
    assert len(everything.signals(2)["index"]) == 3
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [
        "step-000000.parquet",
        "step-000001.parquet",
        "step-000001.superseded-1.parquet",
        "step-000001.superseded-2.parquet",
        "step-000002.signals.superseded-1.parquet",
        "step-000002.superseded-1.parquet",
    ]


def test_signals_go_with_the_records_that_they_were_written_with(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for reward in (1.0, 2.0):
        writer.write(1, [plain_record(1, i) for i in range(2)])
        mine = np.array(["run/1/1/0"] * 3)
        writer.write_signals(1, _signals() | {"trajectory": mine, "divergence": np.full(3, reward, np.float32)})
        if reward == 1:
            writer.supersede_after(0)
    for everything, rewards in ((True, [2.0, 1.0]), (False, [2.0])):
        told = list(records.open(tmp_path, superseded=everything).with_signals())
        assert [str(record.trajectory.key) for record, _ in told] == ["run/1/0/0", "run/1/1/0"] * len(rewards)
        assert [len(columns["index"]) for _, columns in told] == [0, 3] * len(rewards)
        assert sorted(columns["divergence"].tolist() for _, columns in told[1::2]) == sorted([r] * 3 for r in rewards)
        assert all(columns["top_ids"].shape == (3, 2) for _, columns in told[1::2])
    assert records.open(tmp_path).tokens("run/1/1/0")["divergence"][0] == 2.0


def test_signals_that_are_damaged_can_be_left_out(tmp_path: Path) -> None:
    _filled(tmp_path).write_signals(0, _signals())
    path = tmp_path / "records" / "step-000000.signals.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RecordError, match=path.name):
        list(records.open(tmp_path).with_signals())
    opened = records.open(tmp_path, skip_damaged=True)
    assert [columns for _, columns in opened.with_signals()] == [{}] * 6
    assert path.name in opened.damaged[0]


def test_superseding_can_be_cut_short_and_repeated(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    writer.write_signals(2, _signals())
    folder = tmp_path / "records"
    (folder / "step-000002.signals.parquet").rename(folder / "step-000002.signals.superseded-1.parquet")
    assert writer.supersede_after(1) == [2]
    assert writer.supersede_after(1) == []
    assert (folder / "step-000002.superseded-1.parquet").exists()


def test_the_newest_superseded_record_is_found_when_none_counts(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for tokens in (4, 6):
        writer.write(1, [plain_record(1, 0, tokens=tokens)])
        writer.supersede_after(0)
    assert records.open(tmp_path, superseded=True)["run/1/0/0"] == plain_record(1, 0, tokens=6)


def test_an_unfinished_file_is_ignored_and_cleaned(tmp_path: Path) -> None:
    _filled(tmp_path)
    unfinished = tmp_path / "records" / ".step-000003.parquet.part"
    unfinished.write_bytes(b"half")
    assert records.open(tmp_path).steps == (0, 1, 2)
    RecordWriter(tmp_path)
    assert not unfinished.exists()


def test_plain_columns_are_a_table(tmp_path: Path) -> None:
    failed = plain_record(0, 0, success=False)
    failed = Record(replace(failed.trajectory, failure=Failure("env", "timeout", "30 s")))
    writer = RecordWriter(tmp_path)
    writer.write(0, [failed])
    writer.supersede_after(-1)
    writer.write(0, [plain_record(0, 0), plain_record(0, 1)])
    assert records.open(tmp_path).table().num_rows == 2
    rows = records.open(tmp_path, superseded=True).table().to_pylist()
    assert [row["superseded"] for row in rows] == [0, 0, 1]
    assert [row["failure"] for row in rows] == [None, None, "timeout"]
    first = rows[0]
    assert {k: first[k] for k in ("step", "env", "success", "reward", "turns", "tokens", "errors", "source")} == {
        "step": 0,
        "env": "toy/Sum-v0",
        "success": True,
        "reward": 1.0,
        "turns": 1,
        "tokens": 4,
        "errors": 1,
        "source": "fresh",
    }
    assert first["task"] == plain_record(0, 0).trajectory.task.id
    assert records.open(tmp_path).table(["key", "segments"]).column_names == ["key", "segments", "superseded"]


def test_signals_come_back_equal(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    for size in (3, 0):
        step = 0 if size else 1
        writer.write_signals(step, _signals(size))
        read = records.open(tmp_path).signals(step)
        assert list(read) == list(_signals())
        for name, column in _signals(size).items():
            assert read[name].dtype.kind == column.dtype.kind
            np.testing.assert_array_equal(read[name], column)
    assert records.open(tmp_path).signal_steps == (0, 1)


def test_signals_take_text_as_python_objects(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    keys = np.array(["run/0/0/0", "run/0/1/0", "run/0/1/0"], dtype=object)
    writer.write_signals(0, _signals() | {"trajectory": keys})
    read = records.open(tmp_path).signals(0)
    assert list(read["trajectory"]) == list(keys)


def test_signals_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    with pytest.raises(RecordError, match="no records"):
        writer.write_signals(9, _signals())
    with pytest.raises(RecordError, match="lack the columns segment, index"):
        writer.write_signals(0, {"trajectory": np.array(["run/0/0/0"])})
    with pytest.raises(RecordError, match="different lengths"):
        writer.write_signals(0, _signals() | {"weight": np.ones(2)})
    with pytest.raises(RecordError, match=r"odd is object"):
        writer.write_signals(0, _signals() | {"odd": np.array([None] * 3)})
    writer.write_signals(0, _signals())
    with pytest.raises(RecordError, match="exists already"):
        writer.write_signals(0, _signals())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere does not exist; give a run folder"):
        records.open(tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"holds no records; give a run folder"):
        records.open(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0")
    with pytest.raises(RecordError, match=r"holds no records.*config\.yaml.*records\.keep"):
        records.open(tmp_path)
    with pytest.raises(RecordError, match=r"config\.yaml is a file; give a run folder"):
        records.open(tmp_path / "config.yaml")


@pytest.mark.parametrize("keep", [0, 3, 40, -20])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    _filled(tmp_path)
    path = tmp_path / "records" / "step-000001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordError, match=r"step-000001\.parquet.*damaged"):
        list(records.open(tmp_path))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "holds no agentopd records"),
        ({"agentopd.format": "signals", "agentopd.version": "3"}, "holds no agentopd records"),
        (
            {"agentopd.format": "records", "agentopd.version": "1"},
            "version 1, .*reads versions 3, 4, 5; read it with the agentopd",
        ),
        ({"agentopd.format": "records", "agentopd.version": "99"}, "version 99.*reads versions 3, 4, 5"),
    ],
)
def test_a_file_of_another_form_or_version_is_named(tmp_path: Path, metadata: dict[str, str], said: str) -> None:
    _filled(tmp_path)
    table = pa.table({"a": [1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "records" / "step-000001.parquet")
    with pytest.raises(RecordError, match=said):
        len(records.open(tmp_path))


@pytest.mark.parametrize("cut", [lambda data: b"not a table", lambda data: b"", lambda data: data[:-30]])
def test_a_signals_file_that_is_damaged_or_foreign_is_named(tmp_path: Path, cut: Callable[[bytes], bytes]) -> None:
    _filled(tmp_path).write_signals(1, _signals())
    path = tmp_path / "records" / "step-000001.signals.parquet"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(
        RecordError, match=r"step-000001\.signals\.parquet.*damaged: restore it from a copy, or delete it"
    ):
        records.open(tmp_path).signals(1)


@pytest.mark.parametrize(
    ("name", "lacking"), [("step-000001", "run, step, .*annotations"), ("step-000001.signals", "segment")]
)
def test_a_file_that_was_rewritten_with_fewer_columns_is_named(tmp_path: Path, name: str, lacking: str) -> None:
    _filled(tmp_path).write_signals(1, _signals())
    path = tmp_path / "records" / f"{name}.parquet"
    kept = [column for column in ("key", "trajectory", "index") if column in pq.read_schema(path).names]
    pq.write_table(pq.read_table(path, columns=kept), path)
    read = records.open(tmp_path)
    with pytest.raises(RecordError, match=rf"{name}\.parquet lacks the columns {lacking}, so .*restore it"):
        read.tokens("run/1/0/0")


def test_a_file_that_was_written_before_there_were_families_is_read(tmp_path: Path) -> None:
    _filled(tmp_path, steps=2, each=1)
    path = tmp_path / "records" / "step-000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["family"]), path)
    new = Record(replace(plain_record(2, 0).trajectory, family="gcd"))
    RecordWriter(tmp_path).write(2, [new])
    read = records.open(tmp_path)
    assert list(read) == [plain_record(0, 0), plain_record(1, 0), new]
    assert read["run/1/0/0"] == plain_record(1, 0)
    assert [row["family"] for row in read.table().to_pylist()] == ["", "", "gcd"]
    assert read.table(["family"]).to_pydict() == {"family": ["", "", "gcd"], "superseded": [0, 0, 0]}


def test_a_version_that_is_no_text_is_named(tmp_path: Path) -> None:
    _filled(tmp_path)
    path = tmp_path / "records" / "step-000001.parquet"
    metadata = {b"agentopd.format": b"records", b"agentopd.version": b"\xff"}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    with pytest.raises(RecordError, match=r"step-000001\.parquet is of version"):
        len(records.open(tmp_path))


def test_a_column_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    _filled(tmp_path)
    with pytest.raises(RecordError, match=r"'sucess' is no column of records; .*success"):
        records.open(tmp_path).table(["key", "sucess"])


def test_a_disk_that_refuses_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = _filled(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RecordError, match=r"step-000003\.parquet.*No space left.*make room"):
        writer.write(3, [plain_record(3, 0)])
    assert len(list((tmp_path / "records").iterdir())) == 3
