"""Plain columns: all that the objective knows of a global batch until it is cut.

Nothing here holds a trajectory, a segment or an annotation, so the columns of several processes can be put together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentopd.types import STUDENT, Bools, Record, Trajectory

Column: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]
Names: TypeAlias = NDArray[np.str_]
Logprobs: TypeAlias = Literal["behaviour", "recomputed"]
"""Which log-probability of the student: the one that it acted with, or the one that it has now."""

ENSEMBLE = EPISTEMIC, ALEATORIC = "epistemic", "aleatoric"
"""Names of the statistics that an ensemble tells of each row, and no other kind of teacher does."""


def codes(ids_A: NDArray[Any]) -> Column:
    """The same groups, numbered from 0 in the order of their ids."""
    return np.unique(ids_A, return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, slots=True)
class Episodes:
    """Whole episodes, [B]; ``rows.trajectory_A`` points into them."""

    key_B: Names
    """The trajectory's key in its text form."""
    task_B: Names
    """``Task.id``: episodes that share it form a group."""
    env_B: Names
    tags_B: tuple[tuple[str, ...], ...]
    reward_B: Reals
    """The total reward."""
    success_B: Bools
    failed_B: Bools
    """An infrastructure failure ended the episode: no term learns from it, and it is in no group."""
    tools_B: tuple[tuple[tuple[str, ...], ...], ...]
    """Names of the tools that each turn called."""
    staleness_B: Reals
    """The steps since the student's oldest turn of the episode was written, by its versions: 0 for one that was played with the weights of
    this step, ``nan`` for one that another run played."""
    segments_B: Column
    """How many segments the record has: the trajectory's own and its annotations'."""

    def __len__(self) -> int:
        return len(self.key_B)

    @property
    def first_segment_B(self) -> Column:
        """Where the segments of each record begin among those of all records."""
        return np.cumsum(self.segments_B) - self.segments_B

    @classmethod
    def of(cls, records: Sequence[Record]) -> Self:
        """The episodes of ``records``, in their order."""
        played = [record.trajectory for record in records]
        return cls(
            np.array([str(one.key) for one in played], np.str_),
            np.array([one.task.id for one in played], np.str_),
            np.array([one.task.env_id for one in played], np.str_),
            tuple(one.task.tags for one in played),
            np.array([one.outcome.total_reward for one in played], np.float64),
            np.array([one.outcome.success for one in played], np.bool_),
            np.array([one.failure is not None for one in played], np.bool_),
            tuple(tuple(tuple(call.name for call in turn.calls) for turn in one.turns) for one in played),
            np.array([_staleness(one) for one in played], np.float64),
            np.array([_segments(record) for record in records], np.int64),
        )


def _staleness(one: Trajectory) -> float:
    first = one.origin or one.key
    if first.run != one.key.run:
        return float("nan")
    return float(
        one.key.step - min((turn.policy_version for turn in one.turns if turn.actor == STUDENT), default=first.step)
    )


def _segments(record: Record) -> int:
    return len(record.trajectory.segments) + sum(len(annotation.segments) for annotation in record.annotations)


@dataclass(frozen=True, slots=True)
class TeacherColumns:
    """What one teacher said, spread over the rows."""

    annotation_A: Column
    """Index into the record's annotations of the one that covers the row, -1 where the teacher says nothing of it or skips its turn."""
    entry_A: Column
    """Which of that annotation's rows it is."""
    taken_logprob_A: Reals
    """Log-probability of the token taken; ``nan`` where the teacher says nothing."""
    entropy_A: Reals
    """In nats; ``nan`` where unknown."""
    statistics: Mapping[str, Reals]
    """Further statistics of uncertainty by name, [A] each: the teacher's own, and what its blocks tell: ``coverage``, the mass
    of the tokens that they name, and ``best_surprisal``, -log q of the likeliest of them, where that is the teacher's top-k or holds it."""
    reward_A: Reals
    """The reward of each turn, on the last row of the turn; 0 elsewhere."""
    rewarded_A: Bools
    """Rows of the episodes that this teacher rewarded, without the turns that it skips. A reward reaches the turns before it."""

    @property
    def covered_A(self) -> Bools:
        """Rows whose tokens this teacher read, in turns that it did not skip."""
        return self.annotation_A >= 0

    def select(self, mask_A: Bools | Column) -> Self:
        """The same columns for some of the rows."""
        statistics = {name: column[mask_A] for name, column in self.statistics.items()}
        columns = {f.name: getattr(self, f.name)[mask_A] for f in fields(self) if f.name != "statistics"}
        return replace(self, statistics=statistics, **columns)


@dataclass(frozen=True, slots=True)
class LiveColumns:
    """The student's own statistics, recomputed in one pass without gradient under the weights that this step will change."""

    logprob_A: Reals
    """Recomputed log-probability of the token taken."""
    entropy_A: Reals
    """In nats."""
