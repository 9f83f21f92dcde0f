"""What a step leaves behind: its records, and what the learner saw on each of their tokens."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.config import Config
from agentopd.errors import AgentOPDError, RecordError
from agentopd.objective import Head, Prepared
from agentopd.objective.signals import STUDENT_TOP_IDS
from agentopd.records import RecordWriter, thin
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.river import Drawn, River
from agentopd.training.show.display import say
from agentopd.types import Record, Trajectory


class Recorder:
    """Writes records and signals of each step, where they are wanted."""

    def __init__(self, config: Config, folder: RunFolder | None, heads: Mapping[str, Head]) -> None:
        settings = self._settings = config.records
        self._temperature = config.temperature
        self._heads = heads
        self._writer = RecordWriter(folder.records) if folder is not None and settings.keep else None

    def resume_at(self, step: int) -> None:
        """Marks what was recorded from ``step`` on as superseded: those steps are made again."""
        if self._writer is not None:
            self._writer.supersede_after(step - 1)

    def draw(self, river: River, step: int) -> Drawn:
        """Draws a step. Whatever ends that early (a teacher fails, a person interrupts, a kill), what was played in it is kept.

        It is kept as superseded, for the step is drawn again when the run goes on; the error says where. After a kill that is done when the
        run goes on.
        """
        if self._writer is not None:
            river.note = partial(self._note, self._writer)
        try:
            return river.draw(step)
        except BaseException as error:
            played = river.played_until(error)
            if self._writer is not None:
                for number, some in groupby(sorted(played, key=lambda one: one.key), lambda one: one.key.step):
                    rescue(self._writer, number, list(some), error)
            raise

    def _note(self, writer: RecordWriter, trajectory: Trajectory) -> None:
        writer.note(trajectory.key.step, Record(trajectory))

    def keep(self, drawn: Drawn, prepared: Prepared, signals: Mapping[str, NDArray[Any]]) -> None:
        """Writes one step."""
        if self._writer is None:
            return
        settings = self._settings
        temperature = self._temperature
        records = [
            thin(r, settings.block, k=settings.k, heads=self._heads, temperature=temperature) for r in drawn.records
        ]
        self._writer.write(drawn.step, records)
        if settings.signals:
            self._writer.write_signals(drawn.step, signal_columns(prepared, signals))


def rescue(writer: RecordWriter, step: int, played: Sequence[Trajectory], error: BaseException) -> None:
    """Keeps what was played in a step that ``error`` ended, as superseded; the error, or else a sentence, says where."""
    if not played:
        return
    records = [Record(trajectory) for trajectory in sorted(played, key=lambda one: one.key)]
    try:
        path = writer.write_aside(step, records)
    except RecordError as other:  # what went wrong first is what is told
        say(f"the {len(records)} episodes that were played in step {step} could not be kept: {other}")
        return
    kept = f"the {len(records)} episodes that were played in step {step} are kept, without annotations and not counted, in {path}"
    if isinstance(error, AgentOPDError):
        error.args = (f"{error}; {kept}",)
    else:
        say(kept)


def signal_columns(prepared: Prepared, signals: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """One row a token: where it stands, its coefficients and weights by term, and what the learner saw."""
    rows = prepared.rows
    keys = rows.episodes.key_B.astype(object)
    columns: dict[str, NDArray[Any]] = {
        "trajectory": keys[rows.trajectory_A],
        "segment": rows.segment_in_record_A.astype(np.int32),
        "index": rows.index_A.astype(np.int32),
        "turn": rows.turn_A.astype(np.int32),
    }
    columns |= prepared.signals | dict(signals)
    if STUDENT_TOP_IDS in columns:  # ids of a row that no micro-batch had are -1
        columns[STUDENT_TOP_IDS] = np.nan_to_num(columns[STUDENT_TOP_IDS], nan=-1).astype(np.int32)
    return columns
