"""Records as data sets for other programs."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agentopd.sharing.files as files
from agentopd import records as store
from agentopd.errors import RecordError
from agentopd.filters import Filter
from agentopd.sharing.facts import facts_of
from agentopd.sharing.formats import FORMATS, Row
from agentopd.sharing.parts import Pairs, Tasks, correction_rows, paired, turn_rows
from agentopd.sharing.repeats import Repeats
from agentopd.sharing.talk import talk_of
from agentopd.types import Trajectory


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be exported."""

    format: str
    keep: Filter = field(default_factory=Filter)
    metadata: bool = False
    """Whether rows say of which episode they are, and how it ended."""
    privileged: bool = False
    """Whether they also say what was never shown to the student; needs ``metadata``."""
    pairs: Pairs = "both"
    """Of ``preference``."""
    teacher: str | None = None
    """Of ``preference``: the only one whose corrections are meant."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise RecordError(f"format={self.format!r}: there are {', '.join(FORMATS)}")
        if self.privileged and not self.metadata:
            raise RecordError(
                "privileged=true adds to the metadata of rows, and metadata=false; set it, or leave privileged out"
            )

    def facts(self, trajectory: Trajectory) -> dict[str, Any] | None:
        """What is added to the rows of an episode."""
        return facts_of(trajectory, self.privileged) if self.metadata else None


@dataclass(slots=True)
class Exported:
    """What came of an export."""

    rows: int = 0
    episodes: int = 0
    """That were meant, each once."""
    again: int = 0
    """Records of episodes that were there already, left out: steps learn from some again."""
    unpaired: int = 0
    """Pairs of a success and a failure that no turn parts: their openings, or the environment's answers, differ before any action does."""


def export(records: store.Records, output: str | Path, wish: Wish) -> Exported:
    """Writes what ``wish`` asks for to a file or a folder: see :func:`agentopd.sharing.files.write`.

    Raises:
        RecordError: There is nothing to export, something lies there already, or a record lacks what the filter reads.
    """
    told = Exported()
    told.rows = files.write(rows(records, wish, told), Path(output), FORMATS[wish.format], wish.metadata)
    return told


def push(records: store.Records, repository: str, wish: Wish, private: bool = True) -> Exported:
    """Puts what ``wish`` asks for on the hub of data sets, as whoever is logged in there.

    Raises:
        RecordError: As of :func:`export`, or the hub does not take it.
    """
    told = Exported()
    told.rows = files.push(rows(records, wish, told), repository, FORMATS[wish.format], wish.metadata, private)
    return told


def rows(records: store.Records, wish: Wish, told: Exported) -> Iterator[Row]:
    """The rows, one by one; ``told`` is counted up on the way."""
    tasks, repeats, whole = Tasks(), Repeats(), FORMATS[wish.format].row
    for record in records:
        trajectory = record.trajectory
        if not wish.keep.keeps(record):
            continue
        if repeats.is_again(trajectory):
            told.again += 1
            continue
        told.episodes += 1
        if whole is not None and trajectory.turns:
            yield whole(talk_of(trajectory, wish.facts(trajectory)))
        elif wish.format == "sft":
            yield from turn_rows(record, wish.facts)
        elif wish.format == "preference":
            tasks.add(trajectory)
            if wish.pairs != "episodes":
                yield from correction_rows(record, wish.facts, wish.teacher)
    if wish.format == "preference" and wish.pairs != "corrections":
        for row in paired(tasks.pairs(), records.__getitem__, wish.facts):
            told.unpaired += row is None
            if row is not None:
                yield row
