"""Recorded sources: the episodes of another run, drawn from its records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from agentopd import records as store
from agentopd.objective.source import Source
from agentopd.records import Records
from agentopd.training.checks.looking import look
from agentopd.training.loop.folder import write_atomically
from agentopd.training.loop.pool import dealt, grouped
from agentopd.training.loop.ranks import ALONE, Ranks
from agentopd.types import Trajectory


@dataclass
class Recorded:
    """The episodes of one source, each drawn once before any comes again; those of one task are drawn together.

    Which they are is kept in ``file``, so that a resumed run draws the same though the records have grown. No more than a step's are in
    memory.
    """

    name: str
    seed: int
    """Of the run; with the number of the pass it decides the order."""
    source: Source
    file: Path | None
    ranks: Ranks = ALONE
    """The processes that draw the same, of which the first keeps which those are."""

    def draw(self, begin: int, tasks: int) -> list[Trajectory]:
        """The groups of ``tasks`` draws, where ``begin`` came before; each episode's origin is the key under which it was played.

        Raises:
            RecordError: One is no longer there, or damaged.
        """
        drawn = dealt(self.seed, len(self._groups), begin, tasks)
        return sourced([self._records[key].trajectory for i in drawn for key in self._groups[i]], self.name)

    @cached_property
    def _records(self) -> Records:
        return store.open(str(self.source.records))

    @cached_property
    def _groups(self) -> list[list[str]]:
        """Keys by task; a task that is begun again is one of each episode, whatever it is played."""
        together = 1 if self.source.plays else self.source.per_task
        return grouped(self.ranks.first(lambda: self._kept() or self._found()), together)

    def _kept(self) -> list[tuple[str, str]]:
        if self.file is None or not self.file.exists():
            return []
        return [(task, key) for task, key in json.loads(self.file.read_bytes())]

    def _found(self) -> list[tuple[str, str]]:
        entries = look(str(self.source.records), self.source.keep).entries
        found = [(entry.task, str(entry.key)) for entry in entries]
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.file, json.dumps(found))
        return found


def sourced(trajectories: Sequence[Trajectory], source: str) -> list[Trajectory]:
    """Episodes from elsewhere, their tokens now of ``source``, by which terms select them."""
    return [
        replace(one, segments=tuple(replace(segment, source=source) for segment in one.segments))
        for one in trajectories
    ]
