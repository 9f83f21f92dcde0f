"""Folders, journals and texts that a store meets seldom."""

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.errors import RecordError
from agentopd.records import RecordWriter, encoding, groups, journal
from agentopd.records.plain import from_json, to_json
from agentopd.records.schema import FORMAT, RECORDS, VERSION
from agentopd.types import Message, Record

HALVES = "\ud83d\ude00"
"""Two characters, which JSON would join into one."""


def _with(record: Record, **changes: Any) -> Record:
    return replace(record, trajectory=replace(record.trajectory, **changes))


def test_a_run_may_be_called_records(tmp_path: Path) -> None:
    run = tmp_path / "records"
    RecordWriter(run / "records").write(0, [plain_record(0, 0)])
    for path in (run, run / "records"):
        assert list(records.open(path)) == [plain_record(0, 0)]


@pytest.mark.parametrize("below", ["", "run"])
def test_a_folder_that_cannot_be_made_is_one_error(below: str, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("")
    with pytest.raises(RecordError, match=r"cannot (make|write) .*records.*; .*choose another"):
        RecordWriter(tmp_path / "records" / below)


def test_two_half_surrogates_stay_two_characters(tmp_path: Path) -> None:
    odd = {HALVES: [HALVES, (f"a{HALVES}\0b",)], "!text": HALVES, "plain": "😀"}
    assert from_json(to_json(odd, "here")) == odd
    said = Message(role="user", content=HALVES)
    record = _with(plain_record(0, 0), opening=(said,), privileged=odd)
    RecordWriter(tmp_path).write(0, [record])
    assert records.open(tmp_path)["run/0/0/0"] == record


def test_long_texts_bound_a_row_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "NUMBERS_AT_MOST", 1000)
    (turn,) = plain_record(0, 0).trajectory.turns
    long = Message(role="tool", content="x" * 1600)
    for changes in (
        {"opening": (long,)},
        {"turns": (replace(turn, observations=(long,)),)},
        {"turns": (replace(turn, text="x" * 1600),)},
    ):
        written = [_with(plain_record(0, i), **changes) for i in range(5)]
        assert [len(table) for table in groups.encoded(written)] == [2, 2, 1]


def _journal_of_tomorrow(folder: Path) -> Path:
    """What a version leaves that knows one more of a turn."""
    table = encoding.to_table([plain_record(0, 0)])
    turns = table["turn_S"].combine_chunks()
    known = turns.values
    named = pa.StructArray.from_arrays(
        [*known.flatten(), pa.array([1])], [field.name for field in known.type] + ["mood"]
    )
    place = table.column_names.index("turn_S")
    table = table.set_column(place, "turn_S", pa.ListArray.from_arrays(turns.offsets, named))
    table = table.replace_schema_metadata({FORMAT: RECORDS, VERSION: b"99"})
    path = folder / "records" / ".step-000000.parquet.1.journal"
    path.parent.mkdir()
    with path.open("wb") as file:
        for part in (table.schema, *table.combine_chunks().to_batches()):
            journal._append(file, part.serialize())
    return path


def test_a_journal_of_another_version_is_one_error_and_stays(tmp_path: Path) -> None:
    path = _journal_of_tomorrow(tmp_path)
    for read in (lambda: RecordWriter(tmp_path), lambda: list(records.open(tmp_path).unfinished())):
        with pytest.raises(RecordError, match=r"1\.journal is of version 99, and this agentopd reads versions"):
            read()
    assert path.exists()


def test_a_journal_that_ends_while_it_is_read_is_no_error(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for step in range(2):
        writer.note(step, plain_record(step, 0))
    noted = records.open(tmp_path).unfinished()
    next(noted)
    for step in range(2):
        writer.write(step, [plain_record(step, 0)])
    assert list(noted) == []


def test_what_a_resumed_run_renamed_is_not_called_damaged(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    for step in range(2):
        writer.write(step, [plain_record(step, 0)])
    read = iter(records.open(tmp_path))
    next(read)
    writer.supersede_after(0)
    with pytest.raises(
        RecordError, match=r"step-000001\.parquet is gone since these records were opened, .*; open them once more"
    ):
        next(read)


def test_what_is_noted_behind_a_full_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordWriter(tmp_path)
    writer.note(0, plain_record(0, 0))
    room, put = [100], os.write

    def full(handle: int, content: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space left")
        size = put(handle, content[: room[0]])
        room[0] -= size
        return size

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(RecordError, match="no space left; make room"):
            writer.note(0, plain_record(0, 1))
    assert room == [0]
    writer.note(0, plain_record(0, 2))
    assert list(records.open(tmp_path).unfinished()) == [plain_record(0, 0), plain_record(0, 2)]
