"""The files of a records folder: their names, and how they are written and opened.

``step-000012.parquet`` holds a step's records and ``step-000012.signals.parquet`` its signals. A file that a resumed run does
not count is called ``step-000012.superseded-1.parquet``. A file is written under a hidden name of its own, synced, and given its name, which
no other writer can have given to another.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

import agentopd.records.footer as footer
from agentopd.errors import RecordError
from agentopd.records.claims import delete_abandoned, place, unfinished
from agentopd.records.layout import options
from agentopd.records.schema import ADDED, FORMAT, READABLE, RECORDS, SCHEMA, VERSION, fits
from agentopd.records.signals import KEYS

_NAME = re.compile(r"step-(\d{6,})(\.signals)?(?:\.superseded-(\d+))?\.parquet")
_CLOSED = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}
"""What a system says that lets nobody open a file, whole as it may be."""
_UNSYNCABLE = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES}
"""What file systems say that know no folder's own writing."""
_PART = ".part"


@dataclass(frozen=True, slots=True, order=True)
class StepFile:
    """The name of one file. ``superseded`` is 0 for the file that counts; of the others a larger number is newer."""

    step: int
    superseded: int = 0
    signals: bool = False

    def __str__(self) -> str:
        kind = ".signals" if self.signals else ""
        age = f".superseded-{self.superseded}" if self.superseded else ""
        return f"step-{self.step:06d}{kind}{age}.parquet"


def folder_of(path: str | Path) -> Path:
    """The records folder that ``path`` means: itself where it is called ``records``, else the ``records`` folder in it."""
    path = Path(path)
    return path if path.name == "records" else path / "records"


def listed(folder: Path) -> list[StepFile]:
    """Every record and signal file, by step and age; whatever else lies there is left out."""
    names = [_NAME.fullmatch(path.name) for path in folder.iterdir()]
    return sorted(StepFile(int(n[1]), int(n[3] or 0), n[2] is not None) for n in names if n)


def remove_unfinished(folder: Path) -> None:
    """Deletes what killed writers left; what another writer is at stays."""
    for path in folder.glob(f".*.parquet*{_PART}"):
        delete_abandoned(path)


def write(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes ``groups``, each a row group, so that ``path`` is whole or absent, whenever the process or the machine stops.

    Raises:
        FileExistsError: There is such a file.
        RecordError: The file cannot be written, for instance because the disk is full.
    """
    with writing(path), unfinished(path, _PART) as (aside, file):
        try:
            _write_groups(file, schema, groups)
            footer.seal(file)
            file.flush()
            os.fsync(file.fileno())
            place(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    with writing(path):
        sync(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A file system that refuses ``path``, as an error of ours; that something has the name is told as it is.

    Raises:
        RecordError: It refused.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error}; make room or choose another folder, then resume") from error


def _write_groups(file: IO[bytes], schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(file, schema, **options(schema)) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(len(group), 1))


def supersede(folder: Path, file: StepFile, number: int) -> None:
    """Renames a file to one that does not count.

    Raises:
        RecordError: Another writer does the same at the same time.
    """
    source = folder / str(file)
    target = folder / str(replace(file, superseded=number))
    for second in (target, folder / str(replace(file, superseded=number - 1))):
        if second != source and second.exists() and source.samefile(second):
            source.unlink()  # a kill came between its second name and the end of its first
            return
    try:
        place(source, target)
    except OSError as error:
        raise RecordError(
            f"cannot supersede {source}: {error}; one process at a time can go back to a checkpoint: wait for the other, then repeat it"
        ) from error


def sync(folder: Path) -> None:
    """Makes renames in ``folder`` last, where the file system can do that for a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSYNCABLE:
            raise
    finally:
        os.close(handle)


@contextmanager
def opened(path: Path, form: bytes) -> Iterator[pq.ParquetFile]:
    """Opens a file of the form ``records`` or ``signals``, its checksums verified while it is read.

    Raises:
        RecordError: The file is damaged, is not ours, or is of another version.
    """
    with damage(path, lambda: "its footer"):
        footer.check(path)
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        with damage(path, lambda: "its footer"):
            require_ours(path, file.schema_arrow, form)
        with damage(path, lambda: "its columns"):
            yield file


@contextmanager
def damage(path: Path, part: Callable[[], str]) -> Iterator[None]:
    """Whatever reading ``part`` of a file raises, as one error.

    Raises:
        RecordError: It was not read.
    """
    try:
        yield
    except RecordError:
        raise
    except FileNotFoundError as error:
        raise RecordError(
            f"{path} is gone since these records were opened, as where a resumed run does its step again; open them once more"
        ) from error
    except OSError as error:
        if error.errno in _CLOSED:
            raise RecordError(f"cannot open {path}: {error}; allow that, then open it once more") from error
        raise RecordError(_damaged(path, part(), error)) from error
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:  # damage shows itself anywhere
        raise RecordError(_damaged(path, part(), error)) from error


def _damaged(path: Path, part: str, error: Exception) -> str:
    return f"cannot read {path}, {part}: {error}; the file is damaged: restore it from a copy, or delete it to go on without this step"


def require_ours(path: Path, schema: pa.Schema, form: bytes) -> None:
    """Raises RecordError unless what lies at ``path`` has the schema of a file of this form, in a version that is read."""
    metadata = schema.metadata or {}
    if metadata.get(FORMAT) != form:
        raise RecordError(f"{path} holds no agentopd {form.decode()}; move it out of the folder")
    if metadata.get(VERSION) not in READABLE:
        found = metadata.get(VERSION, b"?").decode(errors="replace")
        known = ", ".join(version.decode() for version in READABLE)
        raise RecordError(
            f"{path} is of version {found}, and this agentopd reads versions {known}; read it with the agentopd that wrote it"
        )
    needed = [name for name in SCHEMA.names if name not in ADDED] if form == RECORDS else KEYS
    absent = [name for name in needed if name not in schema.names]
    if absent:
        raise RecordError(
            f"{path} lacks the columns {', '.join(absent)}, so something else rewrote it; restore it from a copy, or move it out "
            "of the folder to go on without this step"
        )
    held = [name for name in SCHEMA.names if form == RECORDS and name in schema.names]
    other = [name for name in held if not fits(schema.field(name).type, SCHEMA.field(name).type)]
    if other:
        raise RecordError(
            f"{path} holds something else in the columns {', '.join(other)}, so it is damaged or was rewritten; restore it from a "
            "copy, or delete it to go on without this step"
        )
