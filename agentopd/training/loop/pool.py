"""Frozen sources: episodes that are played once and learned from again and again."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agentopd import records as store
from agentopd.errors import TrainingError
from agentopd.types import Record, Trajectory


@dataclass
class Pool:
    """The episodes of one frozen source, each drawn once before any comes again; those of one task are drawn together.

    They are played at the first draw and kept in ``folder``, so that a resumed run learns from the same ones.
    """

    name: str
    seed: int
    """Of the run; with the number of the pass it decides the order."""
    per_task: int
    """Episodes in a group: so many of one task, or fewer where some failed."""
    folder: Path | None
    play: Callable[[], list[Trajectory]]

    def draw(self, step: int, tasks: int) -> list[Trajectory]:
        """The groups of ``step``, where every step draws as many ``tasks``: a function of step, seed and the pool."""
        size = len(self.groups)
        drawn = range(step * tasks, (step + 1) * tasks)
        return [one for i in drawn for one in self.groups[_shuffled(self.seed, i // size, size)[i % size]]]

    @cached_property
    def groups(self) -> list[list[Trajectory]]:
        """The episodes by task, in groups of ``per_task``."""
        by_task: dict[str, list[Trajectory]] = {}
        for episode in self.episodes:
            by_task.setdefault(episode.task.id, []).append(episode)
        return [
            played[first : first + self.per_task]
            for played in by_task.values()
            for first in range(0, len(played), self.per_task)
        ]

    @cached_property
    def episodes(self) -> list[Trajectory]:
        """All that did not fail: those kept on the disk, or else played.

        Raises:
            TrainingError: All failed.
        """
        return self._kept() or self._played()

    def _kept(self) -> list[Trajectory]:
        """Nothing where a kill came before the pool's one file was whole."""
        if self.folder is None or not (self.folder / "records").exists():
            return []
        return [record.trajectory for record in store.open(self.folder)]

    def _played(self) -> list[Trajectory]:
        played = self.play()
        intact = [trajectory for trajectory in played if trajectory.failure is None]
        if not intact:
            raise TrainingError(
                f"objective.sources.{self.name}: all {len(played)} episodes failed, so there is nothing to draw from"
            )
        if self.folder is not None:
            store.RecordWriter(self.folder).write(0, [Record(trajectory) for trajectory in intact])
        return intact


@lru_cache(maxsize=8)
def _shuffled(seed: int, turn: int, size: int) -> NDArray[np.int64]:
    """The order of one pass over a pool, computed once a pass."""
    return np.random.default_rng([seed, turn]).permutation(size)
