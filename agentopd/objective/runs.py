"""Aligned blocks in a micro-batch: spans of its rows, of which each stands there as a whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentopd.objective.columns import Column
from agentopd.objective.rows import Rows
from agentopd.types import Aligned, Annotation, Bools, Dense, Matched

Parts: TypeAlias = Sequence[tuple[Annotation, Column]]
"""Annotations, and which entries of each."""


@dataclass(frozen=True, slots=True)
class BatchSpans:
    """What an aligned block tells beside its hidden states; see ``apart.SpanRows``."""

    size_N: Tensor
    """How many rows each span has, from the block's row on."""
    token_N: Tensor
    rest_N: Tensor
    alone_N: Tensor
    same_N: Tensor
    next_N_2: Tensor
    longest: int
    merged: bool
    student_K: Tensor
    teacher_K: Tensor
    same: bool


def whole_spans(rows: Rows, teacher: str, mask_A: Bools) -> Bools:
    """``mask_A`` and all rows of the spans of ``teacher`` that have one of its rows."""
    columns, wider_A = rows.teachers.get(teacher), mask_A.copy()
    said = {
        (i, a): annotation.block.span.student_P_2[:, 0]
        for i, record in enumerate(rows.records)
        for a, annotation in enumerate(record.annotations)
        if annotation.teacher == teacher and isinstance(annotation.block, Aligned)
    }
    if columns is None or not said or not mask_A.any():
        return wider_A
    ends_A = np.searchsorted(rows.trajectory_A, np.arange(len(rows.records) + 1))
    for (i, a), start_P in said.items():
        here_M = np.arange(ends_A[i], ends_A[i + 1])
        here_M = here_M[columns.annotation_A[here_M] == a]
        span_M = np.searchsorted(start_P, columns.entry_A[here_M], side="right") - 1
        wider_A[here_M] |= np.isin(span_M, span_M[mask_A[here_M]])
    return wider_A


@dataclass(frozen=True, slots=True)
class _Run:
    """The spans of one annotation that a micro-batch has."""

    block: Aligned
    span_M: Column
    """Which of the block's."""
    first_M: Column
    """The micro-batch's row with which each begins."""
    token_M: Column
    """The student's token there."""


def spans_of(parts: Parts, row_N: Column, token_N: Column) -> Iterator[tuple[Tensor, Dense, BatchSpans]]:
    """The first rows of spans, the teacher's hidden states there and what else is told: of the spans of one matched token where no form
    could come, and of all others.

    Args:
        parts: Annotations with aligned blocks of one teacher, and which of their entries are there.
        row_N: The micro-batch's row of each, part by part.
        token_N: The student's tokens there.
    """
    ends = np.cumsum([0, *(len(entry) for _, entry in parts)])
    runs = [
        _run(annotation, entry, row_N[start:stop], token_N[start:stop])
        for (annotation, entry), (start, stop) in zip(parts, pairwise(ends), strict=True)
    ]
    columns = [_columns(run) for run in runs]
    first_N, size_N, theirs_N, plain_N, alone_N, rest_N, same_N, next_N_2 = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    hidden = torch.cat([run.block.dense.hidden_N_H[torch.from_numpy(run.span_M)] for run in runs])
    matched, head = runs[0].block.matched, runs[0].block.dense.head
    pairs = torch.from_numpy(matched.student_K).long(), torch.from_numpy(matched.teacher_K).long()
    for merged in (False, True):
        at = np.flatnonzero(plain_N != merged)
        at = at[np.argsort(first_N[at], kind="stable")]
        if len(at):
            told = first_N, size_N, theirs_N, rest_N, alone_N, same_N, next_N_2
            first, size, token, rest, alone, same, coming = (torch.from_numpy(one_N[at]) for one_N in told)
            longest = int(size_N[at].max())
            spans = BatchSpans(size, token, rest, alone, same, coming, longest, merged, *pairs, matched.same)
            yield first, Dense(hidden[torch.from_numpy(at)], head), spans


def _run(annotation: Annotation, entry_N: Column, row_N: Column, token_N: Column) -> _Run:
    """The spans whose rows are all there, one behind the other: a later annotation of the same teacher may have taken some away."""
    assert isinstance(annotation.block, Aligned)
    order = np.argsort(entry_N, kind="stable")
    entry_N, row_N, token_N = entry_N[order], row_N[order], token_N[order]
    start_P, stop_P = annotation.block.span.student_P_2.T
    at_P, end_P = (np.searchsorted(entry_N, bound_P) for bound_P in (start_P, stop_P))
    span_M = np.flatnonzero((end_P - at_P == stop_P - start_P) & (end_P > at_P))
    at_M, end_M = at_P[span_M], end_P[span_M]
    in_row = row_N[end_M - 1] - row_N[at_M] == end_M - at_M - 1
    return _Run(annotation.block, span_M[in_row], row_N[at_M[in_row]], token_N[at_M[in_row]])


def _columns(run: _Run) -> tuple[NDArray[Any], ...]:
    """Of each span its first row, size, the teacher's first token, whether it is one pair, whether the teacher has one, its rest, whether
    it is the same bytes, and what could come there.
    """
    block, span = run.block, run.block.span
    ours_M, theirs_M = (
        np.diff(ends_P_2[run.span_M], axis=1)[:, 0] for ends_P_2 in (span.student_P_2, span.teacher_P_2)
    )
    token_M = block.token_P[run.span_M].astype(np.int64)
    plain_M = (ours_M == 1) & (theirs_M == 1) & _paired(block.matched, run.token_M, token_M)
    rest_M, same_M = block.rest_P[run.span_M], block.same_P[run.span_M]
    next_M_2 = block.next_P_2[run.span_M].astype(np.int64)
    next_M_2[_written(block.matched, (run.token_M, token_M), (ours_M == 1, theirs_M == 1), next_M_2)] = -1
    plain_M &= same_M & (next_M_2[:, 0] < 0)
    return run.first_M, ours_M.astype(np.int64), token_M, plain_M, theirs_M == 1, rest_M, same_M, next_M_2


def _written(
    matched: Matched, tokens: tuple[Column, Column], alone: tuple[Bools, Bools], next_M_2: NDArray[np.int64]
) -> Bools:
    """Whether one side wrote, by a single token, what would begin the form, or the other side's token of the same bytes: then that is the
    span, and what could come has no token left."""
    (ours_M, theirs_M), (our_next_M, their_next_M) = tokens, next_M_2.T
    ours = alone[0] & ((our_next_M == ours_M) | _paired(matched, ours_M, their_next_M))
    theirs = alone[1] & ((their_next_M == theirs_M) | _paired(matched, our_next_M, theirs_M))
    found: Bools = ours | theirs
    return found


def _paired(matched: Matched, student_M: Column, teacher_M: Column) -> Bools:
    """Whether two tokens are one of the pairs."""
    if not len(matched.student_K):
        return np.zeros(len(student_M), np.bool_)
    at_M = np.searchsorted(matched.student_K, student_M).clip(max=len(matched.student_K) - 1)
    found: Bools = (matched.student_K[at_M] == student_M) & (matched.teacher_K[at_M] == teacher_M)
    return found
