"""Several writers at one folder, and what they leave to each other."""

import errno
import multiprocessing
import os
import resource
import stat
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from record_cases import plain_record

from agentopd import records
from agentopd.errors import RecordError
from agentopd.records import RecordWriter, claims
from agentopd.records.files import StepFile

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["agentopd.records", "record_cases"])
STEPS, EACH = 5, 4


def _contend(folder: Path, me: int, own: bool, links: bool, won: "multiprocessing.Queue[tuple[int, int, str]]") -> None:
    """Writes the steps that are its own, or all of them, and says which it wrote and why it did not."""
    if not links:
        os.link = _no_links
    writer = RecordWriter(folder)
    for step in range(me, 2 * STEPS, 2) if own else range(STEPS):
        batch = [plain_record(step, i, tokens=10 + me) for i in range(EACH)]
        try:
            for record in batch:
                writer.note(step, record)
            writer.write(step, batch)
            won.put((me, step, ""))
        except RecordError as error:
            won.put((me, step, str(error)))
    won.close()
    won.join_thread()


def _no_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "no links here")


def _both(folder: Path, own: bool, links: bool) -> list[tuple[int, int, str]]:
    won: multiprocessing.Queue[tuple[int, int, str]] = _processes.Queue()
    both = [_processes.Process(target=_contend, args=(folder, me, own, links, won)) for me in (0, 1)]
    for one in both:
        one.start()
    told = [won.get(timeout=60) for _ in range(2 * STEPS)]
    for one in both:
        one.join()
        assert one.exitcode == 0
    return told


@pytest.mark.parametrize("links", [True, False])
def test_writers_of_different_steps_lose_nothing(tmp_path: Path, links: bool) -> None:
    told = _both(tmp_path, own=True, links=links)
    assert not any(error for _, _, error in told)
    assert records.open(tmp_path).steps == tuple(range(2 * STEPS))
    assert len(list(records.open(tmp_path))) == 2 * STEPS * EACH


@pytest.mark.parametrize("links", [True, False])
def test_of_two_writers_of_one_step_one_has_it_and_the_other_is_told(tmp_path: Path, links: bool) -> None:
    told = _both(tmp_path, own=False, links=links)
    winners = {step: me for me, step, error in told if not error}
    assert sorted(winners) == list(range(STEPS))
    refused = [error for _, _, error in told if error]
    assert len(refused) == STEPS
    assert all("exists already; a step is written once" in error for error in refused)
    for record in records.open(tmp_path):
        key = record.trajectory.key
        assert record == plain_record(key.step, key.index, tokens=10 + winners[key.step])
    RecordWriter(tmp_path)  # what the others had noted is not lost
    aside = [
        record for record in records.open(tmp_path, superseded=True) if len(record.trajectory.segments[0]) == 10 + 1
    ]
    assert len(records.open(tmp_path, superseded=True)) == 2 * STEPS * EACH
    assert len(aside) == STEPS * EACH


def test_what_a_living_writer_has_not_finished_stays(tmp_path: Path) -> None:
    first = RecordWriter(tmp_path)
    first.note(0, plain_record(0, 0))
    path = tmp_path / "records" / str(StepFile(1))
    with claims.unfinished(path, ".part") as (aside, file):
        file.write(b"half")
        second = RecordWriter(tmp_path)
        second.write(2, [plain_record(2, 0)])
        assert aside.exists()
        assert list(records.open(tmp_path).unfinished()) == [plain_record(0, 0)]
        assert records.open(tmp_path, superseded=True).steps == (2,)
    RecordWriter(tmp_path)
    assert not aside.exists()
    first.write(0, [plain_record(0, 0)])
    assert not list(records.open(tmp_path).unfinished())
    assert records.open(tmp_path, superseded=True).steps == (0, 2)


def test_what_was_noted_of_a_step_that_was_never_written_is_kept_superseded(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(0, [plain_record(0, 0)])
    for i in (2, 0, 1):
        writer.note(1, plain_record(1, i))
    del writer  # its locks go with it
    again = RecordWriter(tmp_path)
    assert records.open(tmp_path).steps == (0,)
    everything = records.open(tmp_path, superseded=True)
    assert list(everything.step(1)) == [plain_record(1, i) for i in range(3)]
    again.write(1, [plain_record(1, 0)])
    assert records.open(tmp_path).steps == (0, 1)
    assert not list((tmp_path / "records").glob(".*"))


@pytest.mark.parametrize("written", ["counted", "aside"])
def test_what_was_noted_and_is_kept_already_is_not_kept_twice(tmp_path: Path, written: str) -> None:
    """A kill between the step's file and the end of its journal."""
    batch = [plain_record(0, i) for i in range(3)]
    writer = RecordWriter(tmp_path)
    for record in reversed(batch):
        writer.note(0, record)
    other = RecordWriter(tmp_path)
    (other.write if written == "counted" else other.write_aside)(0, batch)
    del writer
    RecordWriter(tmp_path)
    assert list(records.open(tmp_path, superseded=True)) == batch
    assert not list((tmp_path / "records").glob(".*"))


@pytest.mark.parametrize("keep", ["length", "checksum"])
def test_a_journal_is_read_up_to_what_is_whole(tmp_path: Path, keep: str) -> None:
    writer = RecordWriter(tmp_path)
    for i in range(3):
        writer.note(0, plain_record(0, i))
    (path,) = (tmp_path / "records").glob(".*.journal")
    whole = path.read_bytes()
    middle = len(whole) * 9 // 10
    path.write_bytes(whole[:middle] if keep == "length" else whole[:middle] + b"\xff" + whole[middle + 1 :])
    assert list(records.open(tmp_path).unfinished()) == [plain_record(0, 0), plain_record(0, 1)]


def test_a_journal_cut_at_any_length_gives_the_records_before(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    ends = []
    for i in range(4):
        writer.note(0, plain_record(0, i))
        (path,) = (tmp_path / "records").glob(".*.journal")
        ends.append(path.stat().st_size)
    whole = path.read_bytes()
    for length in range(0, len(whole) + 1, len(whole) // 60):
        path.write_bytes(whole[:length])
        held = sum(end <= length for end in ends)
        assert list(records.open(tmp_path).unfinished()) == [plain_record(0, i) for i in range(held)]


def test_a_file_system_without_locks_keeps_what_it_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(claims, "take", refuses)
    writer = RecordWriter(tmp_path)
    writer.write(0, [plain_record(0, 0)])
    assert "cannot be locked" in caplog.text
    left = tmp_path / "records" / ".step-000001.parquet.part"
    left.write_bytes(b"half")
    RecordWriter(tmp_path)
    assert left.exists()
    assert records.open(tmp_path).steps == (0,)


def test_superseding_that_was_killed_between_two_names_ends_with_one(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(0, [plain_record(0, 0)])
    folder = tmp_path / "records"
    os.link(folder / "step-000000.parquet", folder / "step-000000.superseded-1.parquet")
    assert writer.supersede_after(-1) == [0]
    assert [path.name for path in folder.iterdir()] == ["step-000000.superseded-1.parquet"]


@pytest.mark.parametrize(("number", "refused"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_a_folder_is_none_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, refused: bool
) -> None:
    whole = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RecordError, match="cannot write") if refused else nullcontext():
        RecordWriter(tmp_path).write(0, [plain_record(0, 0)])
    assert len(records.open(tmp_path)) == 1


def test_a_process_without_free_handles_is_not_told_of_damage(tmp_path: Path) -> None:
    RecordWriter(tmp_path).write(0, [plain_record(0, 0)])
    opened = records.open(tmp_path)
    next(iter(opened))
    some, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
    try:
        with pytest.raises(RecordError, match=r"cannot open .*Too many open files.*, then open it once more$"):
            list(opened)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (some, most))
    assert len(list(opened)) == 1


def test_superseding_that_was_killed_at_the_signals_ends_with_both(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(0, [plain_record(0, 0)])
    key = np.array([str(plain_record(0, 0).trajectory.key)])
    writer.write_signals(0, {"trajectory": key, "segment": np.zeros(1, np.int32), "index": np.zeros(1, np.int32)})
    folder = tmp_path / "records"
    os.link(folder / "step-000000.signals.parquet", folder / "step-000000.signals.superseded-1.parquet")
    assert writer.supersede_after(-1) == [0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "step-000000.signals.superseded-1.parquet",
        "step-000000.superseded-1.parquet",
    ]
