"""Replayed sources: the latest episodes that the run itself played, drawn from its own records."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agentopd import records as store
from agentopd.training.loop.recorded import sourced
from agentopd.types import Trajectory


@dataclass
class Earlier:
    """The latest ``capacity`` episodes of a fresh source, by the groups in which they were played; a step's are drawn at random."""

    name: str
    seed: int
    capacity: int | None
    """Episodes; ``None`` for all."""
    folder: Path
    """Of the run."""
    _groups: list[list[str]] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether it draws; until then the tasks are played by the source whose episodes it keeps."""
        held = sum(map(len, self._groups))
        return held > 0 if self.capacity is None else held >= self.capacity

    def draw(self, step: int, tasks: int) -> list[Trajectory]:
        """The groups of ``step``, none twice where there are enough: a function of step, seed and what is held.

        Raises:
            RecordError: One is no longer in the run's records, or damaged.
        """
        random = np.random.default_rng([self.seed, step, zlib.crc32(self.name.encode())])
        drawn = random.choice(len(self._groups), tasks, replace=tasks > len(self._groups))
        records = store.open(self.folder)
        return sourced([records[key].trajectory for i in drawn for key in self._groups[i]], self.name)

    def note(self, played: Sequence[Trajectory]) -> None:
        """Holds the episodes of a step that did not fail, and lets the oldest go."""
        by_task: dict[str, list[str]] = {}
        for one in played:
            if one.failure is None:
                by_task.setdefault(one.task.id, []).append(str(one.key))
        self._groups += by_task.values()
        while self.capacity is not None and sum(map(len, self._groups[1:])) >= self.capacity:
            del self._groups[0]

    def state(self) -> list[list[str]]:
        """What a checkpoint keeps."""
        return [list(group) for group in self._groups]

    def restore(self, groups: Sequence[Sequence[str]]) -> None:
        """Continues from :meth:`state`."""
        self._groups = [list(group) for group in groups]
