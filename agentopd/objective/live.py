"""The live pass: the student's present statistics on every row, without gradient, for weights and ratios that read them."""

from collections.abc import Callable

import numpy as np
from torch import Tensor, no_grad

from agentopd.objective.batch import passes
from agentopd.objective.chunked import statistics
from agentopd.objective.columns import LiveColumns
from agentopd.objective.head import Head
from agentopd.objective.rows import Rows
from agentopd.packing import Layout


@no_grad()
def live_columns(
    rows: Rows,
    hidden_states: Callable[[Tensor, Tensor | None], Tensor],
    head: Head,
    max_tokens: int,
    layout: Layout,
    temperature: float,
    chunk_rows: int,
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
    """
    logprob_A, entropy_A = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for passed in passes(rows, rows.trainable_A, max_tokens, layout):
        there = passed.to(head.weight_V_H.device)
        hidden_A_H = hidden_states(there.input_ids_B_T, there.position_ids_B_T)[there.sample_A, there.position_A]
        found = statistics(hidden_A_H, head, there.token_A, temperature, chunk_rows)
        row_A = passed.row_A.numpy()
        logprob_A[row_A], entropy_A[row_A] = (column.double().cpu().numpy() for column in found)
    return LiveColumns(logprob_A, entropy_A)
