"""The live pass: the student's present statistics on every row, without gradient, for weights and ratios that read them."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor, no_grad

from agentopd.objective.batch import Passed, passes
from agentopd.objective.chunked import statistics
from agentopd.objective.columns import LiveColumns, Reals
from agentopd.objective.head import Head
from agentopd.objective.rows import Rows
from agentopd.packing import Layout

Found: TypeAlias = tuple[Reals, Reals]
Every: TypeAlias = Callable[[Callable[[Passed], Found], Sequence[Passed]], Iterable[Found]]
"""Gives what a function finds of each forward, in order."""


@no_grad()
def live_columns(
    rows: Rows,
    hidden_states: Callable[[Tensor, Tensor | None], Tensor],
    head: Head,
    max_tokens: int,
    layout: Layout,
    temperature: float,
    chunk_rows: int,
    every: Every = map,
) -> LiveColumns:
    """Runs the student once over the trainable rows; the others are ``nan``.

    Args:
        rows: The global batch.
        hidden_states: From input ids [B, T] and position ids (``None`` where padded) to hidden states [B, T, H].
        head: The student's output head.
        max_tokens: As for :func:`cut`.
        layout: As for :func:`cut`.
        temperature: The one that was sampled at.
        chunk_rows: Rows whose logits exist at once.
        every: What runs the forwards, as ``map`` does.
    """
    logprob_A, entropy_A = np.full(len(rows), np.nan), np.full(len(rows), np.nan)

    def found(passed: Passed) -> Found:
        there = passed.to(head.weight_V_H.device)
        hidden_A_H = hidden_states(there.input_ids_B_T, there.position_ids_B_T)[there.sample_A, there.position_A]
        columns = statistics(hidden_A_H, head, there.token_A, temperature, chunk_rows)
        logprob_N, entropy_N = (column.double().cpu().numpy() for column in columns)
        return logprob_N, entropy_N

    forwards = passes(rows, rows.trainable_A, max_tokens, layout)
    for passed, columns in zip(forwards, every(found, forwards), strict=True):
        row_A = passed.row_A.numpy()
        logprob_A[row_A], entropy_A[row_A] = columns
    return LiveColumns(logprob_A, entropy_A)
