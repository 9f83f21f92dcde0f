"""Reads the records of a run."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

import agentopd.records.decoding as decoding
import agentopd.records.signals as signals
from agentopd.errors import RecordError
from agentopd.records.files import StepFile, folder_of, listed, opened
from agentopd.records.schema import PLAIN, RECORDS, SCHEMA, SIGNALS
from agentopd.types import Key, Record


def open(path: str | Path, superseded: bool = False) -> "Records":
    """The records that lie in ``path`` now.

    Args:
        path: A run folder, or its records folder.
        superseded: Whether to count records that a resumed run has done again.

    Raises:
        RecordError: There is no such folder, or it holds no records folder.
    """
    path = Path(path)
    for folder in (folder_of(path), path):
        if folder.is_dir() and (folder.name == "records" or listed(folder)):
            return Records(folder, superseded)
    problem = "holds no records" if path.is_dir() else "does not exist"
    raise RecordError(f"{path} {problem}; give a run folder (with records/ in it) or a records folder")


class Records:
    """The records of a run, in order of step and index. Only a part of one file is in memory at a time."""

    def __init__(self, folder: Path, superseded: bool = False) -> None:
        self.folder = folder
        files = [file for file in listed(folder) if superseded or not file.superseded]
        self._records = [file for file in files if not file.signals]
        self._signals = [file for file in files if file.signals]

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have records."""
        return tuple(step for step, _ in groupby(self._records, key=lambda file: file.step))

    @property
    def signal_steps(self) -> tuple[int, ...]:
        """The steps that have signals."""
        return tuple(step for step, _ in groupby(self._signals, key=lambda file: file.step))

    def __len__(self) -> int:
        return sum(self._count(file) for file in self._records)

    def __iter__(self) -> Iterator[Record]:
        for file in self._records:
            yield from self._read(file)

    def step(self, step: int) -> Iterator[Record]:
        """The records of one step; none where it has none."""
        for file in self._records:
            if file.step == step:
                yield from self._read(file)

    def __contains__(self, key: Key | str) -> bool:
        return self._find(_parsed(key)) is not None

    def __getitem__(self, key: Key | str) -> Record:
        """The record of ``key`` (or of its text), read from its own file alone.

        Raises:
            RecordError: There is none.
        """
        found = self._find(_parsed(key))
        if found is None:
            raise RecordError(f"{self.folder} has no record {key}; its steps are {_ranges(self.steps)}")
        return found

    def signals(self, step: int) -> dict[str, NDArray[Any]] | None:
        """The per-token signals of ``step``: columns by name, among them ``trajectory``, ``segment`` and ``index``; ``None`` without any."""
        files = [file for file in self._signals if file.step == step]
        if not files:
            return None
        with opened(self.folder / str(files[0]), SIGNALS) as file:
            return signals.from_table(file.read())

    def table(self, columns: Sequence[str] = tuple(PLAIN)) -> pa.Table:
        """Columns of all records as an Arrow table, without decoding the rest: ``table().to_pandas()`` is a data frame.

        Args:
            columns: Names in ``agentopd.records.schema.SCHEMA``. ``superseded`` (0, or the age of a superseded file) is added.
        """
        parts = [self._columns(file, columns) for file in self._records]
        kinds = pa.schema([*(SCHEMA.field(name) for name in columns), pa.field("superseded", pa.int64())])
        return pa.concat_tables([kinds.empty_table(), *(part.cast(kinds) for part in parts)])

    def _columns(self, file: StepFile, columns: Sequence[str]) -> pa.Table:
        with opened(self.folder / str(file), RECORDS) as parquet:
            table = parquet.read(columns=list(columns), use_threads=False).select(list(columns))
        return table.append_column("superseded", pa.array([file.superseded] * len(table), pa.int64()))

    def _count(self, file: StepFile) -> int:
        with opened(self.folder / str(file), RECORDS) as parquet:
            return int(parquet.metadata.num_rows)

    def _read(self, file: StepFile) -> Iterator[Record]:
        with opened(self.folder / str(file), RECORDS) as parquet:
            for group in range(parquet.num_row_groups):
                yield from decoding.to_records(parquet.read_row_group(group))

    def _find(self, key: Key) -> Record | None:
        """The newest record of ``key``: the one that counts, else the last that was superseded."""
        files = [file for file in self._records if file.step == key.step]
        for file in sorted(files, key=lambda file: -file.superseded if file.superseded else -(2**62)):
            with opened(self.folder / str(file), RECORDS) as parquet:
                for group in range(parquet.num_row_groups):
                    keys = parquet.read_row_group(group, columns=["key"])["key"].to_pylist()
                    if str(key) in keys:
                        row = parquet.read_row_group(group).slice(keys.index(str(key)), 1)
                        return decoding.to_records(row)[0]
        return None


def _parsed(key: Key | str) -> Key:
    if isinstance(key, Key):
        return key
    parts = key.rsplit("/", 3)
    if len(parts) != 4 or not all(part.isdecimal() for part in parts[1:]):
        raise RecordError(f"{key!r} is no key; its form is run/step/index/attempt, such as quickstart/12/3/0")
    return Key(parts[0], *map(int, parts[1:]))


def _ranges(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]}" if steps else "none"
