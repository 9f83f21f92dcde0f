"""The loss of a micro-batch: sum(coef * phi) over rows and terms, and nothing else.

The student's logits are computed once for each chunk of rows. phi belongs to a term and, for a divergence, to a teacher's block:
terms and teachers may overlap on rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentopd.objective.batch import Batch, BatchTerm
from agentopd.objective.blocks import BatchBlock
from agentopd.objective.chunked import chunked_loss, chunks
from agentopd.objective.divergences import entropy, log_softmax
from agentopd.objective.estimators import policy_gradient
from agentopd.objective.head import Head
from agentopd.objective.supports import TeacherRows


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A micro-batch's loss, and what was seen of each row."""

    loss: Tensor
    signals: Mapping[str, Tensor]
    """[A], detached: ``logprob`` and ``entropy`` of the student; ``teacher_entropy``, ``nan`` where no dense block was read, of
    the first teacher by name where several were; for each term ``<term>/phi``, ``nan`` on rows that it leaves out."""


def loss(
    hidden_A_H: Tensor,
    head: Head,
    teacher_heads: Mapping[str, Head],
    batch: Batch,
    temperature: float = 1.0,
    chunk_rows: int = 1024,
) -> LossOutput:
    """The loss of ``batch``, differentiable in the student's hidden states and its head.

    Args:
        hidden_A_H: ``hidden_B_T_H[batch.sample_A, batch.position_A]`` of the student.
        head: The student's output head.
        teacher_heads: The heads that dense blocks name.
        batch: On the same device.
        temperature: Student and teachers are compared at this temperature, the one that was sampled at.
        chunk_rows: Rows whose logits exist at once.

    Raises:
        ValueError: A dense block names a head that is not given, a teacher's vocabulary differs from the student's, or a user's
            divergence returns the wrong shape.
    """
    edges = [rows.start for rows in chunks(len(batch.row_A), chunk_rows)] + [len(batch.row_A)]
    blocks = [_Reader.of(i, block, torch.ones_like(block.row_N), edges) for i, block in enumerate(batch.blocks)]
    readers = [_readers(term, batch.blocks, edges) for term in batch.terms]

    def evaluate(logits_N_V: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_N_V = log_softmax(logits_N_V, temperature)
        taken_N = logp_N_V.gather(1, batch.taken_A[rows].unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            said = [_said(batch.blocks[block.index], block.entries(rows), teacher_heads, temperature, logp_N_V) for block in blocks]
            signals = _signals(logp_N_V, taken_N, rows, blocks, said)
        total = taken_N.new_zeros(())
        for term, reads in zip(batch.terms, readers, strict=True):
            phi_N = _sampled_phi(term, taken_N, rows) if not reads else _divergence_phi(term, logp_N_V, rows, reads, blocks, said)
            on_N = term.coef_A[rows] != 0
            total = total + (term.coef_A[rows].to(phi_N.dtype) * phi_N.where(on_N, 0.0)).sum()
            signals[f"{term.name}/phi"] = phi_N.detach().masked_fill(~on_N, torch.nan)
        return total, signals

    return LossOutput(*chunked_loss(hidden_A_H, head, evaluate, chunk_rows))
