"""Cutting: from a prepared global batch to micro-batches of tensors under a token budget.

Only segments with a row that some term trains are kept, each up to its last such row, and of teachers' blocks only the rows that a
term reads; a span of rows is kept or left out as a whole. The coefficients are made already, so how a batch is cut changes neither loss nor gradient.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from agentopd.objective.blocks import BatchBlock, blocks_of, needed
from agentopd.objective.columns import Column
from agentopd.objective.numbers import picked, tensors
from agentopd.objective.prepare import Prepared, PreparedTerm
from agentopd.objective.rows import Rows
from agentopd.objective.term import Term
from agentopd.packing import Layout, batches, packed, padded
from agentopd.types import Bools


@dataclass(frozen=True, slots=True)
class BatchTerm:
    """One term over the A rows of a micro-batch."""

    name: str
    key: str
    """Where the term stands in a configuration, for messages."""
    term: Term
    coef_A: Tensor
    advantage_A: Tensor
    old_A: Tensor
    logq_A: Tensor
    temperature: float
    settings: Mapping[str, Mapping[str, Any]]
    """By part; a value is a number, or one number a row, [A]."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What one forward of the student reads, and where it predicts the rows that are wanted of it."""

    input_ids_B_T: Tensor
    position_ids_B_T: Tensor | None
    """Positions that restart in each segment of a packed row, B = 1; ``None`` where rows are padded on the right."""
    row_A: Tensor
    """Which rows of ``Prepared.rows`` these are."""
    sample_A: Tensor
    position_A: Tensor
    """The hidden state that predicts each: ``hidden_B_T_H[sample_A, position_A]``."""
    token_A: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on a device."""
        moved: Self = _moved(self, torch.device(device))
        return moved


@dataclass(frozen=True, slots=True)
class Batch(Passed):
    """One micro-batch: a forward, and what the terms and teachers have to say of its rows."""

    terms: tuple[BatchTerm, ...]
    blocks: tuple[BatchBlock, ...]


def cut(prepared: Prepared, max_tokens: int, layout: Layout = "padded") -> list[Batch]:
    """Cuts a global batch; rows without a coefficient, and segments without a row, cost nothing.

    Args:
        prepared: The global batch.
        max_tokens: Input tokens of a micro-batch, padding included; a longer segment stands alone.
        layout: ``padded``: segments of similar length, padded on the right, for any causal model. ``packed``: concatenated, with
            position ids that restart, for models that tell sequences apart by them.

    Returns:
        Micro-batches, the longest segments first; none where every coefficient is 0.

    Raises:
        ValueError: ``max_tokens`` is below 1, a segment starts with an action token, or a term reads a distribution that its
            teacher did not give.
    """
    return [_batch(prepared, passed) for passed in passes(prepared.rows, needed(prepared), max_tokens, layout)]


def passes(rows: Rows, needed_A: Bools, max_tokens: int, layout: Layout = "padded") -> list[Passed]:
    """The forwards of the student that predict the rows of ``needed_A``; the other arguments are those of :func:`cut`.

    Raises:
        ValueError: ``max_tokens`` is below 1, or a segment starts with an action token.
    """
    needed = _by_segment(rows, np.flatnonzero(needed_A))
    lengths = [_inputs(rows, chosen) for chosen in needed]
    if 0 in lengths:
        raise ValueError("a segment's first token is an action, which nothing precedes to predict it from")
    return [_passed(rows, [needed[i] for i in batch], layout) for batch in batches(lengths, max_tokens, layout)]


def _by_segment(rows: Rows, needed: Column) -> list[Column]:
    """The needed rows of each segment that has any, in order."""
    starts = np.unique(rows.segment_A[needed], return_index=True)[1]
    return np.split(needed, starts[1:]) if len(needed) else []


def _inputs(rows: Rows, chosen: Column) -> int:
    """How many tokens of a segment are read to predict its rows ``chosen``."""
    return int(rows.index_A[chosen[-1]])


def _passed(rows: Rows, parts: Sequence[Column], layout: Layout) -> Passed:
    """One forward, for the needed rows ``parts`` of each of its segments."""
    row_A = np.concatenate(parts)
    place_A = np.repeat(np.arange(len(parts)), [len(chosen) for chosen in parts])
    position_A = rows.index_A[row_A] - 1
    inputs = [rows.segments[rows.segment_A[chosen[0]]].tokens_T[: _inputs(rows, chosen)] for chosen in parts]
    if layout == "packed":
        starts = np.cumsum([0, *(len(tokens) for tokens in inputs)])
        position_A, place_A = position_A + starts[place_A], np.zeros_like(place_A)
    return Passed(
        packed(inputs) if layout == "packed" else padded(inputs),
        packed([np.arange(len(tokens)) for tokens in inputs]) if layout == "packed" else None,
        torch.from_numpy(row_A),
        torch.from_numpy(place_A),
        torch.from_numpy(position_A),
        torch.from_numpy(rows.token_A[row_A]),
    )


def _batch(prepared: Prepared, passed: Passed) -> Batch:
    row_A = passed.row_A.numpy()
    forward = {f.name: getattr(passed, f.name) for f in fields(passed)}
    terms = tuple(_term(term, row_A) for term in prepared.terms)
    return Batch(**forward, terms=terms, blocks=tuple(blocks_of(prepared, row_A)))


def _term(term: PreparedTerm, row_A: Column) -> BatchTerm:
    return BatchTerm(
        name=term.name,
        key=term.key,
        term=term.term,
        coef_A=torch.from_numpy(term.coef_A[row_A]),
        advantage_A=torch.from_numpy(term.advantage_A[row_A]),
        old_A=torch.from_numpy(term.old_A[row_A]),
        logq_A=torch.from_numpy(term.logq_A[row_A]),
        temperature=term.temperature,
        settings={part: tensors(picked(given, row_A)) for part, given in term.settings.items()},
    )


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        no_float64 = device.type == "mps" and value.dtype == torch.float64
        return value.to(device, torch.float32 if no_float64 else value.dtype)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if isinstance(value, Mapping):
        return {name: _moved(item, device) for name, item in value.items()}
    return replace(value, **dict(_moved_fields(value, device))) if is_dataclass(value) else value  # type: ignore[type-var]


def _moved_fields(value: Any, device: torch.device) -> Iterator[tuple[str, Any]]:
    return ((f.name, _moved(getattr(value, f.name), device)) for f in fields(value))
