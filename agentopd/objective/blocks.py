"""What teachers said, cut to the rows of a micro-batch that some term reads."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective.columns import Column
from agentopd.objective.floor import FLOOR
from agentopd.objective.prepare import Prepared
from agentopd.objective.runs import BatchSpans, spans_of, whole_spans
from agentopd.objective.supports import ids_each
from agentopd.types import Aligned, Annotation, Bools, Dense, Mixture, Sparse, Whose

Parts: TypeAlias = list[tuple[Annotation, Column]]
"""Annotations, and which entries of each."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """The output head of an aligned block."""

    head: str


HeadName: TypeAlias = str | tuple[str, ...] | Foreign | None
"""The output head of a dense block, those of a mixture, that of an aligned one, or ``None`` of a sparse one."""


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A teacher's word on a few ids as tensors: see ``types.Sparse``."""

    ids_N_K: Tensor
    logprob_N_K: Tensor
    logtail_N: Tensor
    least: int
    """The least K of the annotations that it is made of; their rows are padded to the largest. Of a union they all have one."""
    of: Whose = "teacher"


@dataclass(frozen=True, slots=True)
class BatchBlock:
    """The distributions of one teacher on some rows: dense, a mixture of dense ones, or sparse; or dense where spans of rows begin."""

    teacher: str
    row_N: Tensor
    """Which of the micro-batch's rows, ascending."""
    dense: Dense | None = None
    sparse: SparseRows | None = None
    mixture: Mixture | None = None
    spans: BatchSpans | None = None
    """Of a teacher with a vocabulary of its own."""

    @property
    def whole(self) -> list[slice]:
        """The runs of rows that must not be divided."""
        if self.spans is None or self.spans.longest < 2:
            return []
        pairs = zip(self.row_N.tolist(), self.spans.size_N.tolist(), strict=True)
        return [slice(first, first + size) for first, size in pairs if size > 1]


def blocks_of(prepared: Prepared, row_A: Column) -> Iterator[BatchBlock]:
    """The blocks on ``row_A`` that terms read, one a teacher and head, or heads of a mixture.

    Raises:
        ConfigError: A term reads a distribution that its teacher did not give, or gave on ids that do not go together.
    """
    for teacher in sorted(frozenset().union(*(term.reads for term in prepared.terms))):
        local_N = np.flatnonzero(_read(prepared, teacher)[row_A])
        for head, (place, parts) in _grouped(prepared, teacher, row_A[local_N]).items():
            order = np.argsort(place, kind="stable")
            row_N = torch.from_numpy(local_N[place[order]])
            if head is None:
                yield BatchBlock(teacher, row_N, sparse=_sparse(parts, order))
            elif isinstance(head, Foreign):
                local_M = local_N[place]
                told = spans_of(parts, local_M, prepared.rows.token_A[row_A[local_M]])
                yield from (BatchBlock(teacher, first_N, dense, spans=spans) for first_N, dense, spans in told)
            elif isinstance(head, tuple):
                yield BatchBlock(teacher, row_N, mixture=_mixture(parts, order, head))
            else:
                yield BatchBlock(teacher, row_N, dense=_dense(parts, order, head))


def _read(prepared: Prepared, teacher: str) -> Bools:
    """Rows on which some term reads the distribution of ``teacher``, and those of their spans."""
    read_A = np.zeros(len(prepared.rows), np.bool_)
    for term in prepared.terms:
        if teacher in term.reads:
            read_A |= term.coef_A != 0
    return whole_spans(prepared.rows, teacher, read_A)


def needed(prepared: Prepared) -> Bools:
    """The rows [A] that some term trains, and those of the spans that one of them is in."""
    needed_A: Bools = np.any([term.coef_A != 0 for term in prepared.terms], axis=0)
    for teacher in frozenset().union(*(term.reads for term in prepared.terms)):
        needed_A = needed_A | _read(prepared, teacher)
    return needed_A


def _grouped(prepared: Prepared, teacher: str, row_N: Column) -> dict[HeadName, tuple[Column, Parts]]:
    """The annotations behind rows, by output head; and which of ``row_N`` they stand for, in their order."""
    columns = prepared.rows.teachers[teacher]
    source = np.stack([prepared.rows.trajectory_A[row_N], columns.annotation_A[row_N]], 1)
    places: dict[HeadName, list[Column]] = defaultdict(list)
    parts: dict[HeadName, Parts] = defaultdict(list)
    for i, a in np.unique(source, axis=0):
        place = np.flatnonzero((source == (i, a)).all(1))
        annotation = prepared.rows.records[i].annotations[a]
        head = _head(annotation)
        places[head].append(place)
        parts[head].append((annotation, columns.entry_A[row_N[place]]))
    return {head: (np.concatenate(places[head]), parts[head]) for head in parts}


def _head(annotation: Annotation) -> HeadName:
    if isinstance(annotation.block, Dense):
        return annotation.block.head
    if isinstance(annotation.block, Mixture):
        return tuple(member.head for member in annotation.block.members)
    if isinstance(annotation.block, Sparse):
        return None
    if isinstance(annotation.block, Aligned):
        return Foreign(annotation.block.dense.head)
    raise ConfigError(
        f"a term reads the distribution of teacher {annotation.teacher!r}, which gave only a {type(annotation.block).__name__} "
        "block; set estimator: {kind: score_function}, without baseline: value, or have it annotate with dense or sparse blocks"
    )


def _dense(parts: Parts, order: Column, head: str) -> Dense:
    hidden = [annotation.block.hidden_N_H[torch.from_numpy(entry)] for annotation, entry in parts]  # type: ignore[union-attr]
    return Dense(torch.cat(hidden)[torch.from_numpy(order)], head)


def _mixture(parts: Parts, order: Column, heads: Sequence[str]) -> Mixture:
    return Mixture(tuple(_dense(_members(parts, m), order, head) for m, head in enumerate(heads)))


def _members(parts: Parts, m: int) -> Parts:
    """The same entries of the mixtures' members ``m``."""
    return [(replace(part, block=part.block.members[m]), entry) for part, entry in parts]  # type: ignore[union-attr]


def _sparse(parts: Parts, order: Column) -> SparseRows:
    def joined(column: Callable[[Any], NDArray[Any]]) -> Tensor:
        return torch.from_numpy(np.concatenate([column(annotation.block)[entry] for annotation, entry in parts])[order])

    of, widths = _one_kind(parts)
    width = max(widths)
    return SparseRows(
        joined(lambda block: _widened(block.ids_N_K, width, -1)).long(),
        joined(lambda block: _widened(block.logprob_N_K, width, FLOOR)),
        joined(lambda block: block.logtail_N),
        ids_each(of, min(widths)),
        of,
    )


def _one_kind(parts: Parts) -> tuple[Whose, list[int]]:
    """Whose likeliest ids sparse blocks hold, and how many columns each has.

    Raises:
        ConfigError: They differ in that, or are unions of different sizes.
    """
    blocks = [annotation.block for annotation, _ in parts if isinstance(annotation.block, Sparse)]
    of, widths = sorted({block.of for block in blocks}), [block.ids_N_K.shape[1] for block in blocks]
    if len(of) == 1 and (of[0] != "union" or len(set(widths)) == 1):
        return of[0], widths
    differ = (
        " and ".join(of)
        if len(of) > 1
        else f"{min(widths) // 2} and {max(widths) // 2} ids each of teacher and student"
    )
    raise ConfigError(
        f"teacher {parts[0][0].teacher!r} gave the likeliest ids of {differ} in different episodes; annotate all of them with the same "
        "settings of this teacher"
    )


def _widened(column_N_K: NDArray[Any], width: int, filler: float) -> NDArray[Any]:
    return np.pad(column_N_K, ((0, 0), (0, width - column_N_K.shape[1])), constant_values=filler)
