"""The files of a records folder: their names, and how they are written and opened.

``step-000012.parquet`` holds a step's records and ``step-000012.signals.parquet`` its signals. A file that a resumed run does
not count is called ``step-000012.superseded-1.parquet``. A file is written under a hidden name, synced, and renamed.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agentopd.errors import RecordError
from agentopd.records.schema import ADDED, CURRENT, FORMAT, RECORDS, SCHEMA, VERSION, fits
from agentopd.records.signals import KEYS

ROW_GROUP = 64
"""Records that are decoded at once."""

_NAME = re.compile(r"step-(\d{6,})(\.signals)?(?:\.superseded-(\d+))?\.parquet")
_UNFINISHED = ".*.parquet.part"


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
    """Deletes what a killed writer left."""
    for path in folder.glob(_UNFINISHED):
        path.unlink()


def write(path: Path, table: pa.Table) -> None:
    """Writes ``table`` so that ``path`` is whole or absent, whenever the process or the machine stops.

    Raises:
        RecordError: The file cannot be written, for instance because the disk is full.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True, row_group_size=ROW_GROUP)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
        sync(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise RecordError(f"cannot write {path}: {error}; make room or choose another folder, then resume") from error


def supersede(folder: Path, file: StepFile, number: int) -> None:
    """Renames a file to one that does not count."""
    (folder / str(file)).rename(folder / str(replace(file, superseded=number)))


def sync(folder: Path) -> None:
    """Makes renames in ``folder`` last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def opened(path: Path, form: bytes) -> Iterator[pq.ParquetFile]:
    """Opens a file of the form ``records`` or ``signals``, its checksums verified while it is read.

    Raises:
        RecordError: The file is damaged, is not ours, or is of another version.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _require_ours(path, file.schema_arrow, form)
            yield file
    except RecordError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:  # damage shows itself anywhere
        raise RecordError(
            f"cannot read {path}: {error}; the file is damaged: restore it from a copy, or delete it to go on without this step"
        ) from error


def _require_ours(path: Path, schema: pa.Schema, form: bytes) -> None:
    metadata = schema.metadata or {}
    if metadata.get(FORMAT) != form:
        raise RecordError(f"{path} is a Parquet file, but holds no agentopd {form.decode()}; move it out of the folder")
    if metadata.get(VERSION) != CURRENT:
        found = metadata.get(VERSION, b"?").decode(errors="replace")
        raise RecordError(
            f"{path} is of version {found}, and this agentopd reads version {CURRENT.decode()}; read it with the agentopd that wrote it"
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
