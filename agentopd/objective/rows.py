"""The rows of a global batch: one for each action token, as plain columns.

``prepare`` works on these alone. A row is one token that a policy produced; rows stand in time order within a trajectory,
across its segments, the corrected actions of teachers last. Columns are numpy arrays, float64 where arithmetic follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentopd.types import Annotation, Bools, Record, Segment, Trajectory

Column: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TeacherColumns:
    """What one teacher said, spread over the rows."""

    covered_A: Bools
    """Rows with a distribution from this teacher (it read them and did not skip their turn)."""
    taken_A: Reals
    entropy_A: Reals
    statistics: Mapping[str, Reals]
    reward_A: Reals
    """The reward of each turn, on the last row of the turn; 0 elsewhere."""
    rewarded_A: Bools
    """Rows of turns that this teacher gave a reward."""

    def select(self, mask_A: Bools | Column) -> Self:
        """The same columns for some of the rows."""
        statistics = {name: column[mask_A] for name, column in self.statistics.items()}
        columns = {f.name: getattr(self, f.name)[mask_A] for f in fields(self) if f.name != "statistics"}
        return replace(self, statistics=statistics, **columns)


@dataclass(frozen=True, slots=True)
class LiveColumns:
    """The student's own statistics from one pass without gradient: log-probability of the taken token, entropy in nats."""

    logprob_A: Reals
    entropy_A: Reals


@dataclass(frozen=True, slots=True)
class Rows:
    """A selection of the action tokens of a global batch."""

    records: tuple[Record, ...]
    segments: tuple[Segment, ...]
    """All segments of all records, a trajectory's own first, then its annotations'."""
    trajectory_A: Column
    """Index into ``records``."""
    segment_A: Column
    """Index into ``segments``."""
    index_A: Column
    """Position within the segment."""
    turn_A: Column
    """Depth: the turn within the trajectory, from 0."""
    token_A: Column
    logprob_A: Reals
    """Behaviour log-probability."""
    trainable_A: Bools
    actor_A: NDArray[np.str_]
    source_A: NDArray[np.str_]
    teachers: Mapping[str, TeacherColumns]
    live: LiveColumns | None = None

    def __len__(self) -> int:
        return len(self.trajectory_A)

    @property
    def turn_id_A(self) -> Column:
        """A number for each turn that no other turn of the batch has."""
        deepest = int(self.turn_A.max(initial=0)) + 1
        return self.trajectory_A * deepest + self.turn_A

    def select(self, mask_A: Bools | Column) -> "Rows":
        """Only the rows that ``mask_A`` marks."""
        whole = ("records", "segments", "teachers", "live")
        columns = {f.name: getattr(self, f.name)[mask_A] for f in fields(self) if f.name not in whole}
        live = self.live and LiveColumns(self.live.logprob_A[mask_A], self.live.entropy_A[mask_A])
        teachers = {name: columns.select(mask_A) for name, columns in self.teachers.items()}
        return replace(self, teachers=teachers, live=live, **columns)

    def with_live(self, live: LiveColumns) -> "Rows":
        """The same rows, with the student's present statistics."""
        return replace(self, live=live)

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Rows":
        """The rows of ``records``, every action token once."""
        tables = [_trajectory_rows(i, record) for i, record in enumerate(records)]
        offsets = np.cumsum([0, *(len(segments) for segments, _ in tables)])
        segments = tuple(segment for own, _ in tables for segment in own)
        joined = {name: np.concatenate([table[name] for _, table in tables]) for name in _EMPTY} if tables else _EMPTY
        base = offsets[joined["trajectory_A"]] if tables else joined["trajectory_A"]
        columns = joined | {"segment_A": joined["segment_A"] + base}
        names = sorted({annotation.teacher for record in records for annotation in record.annotations})
        bare = cls(tuple(records), segments, teachers={}, **columns)  # type: ignore[arg-type]
        return replace(bare, teachers={name: _teacher_columns(name, bare, offsets) for name in names})


_EMPTY: dict[str, NDArray[np.generic]] = {
    "trajectory_A": np.zeros(0, np.int64),
    "segment_A": np.zeros(0, np.int64),
    "index_A": np.zeros(0, np.int64),
    "turn_A": np.zeros(0, np.int64),
    "token_A": np.zeros(0, np.int64),
    "logprob_A": np.zeros(0, np.float64),
    "trainable_A": np.zeros(0, np.bool_),
    "actor_A": np.zeros(0, "<U1"),
    "source_A": np.zeros(0, "<U1"),
}


def _trajectory_rows(i: int, record: Record) -> tuple[list[Segment], dict[str, NDArray[np.generic]]]:
    """The segments of one record and the columns of their action tokens, segments numbered within the record."""
    own = list(record.trajectory.segments)
    corrected = [(s, a.teacher) for a in record.annotations for s in a.segments]
    parts = [_segment_rows(i, s, segment, record.trajectory.actors) for s, segment in enumerate(own)]
    parts += [_segment_rows(i, len(own) + s, segment, (name,)) for s, (segment, name) in enumerate(corrected)]
    columns = {name: np.concatenate([part[name] for part in parts] or [empty]) for name, empty in _EMPTY.items()}
    return own + [segment for segment, _ in corrected], columns


def _segment_rows(i: int, s: int, segment: Segment, actors: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    index_A = np.flatnonzero(segment.turn_T >= 0)
    return {
        "trajectory_A": np.full(len(index_A), i, np.int64),
        "segment_A": np.full(len(index_A), s, np.int64),
        "index_A": index_A.astype(np.int64),
        "turn_A": segment.turn_T[index_A].astype(np.int64),
        "token_A": segment.tokens_T[index_A].astype(np.int64),
        "logprob_A": segment.logprob_T[index_A].astype(np.float64),
        "trainable_A": segment.trainable_T[index_A],
        "actor_A": np.array(actors, dtype=np.str_)[segment.actor_T[index_A]] if len(index_A) else _EMPTY["actor_A"],
        "source_A": np.full(len(index_A), segment.source),
    }


def _teacher_columns(name: str, rows: Rows, offsets: Column) -> TeacherColumns:
    """Spreads every annotation of one teacher over the rows."""
    size = len(rows)
    reals = {key: np.full(size, np.nan) for key in ("taken", "entropy")}
    statistics: dict[str, Reals] = {}
    covered_A, rewarded_A, reward_A = np.zeros(size, np.bool_), np.zeros(size, np.bool_), np.zeros(size)
    starts = np.searchsorted(rows.trajectory_A, np.arange(len(rows.records) + 1))
    for i, record in enumerate(rows.records):
        for annotation in record.annotations:
            if annotation.teacher != name:
                continue
            here = np.arange(starts[i], starts[i + 1])
            found, at = _match(rows, here, annotation, int(offsets[i]))
            taught = ~annotation.skip_S[rows.turn_A[at]]
            at, found = at[taught], found[taught]
            covered_A[at] = True
            reals["taken"][at], reals["entropy"][at] = annotation.taken_N[found], annotation.entropy_N[found]
            for key, column in annotation.statistics.items():
                statistics.setdefault(key, np.full(size, np.nan))[at] = column[found]
            _spread_rewards(rows, here, annotation, record.trajectory, reward_A, rewarded_A)
    return TeacherColumns(covered_A, reals["taken"], reals["entropy"], statistics, reward_A, rewarded_A)


def _match(rows: Rows, here: Column, annotation: Annotation, offset: int) -> tuple[Column, Column]:
    """Pairs the annotation's rows with ours: indices into the annotation, and into ``rows``."""
    width = int(max(rows.index_A[here].max(initial=0), annotation.index_N.max(initial=0))) + 1
    ours = (rows.segment_A[here] - offset) * width + rows.index_A[here]
    theirs = annotation.segment_N.astype(np.int64) * width + annotation.index_N
    _, found, at = np.intersect1d(theirs, ours, assume_unique=True, return_indices=True)
    return found, here[at]


def _spread_rewards(
    rows: Rows, here: Column, annotation: Annotation, trajectory: Trajectory, reward_A: Reals, rewarded_A: Bools
) -> None:
    """Puts the reward of each turn on its last row."""
    own = here[rows.source_A[here] != "corrected"]
    for s in np.flatnonzero(~np.isnan(annotation.reward_S) & ~annotation.skip_S):
        rows_of_turn = own[rows.turn_A[own] == s]
        if len(rows_of_turn):
            rewarded_A[rows_of_turn] = True
            reward_A[rows_of_turn[-1]] = annotation.reward_S[s]
