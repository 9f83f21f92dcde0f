"""Writes the records of a run, one file a step."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import pyarrow as pa

import agentopd.records.encoding as encoding
import agentopd.records.groups as groups
import agentopd.records.journal as journal
import agentopd.records.signals as signals
from agentopd.errors import RecordError
from agentopd.records.files import (
    StepFile,
    folder_of,
    listed,
    opened,
    remove_unfinished,
    supersede,
    sync,
    write,
    writing,
)
from agentopd.records.schema import RECORDS, SCHEMA
from agentopd.types import Key, Record


class RecordWriter:
    """Appends steps to the records of a run. Several writers may be at one folder; each step is written by one of them."""

    def __init__(self, path: str | Path) -> None:
        """Opens, or makes, the records folder of the run folder ``path`` (or ``path`` itself where it is called ``records``).

        What killed writers left is cleared away; the episodes that they had noted are kept, superseded.

        Raises:
            RecordError: The folder cannot be written.
        """
        self.folder = folder_of(path)
        self._journals: dict[int, journal.Journal] = {}
        with writing(self.folder):
            _make(self.folder)
            remove_unfinished(self.folder)
            for left, records in journal.abandoned(self.folder):
                self._take_over(records)
                left.unlink()

    def note(self, step: int, record: Record) -> None:
        """Keeps an episode of a step that is not over: however the process ends before :meth:`write`, the next writer keeps it as superseded.

        Raises:
            RecordError: It cannot be kept or written.
        """
        if step not in self._journals:
            self._journals[step] = journal.Journal(self.folder / str(StepFile(step)))
        self._journals[step].append(record)

    def write(self, step: int, records: Sequence[Record]) -> None:
        """Writes the records of ``step``: after this returns they are on the disk, and a kill before it leaves none of them there, but noted ones.

        Raises:
            RecordError: The step has been written already, a key belongs to another step or comes twice, or a record cannot be
                kept (a dense block: ``thin`` it first).
        """
        path = self.folder / str(StepFile(step))
        _require_own_keys(step, records)
        once = "a step is written once. To do steps again from a checkpoint call supersede_after first"
        _write_once(path, once, SCHEMA, lambda: groups.encoded(records))
        self._forget(step)

    def write_aside(self, step: int, records: Sequence[Record]) -> Path:
        """Writes records of ``step`` that do not count, and returns where: the step was not finished, and will be done again.

        Where the newest such file of the step holds the same tokens already, that is it.

        Raises:
            RecordError: As of :meth:`write`, but for a step that has been written.
        """
        _require_own_keys(step, records)
        aside = [file for file in listed(self.folder) if file.step == step and file.superseded and not file.signals]
        path = self.folder / str(max(aside)) if aside else None
        if path is None or not _holds(path, encoding.to_table(records)):
            path = self._superseded(step, 1 + max((file.superseded for file in aside), default=0), records)
        self._forget(step)
        return path

    def _superseded(self, step: int, least: int, records: Sequence[Record]) -> Path:
        """Writes a superseded file under the first number from ``least`` on that no other writer took."""
        for number in count(least):
            path = self.folder / str(StepFile(step, number))
            with suppress(FileExistsError):
                write(path, SCHEMA, groups.encoded(records))
                break
        return path

    def _take_over(self, records: Iterable[Record]) -> None:
        """Keeps what a killed writer had noted, unless a file of the step holds it."""
        by_step: dict[int, dict[Key, Record]] = {}
        for record in records:
            by_step.setdefault(record.trajectory.key.step, {})[record.trajectory.key] = record
        for step, wanted in by_step.items():
            for file in (file for file in listed(self.folder) if file.step == step and not file.signals):
                with suppress(RecordError):
                    for held in groups.read(self.folder / str(file)):
                        one = wanted.get(held.trajectory.key)
                        if one is not None and one.trajectory == held.trajectory:
                            del wanted[held.trajectory.key]
            if wanted:
                self.write_aside(step, [wanted[key] for key in sorted(wanted)])

    def _forget(self, step: int) -> None:
        """Ends the journal of a step whose records are kept."""
        if step in self._journals:
            self._journals.pop(step).delete()

    def write_signals(self, step: int, columns: signals.Columns) -> None:
        """Writes the per-token signals of a step whose records are written.

        Args:
            step: The step.
            columns: By name, [A] or [A, K] each. ``trajectory`` (its key as text), ``segment`` and ``index`` say which token.

        Raises:
            RecordError: The step has no records or has signals already, or the columns do not fit together.
        """
        path = self.folder / str(StepFile(step, signals=True))
        if not (self.folder / str(StepFile(step))).exists():
            raise RecordError(f"step {step} has no records in {self.folder}; write them before their signals")
        table = signals.to_table(step, columns)
        _write_once(path, "a step's signals are written once", table.schema, lambda: [table])

    def supersede_after(self, step: int) -> list[int]:
        """Marks everything after ``step`` as superseded: kept, not counted. Returns those steps.

        Killed in between, it can simply be called again.
        """
        files = listed(self.folder)
        past = [file for file in files if file.step > step and not file.superseded]
        # signals first: a step's number is taken from its records, so a kill in between cannot tear the two apart
        for file in sorted(past, key=lambda file: not file.signals):
            number = 1 + max((f.superseded for f in files if f.step == file.step and not f.signals), default=0)
            supersede(self.folder, file, number)
        sync(self.folder)
        return sorted({file.step for file in past})


def _make(folder: Path) -> None:
    """Makes the folder of the records, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RecordError(f"cannot make the folder {folder}: a file has that name; choose another one") from error


def _write_once(path: Path, rule: str, schema: pa.Schema, tables: Callable[[], Iterable[pa.Table]]) -> None:
    """Writes a file, unless there is one of its name."""
    taken = f"{path} exists already; {rule}"
    if path.exists():  # before anything is encoded
        raise RecordError(taken)
    try:
        write(path, schema, tables())
    except FileExistsError:
        raise RecordError(f"{taken}; another writer was at it at the same time") from None


def _require_own_keys(step: int, records: Sequence[Record]) -> None:
    """Raises RecordError where a key is of another step, or comes twice."""
    keys = Counter(record.trajectory.key for record in records)
    for key, times in keys.items():
        if key.step != step:
            raise RecordError(
                f"record {key} belongs to step {key.step} and cannot be written in step {step}; give it a key of its own"
            )
        if times > 1:
            raise RecordError(f"step {step} holds {times} records of the key {key}; count up its index or attempt")


def _holds(path: Path, table: pa.Table) -> bool:
    """Whether the file at ``path`` holds the same episodes, token by token; a damaged one does not."""
    columns = ["key", "segments"]
    with suppress(RecordError), opened(path, RECORDS) as file:
        return bool(file.read(columns=columns).equals(table.select(columns)))
    return False
