"""The row groups of a record file: episodes that are written, read and decoded together."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import agentopd.records.decoding as decoding
import agentopd.records.encoding as encoding
from agentopd.errors import RecordError
from agentopd.records.files import damage, opened
from agentopd.records.schema import RECORDS
from agentopd.types import Key, Record, Sparse

RECORDS_AT_MOST = 1024
"""In a row group."""
NUMBERS_AT_MOST = 2**21
"""In a row group of more than one record, about: 8 MB of them are in memory at a time."""
DECODED = 64
"""Records that are decoded at once."""


def encoded(records: Sequence[Record]) -> Iterator[pa.Table]:
    """Tables of the records in order, a row group each.

    Raises:
        RecordError: As of :func:`agentopd.records.encoding.to_table`.
    """
    first, size = 0, 0
    for i, record in enumerate(records):
        more = _size(record)
        if i > first and (i - first == RECORDS_AT_MOST or size + more > NUMBERS_AT_MOST):
            yield encoding.to_table(records[first:i])
            first, size = i, 0
        size += more
    if first < len(records):
        yield encoding.to_table(records[first:])


def _size(record: Record) -> int:
    """How many numbers a record holds, about; four characters of text take as much as one."""
    one = record.trajectory
    said = [message for heard in (one.opening, *(turn.observations for turn in one.turns)) for message in heard]
    text = sum(len(message["content"]) for message in said) + sum(
        len(turn.text) + len(turn.action) for turn in one.turns
    )
    size = 5 * sum(map(len, one.segments)) + text // 4
    for annotation in record.annotations:
        size += 4 * len(annotation.index_N)
        if isinstance(annotation.block, Sparse):
            size += 2 * annotation.block.ids_N_K.size
    return size


def read(path: Path, left_out: Callable[[RecordError], None] | None = None) -> Iterator[Record]:
    """The records of a file; of a damaged one those of the row groups before the damage, or, with ``left_out``, of all others.

    Raises:
        RecordError: The file is damaged, and ``left_out`` is not there to be told.
    """
    with opened(path, RECORDS) as file:
        for group in range(file.num_row_groups):
            try:
                for records in _decoded(path, file, group):
                    yield from records
            except RecordError as error:
                if left_out is None:
                    raise
                left_out(error)


def _decoded(path: Path, file: pq.ParquetFile, group: int) -> Iterator[list[Record]]:
    """The records of a row group, some at a time."""
    table = None
    for first in range(0, file.metadata.row_group(group).num_rows, DECODED):
        with damage(path, partial(_part, file, group)):
            table = file.read_row_group(group) if table is None else table
            records = decoding.to_records(table.slice(first, DECODED))
        yield records


def find(path: Path, key: Key) -> Record | None:
    """The record of ``key``, without reading row groups that cannot hold it."""
    with opened(path, RECORDS) as file:
        names = [file.schema.column(i).path for i in range(len(file.schema.names))]
        column = names.index("index")
        for group in range(file.num_row_groups):
            known = file.metadata.row_group(group).column(column).statistics
            if known is not None and known.has_min_max and not known.min <= key.index <= known.max:
                continue
            keys = file.read_row_group(group, columns=["key"])["key"].to_pylist()
            if str(key) in keys:
                return decoding.to_records(file.read_row_group(group).slice(keys.index(str(key)), 1))[0]
    return None


def _part(file: pq.ParquetFile, group: int) -> str:
    """What a row group is called in an error."""
    metadata = file.metadata
    first = sum(metadata.row_group(i).num_rows for i in range(group))
    rows = metadata.row_group(group).num_rows
    key = metadata.row_group(group).column(0)
    begin = key.dictionary_page_offset or key.data_page_offset
    return f"row group {group}, which begins at byte {begin} and holds episodes {first} to {first + rows - 1}"
