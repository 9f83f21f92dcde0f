"""Frozen sources: episodes that are played once and learned from again and again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from agentopd import records as store
from agentopd.errors import TrainingError
from agentopd.training.loop.ranks import ALONE, Ranks
from agentopd.types import Record, Trajectory

Episode = TypeVar("Episode")


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
    ranks: Ranks = ALONE
    """The processes that play them together, of which the first keeps them."""

    def draw(self, begin: int, tasks: int) -> list[Trajectory]:
        """The groups of ``tasks`` draws, where ``begin`` came before: a function of these, the seed and the pool."""
        return [one for i in dealt(self.seed, len(self.groups), begin, tasks) for one in self.groups[i]]

    @cached_property
    def groups(self) -> list[list[Trajectory]]:
        """The episodes by task, in groups of ``per_task``."""
        return grouped([(episode.task.id, episode) for episode in self.episodes], self.per_task)

    @cached_property
    def episodes(self) -> list[Trajectory]:
        """All that did not fail: those kept on the disk, or else played.

        Raises:
            TrainingError: All failed.
        """
        return self.ranks.first(self._kept) or self._played()

    def _kept(self) -> list[Trajectory]:
        """Nothing where a kill came before the pool's one file was whole."""
        if self.folder is None or not (self.folder / "records").exists():
            return []
        return [record.trajectory for record in store.open(self.folder)]

    def _played(self) -> list[Trajectory]:
        played = self.play()
        intact = [trajectory for trajectory in played if trajectory.failure is None]
        if not intact:
            raise self.ranks.shared(
                TrainingError(
                    f"objective.sources.{self.name}: all {len(played)} episodes failed, so there is nothing to draw from"
                )
            )
        self.ranks.first(lambda: self._keep(intact))
        return intact

    def _keep(self, intact: Sequence[Trajectory]) -> None:
        if self.folder is not None:
            store.RecordWriter(self.folder / "records").write(0, [Record(trajectory) for trajectory in intact])


def grouped(episodes: Sequence[tuple[str, Episode]], per_task: int) -> list[list[Episode]]:
    """Episodes, each behind the id of its task, in groups of ``per_task`` of the same, or fewer where that is what is left."""
    by_task: dict[str, list[Episode]] = {}
    for task, episode in episodes:
        by_task.setdefault(task, []).append(episode)
    return [
        played[first : first + per_task] for played in by_task.values() for first in range(0, len(played), per_task)
    ]


def dealt(seed: int, size: int, begin: int, count: int) -> list[int]:
    """Which of ``size`` groups are drawn after ``begin`` draws: each once before any comes again, each pass in an order of its own."""
    return [int(_shuffled(seed, i // size, size)[i % size]) for i in range(begin, begin + count)]


@lru_cache(maxsize=8)
def _shuffled(seed: int, turn: int, size: int) -> NDArray[np.int64]:
    """The order of one pass over a pool, computed once a pass."""
    return np.random.default_rng([seed, turn]).permutation(size)
