"""The tokens of one record's turns, with everything that is known of each: columns by name, an entry a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.objective.signals import CURRENT_LOGPROB, STUDENT_TOP_IDS, STUDENT_TOP_LOGPROB
from agentopd.records.signals import KEYS, Columns
from agentopd.records.tokens import aligned, rows_of
from agentopd.types import CONTEXT, Annotation, Record, Sparse
from agentopd.viewer.shades import (
    BEHAVIOUR_LOGPROB,
    LOG_RATIO,
    TEACHER_ENTROPY,
    TEACHER_LOGPROB,
)

TRAINED, CONTEXTUAL, UNTRAINED = 0, 1, 2
"""Flags of a token: trained on; context inside a turn, which no policy drew; drawn, and not trained on."""

LIKELIEST = 8
"""How many of the likeliest tokens are shown of each distribution."""


@dataclass(frozen=True, slots=True)
class Top:
    """The likeliest tokens of one distribution at some tokens of the episode, the likeliest first; ids of -1 fill up."""

    title: str
    row_N: NDArray[Any]
    ids_N_K: NDArray[Any]
    logprob_N_K: NDArray[Any]
    logtail_N: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of all turns of a record, turn after turn; ``span_S`` says which of them are a turn's."""

    span_S: Sequence[tuple[int, int]]
    ids: NDArray[Any]
    flags: NDArray[Any]
    signals: Mapping[str, NDArray[Any]]
    """[A] each, ``nan`` where a signal does not concern a token."""
    tops: Sequence[Top]


def tokens_of(record: Record, signals: Columns, teachers: Sequence[str]) -> Tokens:
    """What is known of a record's tokens.

    Args:
        record: The record.
        signals: The rows of the step's signals that are this trajectory's.
        teachers: Whose annotations count.
    """
    places, spans = _places(record)
    segment_A, index_A = places
    row_of = {place: row for row, place in enumerate(zip(segment_A.tolist(), index_A.tolist(), strict=True))}

    def column(name: str) -> NDArray[Any]:
        parts = [
            getattr(segment, name)[index_A[segment_A == i]] for i, segment in enumerate(record.trajectory.segments)
        ]
        found = np.zeros(len(segment_A), parts[0].dtype if parts else np.float32)
        for i, part in enumerate(parts):
            found[segment_A == i] = part
        return found

    drawn_A = column("turn_T") != CONTEXT
    flags = np.where(drawn_A, np.where(column("trainable_T"), TRAINED, UNTRAINED), CONTEXTUAL)
    known: dict[str, NDArray[Any]] = {BEHAVIOUR_LOGPROB: np.where(drawn_A, column("logprob_T"), np.nan)}
    tops: list[Top] = []
    if signals and len(signals["segment"]):
        rows = rows_of(row_of, signals["segment"], signals["index"])
        own = [name for name in signals if name not in (*KEYS, "turn", STUDENT_TOP_IDS, STUDENT_TOP_LOGPROB)]
        known |= {
            name: _aligned(signals[name], rows, len(segment_A))
            for name in own
            if signals[name].ndim == 1 and signals[name].dtype.kind in "iufb"
        }
        if STUDENT_TOP_IDS in signals:
            tops += _top("student", rows, signals[STUDENT_TOP_IDS], signals[STUDENT_TOP_LOGPROB], None)
    student_A = known.get(CURRENT_LOGPROB, known[BEHAVIOUR_LOGPROB])
    for said in record.annotations:
        if said.teacher in teachers:
            rows = rows_of(row_of, said.segment_N, said.index_N)
            known |= _said(said, rows, student_A)
            if isinstance(said.block, Sparse):
                block = said.block
                tops += _top(said.teacher, rows, block.ids_N_K, block.logprob_N_K, block.logtail_N)
    return Tokens(spans, column("tokens_T"), flags, known, tops)


def _places(record: Record) -> tuple[tuple[NDArray[Any], NDArray[Any]], list[tuple[int, int]]]:
    """The segment and the index of each token of each turn, and where the tokens of each turn are among them."""
    segments, indices, spans, count = [], [], [], 0
    for turn in record.trajectory.turns:
        held = len(record.trajectory.segments[turn.segment]) if turn.segment < len(record.trajectory.segments) else 0
        start, stop = min(turn.start, held), min(turn.stop, held)
        segments.append(np.full(stop - start, turn.segment, np.int64))
        indices.append(np.arange(start, stop, dtype=np.int64))
        spans.append((count, count + stop - start))
        count += stop - start
    nothing = np.zeros(0, np.int64)
    return (np.concatenate([nothing, *segments]), np.concatenate([nothing, *indices])), spans


def _said(said: Annotation, rows: NDArray[Any], student_A: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The columns of one annotation."""
    count = len(student_A)
    taken_A = _aligned(said.taken_logprob_N, rows, count)
    columns = {
        f"{TEACHER_LOGPROB}/{said.teacher}": taken_A,
        f"{LOG_RATIO}/{said.teacher}": taken_A - student_A,
        f"{TEACHER_ENTROPY}/{said.teacher}": _aligned(said.entropy_N, rows, count),
        **{f"{name}/{said.teacher}": _aligned(values_N, rows, count) for name, values_N in said.statistics.items()},
    }
    return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def _top(
    title: str, rows: NDArray[Any], ids_N_K: NDArray[Any], logprob_N_K: NDArray[Any], logtail_N: NDArray[Any] | None
) -> list[Top]:
    """The likeliest of a block, most likely first; none where nothing of it is of the episode."""
    here = rows >= 0
    if not here.any():
        return []
    ids, logprobs = ids_N_K[here], np.where(ids_N_K[here] >= 0, logprob_N_K[here], -np.inf)
    best = np.argsort(-logprobs, axis=1, kind="stable")[:, :LIKELIEST]
    ids, kept = np.take_along_axis(ids, best, 1), np.take_along_axis(logprobs, best, 1)
    with np.errstate(divide="ignore"):
        rest = np.log(np.clip(1.0 - np.exp(kept.astype(np.float64)).sum(1), 0.0, None))
    if logtail_N is not None and ids_N_K.shape[1] <= LIKELIEST:
        rest = logtail_N[here]
    return [Top(title, rows[here], np.where(np.isfinite(kept), ids, -1), kept, rest)]


def _aligned(values: NDArray[Any], rows: NDArray[Any], count: int) -> NDArray[Any]:
    return aligned(values.astype(np.float64), rows, count)
