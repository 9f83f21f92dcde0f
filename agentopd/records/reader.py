"""Reads the records of a run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from numpy.typing import NDArray

import agentopd.records.groups as groups
import agentopd.records.journal as journal
import agentopd.records.tokens as tokens
from agentopd.errors import RecordError
from agentopd.records.files import StepFile, listed, opened
from agentopd.records.schema import ADDED, PLAIN, RECORDS, SCHEMA, SIGNALS
from agentopd.records.signals import ByTrajectory, Columns, from_table
from agentopd.run_files import CONFIG
from agentopd.types import Key, Record

_Read = TypeVar("_Read")


def open(path: str | Path, superseded: bool = False, skip_damaged: bool = False) -> "Records":
    """The records that lie in ``path`` now.

    Args:
        path: A run folder, or its records folder.
        superseded: Whether to count records that a resumed run has done again.
        skip_damaged: Whether to leave out what cannot be read, and to say so in ``damaged``, instead of an error.

    Raises:
        RecordError: There is no such folder, or it holds no records folder.
    """
    path = Path(path)
    for folder in (path / "records", path):  # a run may itself be called records
        if folder.is_dir() and (folder.name == "records" or listed(folder)):
            return Records(folder, superseded, skip_damaged)
    raise RecordError(f"{path} {_absence(path)}; give a run folder (with records/ in it) or a records folder")


def _absence(path: Path) -> str:
    """Why there are no records at ``path``."""
    if not path.is_dir():
        return "is a file" if path.exists() else "does not exist"
    if (path / CONFIG).exists():
        return "holds no records beside its config.yaml, so that run has finished no step or has records.keep=false"
    return "holds no records"


class Records:
    """The records of a run, step by step, as they were written. Only a part of one file is in memory at a time."""

    def __init__(self, folder: Path, superseded: bool = False, skip_damaged: bool = False) -> None:
        self.folder = folder
        self._skips = skip_damaged
        self._damaged: dict[str, None] = {}
        files = [file for file in listed(folder) if superseded or not file.superseded]
        self._records, self._signals = _by_step(files, signals=False), _by_step(files, signals=True)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have records."""
        return tuple(self._records)

    @property
    def signal_steps(self) -> tuple[int, ...]:
        """The steps that have signals."""
        return tuple(self._signals)

    @property
    def damaged(self) -> tuple[str, ...]:
        """What was left out so far, an error each, which names file and place; nothing without ``skip_damaged``."""
        return tuple(self._damaged)

    def unfinished(self) -> Iterator[Record]:
        """Episodes of steps that are not over: what was noted there, by a run that goes on or by one that was killed and not yet resumed."""
        for path in sorted(self.folder.glob(f".*{journal.ENDING}")):
            records = list[Record]()
            with suppress(FileNotFoundError):  # its step was written meanwhile
                records = journal.read(path)
            yield from records

    def __len__(self) -> int:
        """How many records there are, by what the files say; those of damaged row groups count."""
        return sum(self._whole(self._count, file) or 0 for file in self._files())

    def __iter__(self) -> Iterator[Record]:
        for file in self._files():
            yield from self._read(file)

    def step(self, step: int) -> Iterator[Record]:
        """The records of one step.

        Raises:
            RecordError: The step was not recorded.
        """
        return chain.from_iterable(map(self._read, self._of(step)))

    def with_signals(self) -> Iterator[tuple[Record, Columns]]:
        """All records, each with its rows of the signals that were written with it; no columns where none were."""
        for file in self._files():
            beside = self._beside(file)
            for record in self._read(file):
                yield record, beside.of(record.trajectory.key)

    def __contains__(self, key: Key | str) -> bool:
        return self._find(_parsed(key)) is not None

    def __getitem__(self, key: Key | str) -> Record:
        """The record of ``key`` (or of its text), read from its own file alone.

        Raises:
            RecordError: There is none.
        """
        return self._found(_parsed(key))[1]

    def tokens(self, key: Key | str, tokenizer: tokens.Decoder | None = None) -> dict[str, NDArray[Any]]:
        """The tokens that a policy produced in one trajectory, in order: columns by name, with an entry a token.

        ``turn``, ``segment`` and ``index`` say where a token stands, ``token`` is its id, and ``behaviour_logprob`` its
        log-probability in the distribution that was sampled from, in nats. Each annotation gives ``teacher_logprob/<teacher>``, and each signal
        of the step a column of its own name; they are ``nan`` at tokens that they do not concern.

        Args:
            key: Of the record, or its text.
            tokenizer: Adds the column ``text``.

        Raises:
            RecordError: There is no such record.
        """
        file, record = self._found(_parsed(key))
        return tokens.to_columns(record, self._beside(file).of(record.trajectory.key), tokenizer)

    def signals(self, step: int) -> dict[str, NDArray[Any]]:
        """The per-token signals of a step: columns by name, among them ``trajectory``, ``segment`` and ``index``.

        Raises:
            RecordError: The step was not recorded, or its signals were not, or they are damaged, whatever is left out elsewhere.
        """
        self._of(step)
        files = self._signals.get(step)
        if not files:
            some = f"those that have some: {_ranges(self.signal_steps)}"
            none = "none has any; a run keeps them with records.signals=true"
            raise RecordError(f"step {step} has no signals in {self.folder}; {some if self._signals else none}")
        return self._signals_in(_newest_first(files)[0])

    def signals_if_any(self, step: int) -> dict[str, NDArray[Any]] | None:
        """As :meth:`signals`; ``None`` where the step has none, or they are damaged and ``skip_damaged`` leaves them out."""
        return self._whole(self.signals, step) if self._signals.get(step) else None

    def table(self, columns: Sequence[str] = tuple(PLAIN)) -> pa.Table:
        """Columns of all records as an Arrow table, without decoding the rest: ``table().to_pandas()`` is a data frame.

        Args:
            columns: Names in ``agentopd.records.schema.SCHEMA``. ``superseded`` (0, or the age of a superseded file) is added.

        Raises:
            RecordError: There is no such column.
        """
        for name in columns:
            if name not in SCHEMA.names:
                raise RecordError(
                    f"{name!r} is no column of records; those with one value an episode: {', '.join(PLAIN)}"
                )
        found = [self._whole(self._columns, file, columns) for file in self._files()]
        parts = [part for part in found if part is not None]
        kinds = pa.schema([*(SCHEMA.field(name) for name in columns), pa.field("superseded", pa.int64())])
        return pa.concat_tables([kinds.empty_table(), *(part.cast(kinds) for part in parts)])

    def _files(self) -> Iterator[StepFile]:
        """All files of records."""
        return chain.from_iterable(self._records.values())

    def _of(self, step: int) -> list[StepFile]:
        """The record files of a step that has some."""
        files = self._records.get(step)
        if not files:
            raise RecordError(
                f"step {step} has no records in {self.folder}; those that have some: {_ranges(self.steps)}"
            )
        return files

    def _columns(self, file: StepFile, columns: Sequence[str]) -> pa.Table:
        with opened(self.folder / str(file), RECORDS) as parquet:
            table = parquet.read(columns=list(columns), use_threads=False)
        for name in set(columns) - set(table.column_names):
            table = table.append_column(name, pa.array([ADDED[name]] * len(table), SCHEMA.field(name).type))
        table = table.select(list(columns))
        return table.append_column("superseded", pa.array([file.superseded] * len(table), pa.int64()))

    def _count(self, file: StepFile) -> int:
        with opened(self.folder / str(file), RECORDS) as parquet:
            return int(parquet.metadata.num_rows)

    def _read(self, file: StepFile) -> Iterator[Record]:
        path = self.folder / str(file)
        if not self._skips:
            return groups.read(path)
        return self._readable(path)

    def _readable(self, path: Path) -> Iterator[Record]:
        try:
            yield from groups.read(path, self._left_out)
        except RecordError as error:  # nothing of the file can be read
            self._left_out(error)

    def _whole(self, read: Callable[..., _Read], *arguments: Any) -> _Read | None:
        """What ``read`` returns; where that is damaged and is to be left out, ``None``."""
        try:
            return read(*arguments)
        except RecordError as error:
            if not self._skips:
                raise
            self._left_out(error)
            return None

    def _left_out(self, error: RecordError) -> None:
        self._damaged[str(error)] = None

    def _signals_in(self, file: StepFile) -> dict[str, NDArray[Any]]:
        with opened(self.folder / str(file), SIGNALS) as parquet:
            return from_table(parquet.read())

    def _beside(self, file: StepFile) -> ByTrajectory:
        """The signals that were written with a file of records, by trajectory."""
        beside = replace(file, signals=True)
        held = self._whole(self._signals_in, beside) if beside in self._signals.get(file.step, ()) else None
        return ByTrajectory(held or {})

    def _found(self, key: Key) -> tuple[StepFile, Record]:
        files = self._of(key.step)
        found = self._find(key)
        if found is None:
            held = [text for file in files for text in self._columns(file, ["key"])["key"].to_pylist()]
            raise RecordError(f"{self.folder} has no record {key}; step {key.step} holds {len(held)}{_span(held)}")
        return found

    def _find(self, key: Key) -> tuple[StepFile, Record] | None:
        """The newest record of ``key``, and its file."""
        for file in _newest_first(self._records.get(key.step, ())):
            found = groups.find(self.folder / str(file), key)
            if found is not None:
                return file, found
        return None


def _by_step(files: Iterable[StepFile], signals: bool) -> dict[int, list[StepFile]]:
    chosen = (file for file in files if file.signals == signals)
    return {step: list(some) for step, some in groupby(chosen, key=lambda file: file.step)}


def _newest_first(files: Iterable[StepFile]) -> list[StepFile]:
    """The file that counts, then the superseded ones, the last one first."""
    return sorted(files, key=lambda file: (file.superseded > 0, -file.superseded))


def _parsed(key: Key | str) -> Key:
    if isinstance(key, Key):
        return key
    try:
        return Key.parse(str(key))
    except ValueError as error:
        raise RecordError(str(error)) from None


def _ranges(steps: Sequence[int]) -> str:
    """Steps as text, runs of them joined: ``0 to 4, 7``."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "none"


def _span(keys: Sequence[str]) -> str:
    if not keys:
        return ""
    return f", {keys[0]}" if len(keys) == 1 else f", {keys[0]} to {keys[-1]}"
