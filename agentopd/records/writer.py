"""Writes the records of a run, one file a step."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

import agentopd.records.encoding as encoding
import agentopd.records.signals as signals
from agentopd.errors import RecordError
from agentopd.records.files import StepFile, folder_of, listed, opened, remove_unfinished, supersede, sync, write
from agentopd.records.schema import RECORDS
from agentopd.types import Record


class RecordWriter:
    """Appends steps to the records of a run. One writer a folder at a time."""

    def __init__(self, path: str | Path) -> None:
        """Opens, or makes, the records folder of the run folder ``path`` (or ``path`` itself where it is called ``records``)."""
        self.folder = folder_of(path)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)

    def write(self, step: int, records: Sequence[Record]) -> None:
        """Writes the records of ``step``: after this returns they are on the disk, and a kill before it leaves none of them.

        Raises:
            RecordError: The step has been written already, a key belongs to another step or comes twice, or a record cannot be
                kept (a dense block: ``thin`` it first).
        """
        path = self.folder / str(StepFile(step))
        if path.exists():
            raise RecordError(
                f"{path} exists already; a step is written once. To do steps again from a checkpoint call supersede_after first"
            )
        write(path, _table(step, records))

    def write_aside(self, step: int, records: Sequence[Record]) -> Path:
        """Writes records of ``step`` that do not count, and returns where: the step was not finished, and will be done again.

        Where the newest such file of the step holds the same tokens already, that is it.

        Raises:
            RecordError: As of :meth:`write`, but for a step that has been written.
        """
        table = _table(step, records)
        aside = [file for file in listed(self.folder) if file.step == step and file.superseded and not file.signals]
        if aside and _holds(self.folder / str(max(aside)), table):
            return self.folder / str(max(aside))
        path = self.folder / str(StepFile(step, 1 + max((file.superseded for file in aside), default=0)))
        write(path, table)
        return path

    def write_signals(self, step: int, columns: signals.Columns) -> None:
        """Writes the per-token signals of a step whose records are written.

        Args:
            step: The step.
            columns: By name, [A] or [A, K] each. ``trajectory`` (its key as text), ``segment`` and ``index`` say which token.

        Raises:
            RecordError: The step has no records or has signals already, or the columns do not fit together.
        """
        path = self.folder / str(StepFile(step, signals=True))
        if path.exists():
            raise RecordError(f"{path} exists already; a step's signals are written once")
        if not (self.folder / str(StepFile(step))).exists():
            raise RecordError(f"step {step} has no records in {self.folder}; write them before their signals")
        write(path, signals.to_table(step, columns))

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


def _table(step: int, records: Sequence[Record]) -> pa.Table:
    """The records of ``step`` as a table, once their keys have been looked at."""
    keys = Counter(record.trajectory.key for record in records)
    for key, count in keys.items():
        if key.step != step:
            raise RecordError(
                f"record {key} belongs to step {key.step} and cannot be written in step {step}; give it a key of its own"
            )
        if count > 1:
            raise RecordError(f"step {step} holds {count} records of the key {key}; count up its index or attempt")
    return encoding.to_table(records)


def _holds(path: Path, table: pa.Table) -> bool:
    """Whether the file at ``path`` holds the same episodes, token by token; a damaged one does not."""
    columns = ["key", "segments"]
    with suppress(RecordError), opened(path, RECORDS) as file:
        return bool(file.read(columns=columns).equals(table.select(columns)))
    return False
