"""The rows of a global batch: one for each action token, as plain columns.

``prepare`` works on these alone. A row is one token that a policy produced; rows stand in time order within a trajectory,
across its segments, the corrected actions of teachers last. Columns are numpy arrays, float64 where arithmetic follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from agentopd.types import Annotation, Bools, Record, Segment, Trajectory

CORRECTED = "corrected"
"""The source of segments that come with an annotation."""

Column: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TeacherColumns:
    """What one teacher said, spread over the rows."""

    annotation_A: Column
    """Index into the record's annotations of the one that covers the row, -1 where the teacher says nothing of it or skips its turn."""
    entry_A: Column
    """Which of that annotation's rows it is."""
    taken_A: Reals
    entropy_A: Reals
    statistics: Mapping[str, Reals]
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
    def corrected_A(self) -> Bools:
        """Rows of actions that teachers wrote after the fact: no policy took them, so they are in no return."""
        return np.asarray(self.source_A == CORRECTED, np.bool_)

    @property
    def segment_in_trajectory_A(self) -> Column:
        """Number of the segment within its record: the trajectory's own, then its annotations'."""
        counts = [
            len(record.trajectory.segments) + sum(len(annotation.segments) for annotation in record.annotations)
            for record in self.records
        ]
        first_B = np.cumsum([0, *counts])
        return np.asarray(self.segment_A - first_B[self.trajectory_A], np.int64)

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
        """The rows of ``records``, every action token once.

        Raises:
            ValueError: A trajectory marks a turn's tokens twice, or an annotation names a token that no policy produced.
        """
        tables = [_trajectory_rows(i, record) for i, record in enumerate(records)]
        offsets = np.cumsum([0, *(len(segments) for segments, _ in tables)])
        segments = tuple(segment for own, _ in tables for segment in own)
        columns = {name: np.concatenate([empty, *(t[name] for _, t in tables)]) for name, empty in _EMPTY.items()}
        columns["segment_A"] += offsets[columns["trajectory_A"]]
        names = sorted({annotation.teacher for record in records for annotation in record.annotations})
        bare = cls(records=tuple(records), segments=segments, teachers={}, live=None, **columns)
        return replace(bare, teachers={name: _teacher_columns(name, bare, offsets) for name in names})


_EMPTY: dict[str, NDArray[Any]] = {
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


def _trajectory_rows(i: int, record: Record) -> tuple[list[Segment], dict[str, NDArray[Any]]]:
    """The segments of one record and the columns of their action tokens, segments numbered within the record."""
    own = list(record.trajectory.segments)
    actors = np.array(record.trajectory.actors or ("",), np.str_)
    parts = [_segment_rows(i, s, segment, actors[segment.actor_T]) for s, segment in enumerate(own)]
    _check_time_order(record.trajectory, [part["turn_A"] for part in parts])
    corrected = [(segment, annotation.teacher) for annotation in record.annotations for segment in annotation.segments]
    for s, (segment, teacher) in enumerate(corrected, len(own)):
        parts.append(_segment_rows(i, s, segment, np.full(len(segment), teacher)))
    columns = {name: np.concatenate([empty, *(part[name] for part in parts)]) for name, empty in _EMPTY.items()}
    return own + [segment for segment, _ in corrected], columns


def _check_time_order(trajectory: Trajectory, turns: list[Column]) -> None:
    """A fork renders the past again as context; were it marked as action, its tokens would be learned twice."""
    acted = [turn_A for turn_A in turns if len(turn_A)]
    backwards = any((np.diff(turn_A) < 0).any() for turn_A in acted)
    if backwards or any(before[-1] >= after[0] for before, after in pairwise(acted)):
        raise ValueError(
            f"trajectory {trajectory.key}: action tokens are not in time order across its segments; "
            "a forked segment must mark earlier turns as context (turn -1)"
        )


def _segment_rows(i: int, s: int, segment: Segment, actor_T: NDArray[np.str_]) -> dict[str, NDArray[Any]]:
    index_A = np.flatnonzero(segment.turn_T >= 0)
    return {
        "trajectory_A": np.full(len(index_A), i, np.int64),
        "segment_A": np.full(len(index_A), s, np.int64),
        "index_A": index_A.astype(np.int64),
        "turn_A": segment.turn_T[index_A].astype(np.int64),
        "token_A": segment.tokens_T[index_A].astype(np.int64),
        "logprob_A": segment.logprob_T[index_A].astype(np.float64),
        "trainable_A": segment.trainable_T[index_A],
        "actor_A": actor_T[index_A],
        "source_A": np.full(len(index_A), segment.source),
    }


def _teacher_columns(name: str, rows: Rows, offsets: Column) -> TeacherColumns:
    """Spreads every annotation of one teacher over the rows; where two cover a row, the later one holds."""
    columns = _nothing_said(len(rows))
    starts = np.searchsorted(rows.trajectory_A, np.arange(len(rows.records) + 1))
    for i, record in enumerate(rows.records):
        here = np.arange(starts[i], starts[i + 1])
        for a, annotation in enumerate(record.annotations):
            if annotation.teacher == name:
                _spread(columns, rows, annotation, a, _match(rows, here, record, a, int(offsets[i])))
                _spread_rewards(columns, rows, here, annotation)
    return columns


def _nothing_said(size: int) -> TeacherColumns:
    nobody, unknown = np.full(size, -1, np.int64), np.full(size, np.nan)
    return TeacherColumns(
        nobody, nobody.copy(), unknown, unknown.copy(), {}, reward_A=np.zeros(size), rewarded_A=np.zeros(size, np.bool_)
    )


def _match(rows: Rows, here: Column, record: Record, a: int, offset: int) -> Column:
    """The row of each entry of an annotation, which numbers the trajectory's segments first, then its own."""
    annotation, own = record.annotations[a], len(record.trajectory.segments)
    earlier = sum(len(other.segments) for other in record.annotations[:a])
    segment_N = annotation.segment_N.astype(np.int64)
    segment_N = np.where(segment_N < own, segment_N, segment_N + earlier)
    width = int(max(rows.index_A[here].max(initial=0), annotation.index_N.max(initial=0))) + 1
    ours = (rows.segment_A[here] - offset) * width + rows.index_A[here]
    _, found, at = np.intersect1d(segment_N * width + annotation.index_N, ours, return_indices=True)
    if len(found) != len(segment_N):
        raise ValueError(
            f"teacher {annotation.teacher!r} on trajectory {record.trajectory.key}: {len(segment_N) - len(found)} of its "
            f"{len(segment_N)} rows name no action token, or one that another row names"
        )
    row_N = np.empty(len(segment_N), np.int64)
    row_N[found] = here[at]
    return row_N


def _spread(columns: TeacherColumns, rows: Rows, annotation: Annotation, a: int, row_N: Column) -> None:
    """Writes what annotation ``a`` of its record says of each token, but for the turns that it skips."""
    entry = np.flatnonzero(~annotation.skip_S[rows.turn_A[row_N]])
    at = row_N[entry]
    columns.annotation_A[at], columns.entry_A[at] = a, entry
    columns.taken_A[at], columns.entropy_A[at] = annotation.taken_N[entry], annotation.entropy_N[entry]
    statistics = cast("dict[str, Reals]", columns.statistics)
    for key, column in annotation.statistics.items():
        statistics.setdefault(key, np.full(len(rows), np.nan))[at] = column[entry]


def _spread_rewards(columns: TeacherColumns, rows: Rows, here: Column, annotation: Annotation) -> None:
    """Puts the reward of each turn on its last row, or on the last row before it where the turn has none."""
    rewarded = np.flatnonzero(~np.isnan(annotation.reward_S) & ~annotation.skip_S)
    own = here[~rows.corrected_A[here]]
    if len(rewarded):
        columns.rewarded_A[own[~annotation.skip_S[rows.turn_A[own]]]] = True
    last = np.searchsorted(rows.turn_A[own], rewarded, side="right") - 1
    np.add.at(columns.reward_A, own[last[last >= 0]], annotation.reward_S[rewarded[last >= 0]])
