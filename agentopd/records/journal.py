"""Episodes of a step that is not over: appended as they end, so that a kill loses none of them.

A journal is a hidden file of frames, each its length, its checksum and its content. The first holds the schema, every further one a record. It
goes to the operating system record by record, which outlives the process; a machine that stops may lose what it had not yet written. What
is cut short or damaged ends a journal: everything before is read.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

import pyarrow as pa

import agentopd.records.decoding as decoding
import agentopd.records.encoding as encoding
from agentopd.errors import RecordError
from agentopd.records.claims import taken, unfinished
from agentopd.records.files import require_ours, writing
from agentopd.records.schema import RECORDS, SCHEMA
from agentopd.types import Record

ENDING = ".journal"
_FRAME = struct.Struct("<QI")


class Journal:
    """The journal of one step, of one writer."""

    def __init__(self, path: Path) -> None:
        """Opens a hidden file beside the step's file ``path``.

        Raises:
            RecordError: It cannot be made.
        """
        self._open = ExitStack()
        with writing(path):
            self.path, self._file = self._open.enter_context(unfinished(path, ENDING))
            _append(self._file, SCHEMA.serialize())

    def append(self, record: Record) -> None:
        """Adds a record; once this returns, no end of the process loses it.

        Raises:
            RecordError: It cannot be kept or written.
        """
        (batch,) = encoding.to_table([record]).to_batches()
        with writing(self.path):
            _append(self._file, batch.serialize())

    def delete(self) -> None:
        """Ends it: its records are kept elsewhere."""
        self.path.unlink(missing_ok=True)
        self._open.close()


def abandoned(folder: Path) -> Iterator[tuple[Path, list[Record]]]:
    """The journals of writers that are gone, and their records; nobody else gets them meanwhile. Who has kept the records deletes the file."""
    for path in sorted(folder.glob(f".*{ENDING}")):
        with taken(path) as file:
            if file is not None:
                yield path, read(path)


def read(path: Path) -> list[Record]:
    """The records of a journal as far as it is whole.

    Raises:
        RecordError: It is of another version, or something else.
    """
    with path.open("rb") as file:
        frames = _frames(file)
        schema = next(frames, None)
        if schema is None:
            return []
        # a frame that is whole and yet no record was written by something else
        with suppress(pa.ArrowException, KeyError, TypeError, ValueError):
            kind = pa.ipc.read_schema(pa.py_buffer(schema))
            require_ours(path, kind, RECORDS)
            batches = [pa.ipc.read_record_batch(pa.py_buffer(frame), kind) for frame in frames]
            return [record for one in batches for record in decoding.to_records(pa.Table.from_batches([one]))]
    raise RecordError(f"cannot read {path}: it holds something else than episodes; move it out of the folder")


def _append(file: IO[bytes], content: pa.Buffer) -> None:
    """Adds a frame; where the file system refuses a part of it nothing is added, or what comes later would stand behind a torn one."""
    left = memoryview(_FRAME.pack(content.size, zlib.crc32(content)) + content.to_pybytes())
    handle, end = file.fileno(), os.fstat(file.fileno()).st_size
    os.lseek(handle, end, os.SEEK_SET)
    try:
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, end)
        raise


def _frames(file: IO[bytes]) -> Iterator[bytes]:
    """What is in the frames, up to the first that is not whole."""
    while len(head := file.read(_FRAME.size)) == _FRAME.size:
        size, checksum = _FRAME.unpack(head)
        if size > os.fstat(file.fileno()).st_size - file.tell():
            return
        content = file.read(size)
        if zlib.crc32(content) != checksum:
            return
        yield content
