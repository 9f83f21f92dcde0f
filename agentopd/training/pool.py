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
    """The episodes of one frozen source, each drawn once before any comes again.

    They are played at the first draw and kept in ``folder``, so that a resumed run learns from the same ones.
    """

    name: str
    seed: int
    """Of the run; with the number of the pass it decides the order."""
    folder: Path | None
    play: Callable[[], list[Trajectory]]

    def draw(self, step: int, count: int) -> list[Trajectory]:
        """The ``count`` episodes of ``step``, where every step draws as many: a function of step, seed and the pool."""
        size = len(self.episodes)
        drawn = range(step * count, (step + 1) * count)
        return [self.episodes[_shuffled(self.seed, i // size, size)[i % size]] for i in drawn]

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
