"""The rows of a global batch: one for each action token, as plain columns.

A row is one token that a policy produced; rows stand in time order within a trajectory, across its segments, the corrected
actions of teachers last. Columns are numpy arrays, float64 where arithmetic follows. ``prepare`` works on them alone: what the
records hold beyond them, token ids and teachers' distributions, is read where batches are cut.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.objective.columns import Column, Episodes, LiveColumns, Names, Reals, TeacherColumns
from agentopd.types import CORRECTED, Annotation, Bools, Record, Sampled, Segment, Span, Sparse, Trajectory


@dataclass(frozen=True, slots=True)
class Rows:
    """A selection of the action tokens of a global batch."""

    records: tuple[Record, ...]
    """What the rows were made of; read where batches are cut, and nowhere before."""
    segments: tuple[Segment, ...]
    """All segments of all records, a trajectory's own first, then its annotations'; read as ``records`` are."""
    episodes: Episodes
    trajectory_A: Column
    """Index into ``episodes``, and into ``records``."""
    segment_A: Column
    """Index into ``segments``."""
    index_A: Column
    """Position within the segment."""
    turn_A: Column
    """Depth: the turn within the trajectory, from 0."""
    token_A: Column
    """The token taken."""
    logprob_A: Reals
    """Behaviour log-probability: under the distribution that the token was sampled from."""
    trainable_A: Bools
    actor_A: Names
    """Who acted: ``student``, ``expert``, or a teacher's name."""
    source_A: Names
    """The source in the method, or ``corrected``."""
    teachers: Mapping[str, TeacherColumns]
    recomputed: LiveColumns | None = None
    """Behind :attr:`live`; ``None`` where nothing of the method needs it."""
    special: tuple[int, ...] | None = None
    """The token ids that are special in the student's tokenizer; ``None`` where nobody said."""

    def __len__(self) -> int:
        return len(self.trajectory_A)

    @property
    def live(self) -> LiveColumns:
        """The student's present statistics.

        Raises:
            ValueError: They were not computed.
        """
        if self.recomputed is None:
            raise ValueError(
                "rows.live was not computed; mark the function that reads it with @needs_live (from agentopd.objective)"
            )
        return self.recomputed

    @property
    def corrected_A(self) -> Bools:
        """Rows of actions that teachers wrote after the fact: no policy took them, so they are in no return."""
        return np.asarray(self.source_A == CORRECTED, np.bool_)

    @property
    def segment_in_record_A(self) -> Column:
        """Number of the segment within its record: the trajectory's own, then its annotations'."""
        return self.segment_A - self.episodes.first_segment_B[self.trajectory_A]

    @property
    def turn_id_A(self) -> Column:
        """A number for each turn that no other turn of the batch has."""
        deepest = int(self.turn_A.max(initial=0)) + 1
        return self.trajectory_A * deepest + self.turn_A

    def select(self, mask_A: Bools | Column) -> "Rows":
        """Only the rows that ``mask_A`` marks or, as indices, names."""
        whole = ("records", "segments", "episodes", "teachers", "recomputed", "special")
        columns = {f.name: getattr(self, f.name)[mask_A] for f in fields(self) if f.name not in whole}
        live = self.recomputed and LiveColumns(self.live.logprob_A[mask_A], self.live.entropy_A[mask_A])
        teachers = {name: columns.select(mask_A) for name, columns in self.teachers.items()}
        return replace(self, teachers=teachers, recomputed=live, **columns)

    def with_live(self, live: LiveColumns) -> "Rows":
        """The same rows, with the student's present statistics."""
        return replace(self, recomputed=live)

    def with_special(self, ids: Iterable[int]) -> "Rows":
        """The same rows, told which token ids are special."""
        return replace(self, special=tuple(ids))

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Rows":
        """The rows of ``records``, every action token once.

        Raises:
            ValueError: A trajectory marks a turn's tokens twice, or an annotation names a token that no policy produced.
        """
        tables = [_trajectory_rows(i, record) for i, record in enumerate(records)]
        columns = {name: np.concatenate([empty, *(t[name] for _, t in tables)]) for name, empty in _EMPTY.items()}
        names = sorted({annotation.teacher for record in records for annotation in record.annotations})
        teachers = {name: _teacher_columns(name, records, columns) for name in names}
        episodes = Episodes.of(records)
        columns["segment_A"] = columns.pop("segment_in_record_A") + episodes.first_segment_B[columns["trajectory_A"]]
        segments = tuple(segment for own, _ in tables for segment in own)
        return cls(tuple(records), segments, episodes, teachers=teachers, recomputed=None, special=None, **columns)


_EMPTY: dict[str, NDArray[Any]] = {
    "trajectory_A": np.zeros(0, np.int64),
    "segment_in_record_A": np.zeros(0, np.int64),
    "index_A": np.zeros(0, np.int64),
    "turn_A": np.zeros(0, np.int64),
    "token_A": np.zeros(0, np.int64),
    "logprob_A": np.zeros(0, np.float64),
    "trainable_A": np.zeros(0, np.bool_),
    "actor_A": np.zeros(0, "<U1"),
    "source_A": np.zeros(0, "<U1"),
}


def _trajectory_rows(i: int, record: Record) -> tuple[list[Segment], dict[str, NDArray[Any]]]:
    """The segments of one record and the columns of their action tokens."""
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
        "segment_in_record_A": np.full(len(index_A), s, np.int64),
        "index_A": index_A.astype(np.int64),
        "turn_A": segment.turn_T[index_A].astype(np.int64),
        "token_A": segment.tokens_T[index_A].astype(np.int64),
        "logprob_A": segment.logprob_T[index_A].astype(np.float64),
        "trainable_A": segment.trainable_T[index_A],
        "actor_A": actor_T[index_A],
        "source_A": np.full(len(index_A), segment.source),
    }


def _teacher_columns(name: str, records: Sequence[Record], columns: Mapping[str, NDArray[Any]]) -> TeacherColumns:
    """Spreads every annotation of one teacher over the rows; where two cover a row, the later one holds."""
    size, own_A = len(columns["trajectory_A"]), columns["source_A"] != CORRECTED
    starts = np.searchsorted(columns["trajectory_A"], np.arange(len(records) + 1)).tolist()
    said = _nothing_said(size, _statistics(name, records))
    for record, (start, stop) in zip(records, pairwise(starts), strict=True):
        here = {column: columns[column][start:stop] for column in ("segment_in_record_A", "index_A", "turn_A")}
        for a, annotation in enumerate(record.annotations):
            if annotation.teacher == name:
                row_N = _match(here, record, a)
                _spread(said, annotation, a, start + row_N, here["turn_A"][row_N])
                own = np.flatnonzero(own_A[start:stop])
                _spread_rewards(said, annotation, start + own, here["turn_A"][own])
    return said


def _statistics(name: str, records: Sequence[Record]) -> set[str]:
    annotations = (annotation for record in records for annotation in record.annotations)
    return {key for annotation in annotations if annotation.teacher == name for key in _statistics_of(annotation)}


def _statistics_of(annotation: Annotation) -> dict[str, NDArray[Any]]:
    """The statistics that a teacher gives, [N] each, and those that its block tells; its own hold where the names are the same."""
    block, told = annotation.block, dict[str, NDArray[Any]]()
    if isinstance(block, Sparse):
        told["coverage"] = -np.expm1(np.minimum(block.logtail_N.astype(np.float64), 0.0))
        if block.of != "student":  # of those the teacher's likeliest need not be one
            told["best_surprisal"] = -np.where(block.ids_N_K >= 0, block.logprob_N_K, -np.inf).max(1, initial=-np.inf)
    elif not isinstance(block, Sampled | Span):
        told["coverage"] = np.ones(len(annotation.segment_N))
    return {**told, **annotation.statistics}


def _nothing_said(size: int, statistics: set[str]) -> TeacherColumns:
    nobody, unknown = np.full(size, -1, np.int64), np.full(size, np.nan)
    return TeacherColumns(
        annotation_A=nobody,
        entry_A=nobody.copy(),
        taken_logprob_A=unknown,
        entropy_A=unknown.copy(),
        statistics={key: unknown.copy() for key in sorted(statistics)},
        reward_A=np.zeros(size),
        rewarded_A=np.zeros(size, np.bool_),
    )


def _match(here: Mapping[str, Column], record: Record, a: int) -> Column:
    """The row of each entry of an annotation.

    An annotation numbers the trajectory's segments first, then its own; a record has those of earlier annotations in between.
    """
    annotation, own = record.annotations[a], len(record.trajectory.segments)
    earlier = sum(len(other.segments) for other in record.annotations[:a])
    segment_N, index_N = annotation.segment_N.astype(np.int64), annotation.index_N
    segment_N = np.where(segment_N < own, segment_N, segment_N + earlier)
    width = int(max(here["index_A"].max(initial=0), index_N.max(initial=0))) + 1
    ours, theirs = here["segment_in_record_A"] * width + here["index_A"], segment_N * width + index_N  # ours ascend
    row_N = np.searchsorted(ours, theirs).clip(max=max(len(ours) - 1, 0))
    known = len(np.unique(row_N[ours[row_N] == theirs])) if len(ours) else 0
    if known != len(row_N):
        raise ValueError(
            f"teacher {annotation.teacher!r} on trajectory {record.trajectory.key}: {len(row_N) - known} of its "
            f"{len(row_N)} rows name no action token, or one that another row names"
        )
    return row_N


def _spread(said: TeacherColumns, annotation: Annotation, a: int, row_N: Column, turn_N: Column) -> None:
    """Writes what annotation ``a`` of its record says of each token, but for the turns that it skips."""
    entry = np.flatnonzero(~annotation.skip_S[turn_N])
    at = row_N[entry]
    said.annotation_A[at], said.entry_A[at] = a, entry
    said.taken_logprob_A[at], said.entropy_A[at] = annotation.taken_logprob_N[entry], annotation.entropy_N[entry]
    for key, column in _statistics_of(annotation).items():
        said.statistics[key][at] = column[entry]


def _spread_rewards(said: TeacherColumns, annotation: Annotation, own: Column, turn: Column) -> None:
    """Puts the reward of each turn on the turn's last row, or, of a turn in which nothing was written, on the last row before it."""
    rewarded = np.flatnonzero(~np.isnan(annotation.reward_S) & ~annotation.skip_S)
    if len(rewarded):
        here = own[~annotation.skip_S[turn]]
        said.rewarded_A[here], said.reward_A[here] = True, 0.0
        last = np.searchsorted(turn, rewarded, side="right") - 1
        np.add.at(said.reward_A, own[last[last >= 0]], annotation.reward_S[rewarded[last >= 0]])
