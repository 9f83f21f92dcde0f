"""The loss of a micro-batch: sum(coef * phi) over rows and terms, and nothing else.

The student's logits are computed once for each chunk of rows. phi belongs to a term and, for a divergence, to a teacher's block:
terms and teachers may overlap on rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agentopd.objective.batch import Batch, BatchTerm
from agentopd.objective.chunked import chunked_loss, chunks, taken_logprob
from agentopd.objective.divergences import entropy, log_softmax
from agentopd.objective.estimators import RATIO, policy_gradient
from agentopd.objective.head import Head
from agentopd.objective.reading import Read, Teaching, check_ids, of_rows, split, teaching


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
        ValueError: A dense block names a head that is not given, a teacher's vocabulary differs from the student's, or a part
            returns the wrong shape.
    """
    for block in batch.blocks:
        check_ids(block, len(head.weight_V_H))
    slices = chunks(len(batch.row_A), chunk_rows)
    whole = [split(block, torch.ones_like(block.row_N), slices) for block in batch.blocks]
    reads = [_reads(term, batch, slices) for term in batch.terms]

    def evaluate(logits_N_V: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_N_V, chunk = log_softmax(logits_N_V, temperature), rows.start // chunk_rows
        taken_N = taken_logprob(logp_N_V, batch.taken_A[rows])
        taught = [
            teaching(block, entries[chunk], rows, teacher_heads, temperature, logp_N_V.detach())
            for block, entries in zip(batch.blocks, whole, strict=True)
        ]
        total, signals = taken_N.new_zeros(()), _signals(logp_N_V.detach(), taken_N.detach(), taught)
        for term, blocks in zip(batch.terms, reads, strict=True):
            now = [(taught[i], entries[chunk]) for i, entries in blocks]
            phi_N = _phi(term, logp_N_V, taken_N, rows, now)
            on_N = term.coef_A[rows] != 0
            total = total + (term.coef_A[rows].to(phi_N.dtype) * phi_N.where(on_N, 0.0)).sum()
            signals[f"{term.name}/phi"] = phi_N.detach().masked_fill(~on_N, torch.nan)
        return total, signals

    return LossOutput(*chunked_loss(hidden_A_H, head, evaluate, chunk_rows))


def _reads(term: BatchTerm, batch: Batch, slices: Sequence[slice]) -> list[tuple[int, list[Tensor]]]:
    """The blocks that a term takes a divergence from, and their entries by chunk."""
    if term.term.scored or term.term.target.kind != "distribution":
        return []
    mine = [(i, block) for i, block in enumerate(batch.blocks) if block.teacher == term.term.target.name]
    return [(i, split(block, term.coef_A[block.row_N] != 0, slices)) for i, block in mine]


def _phi(
    term: BatchTerm, logp_N_V: Tensor, taken_N: Tensor, rows: slice, blocks: Sequence[tuple[Teaching, Tensor]]
) -> Tensor:
    """phi [N] of the rows that the term trains; anything elsewhere."""
    if term.term.target.kind == "taken":
        return -taken_N
    if term.term.scored:
        advantage_N, old_N = term.advantage_A[rows].to(taken_N.dtype), term.old_A[rows].to(taken_N.dtype)
        ratio = {name: term.estimator[name] for name in RATIO & term.estimator.keys()}
        return policy_gradient(taken_N, advantage_N, old_N, **of_rows(ratio, rows, None, taken_N.dtype))
    phi_N = taken_N.new_zeros(taken_N.shape)
    for taught, entry_M in blocks:
        if not len(entry_M):
            continue
        read = taught.read(entry_M)
        phi_N = phi_N.index_add(0, read.local_M, _divergence(term, logp_N_V, rows, read).to(phi_N.dtype))
    return phi_N


def _divergence(term: BatchTerm, logp_N_V: Tensor, rows: slice, read: Read) -> Tensor:
    logp_M_V = logp_N_V if len(read.local_M) == len(logp_N_V) else logp_N_V[read.local_M]
    support = of_rows(term.support, rows, read.local_M, logp_N_V.dtype)
    settings = of_rows(term.divergence, rows, read.local_M, logp_N_V.dtype)
    value: Tensor = term.term.divergence.function(
        *term.term.support.function(logp_M_V, read.teacher, **support), **settings
    )
    if value.shape != read.local_M.shape:
        raise ValueError(
            f"divergence {term.term.divergence.kind!r} returned shape {tuple(value.shape)} for {len(read.local_M)} rows; "
            "return one number a row"
        )
    return value


def _signals(logp_N_V: Tensor, taken_N: Tensor, taught: Sequence[Teaching]) -> dict[str, Tensor]:
    """What is seen of a chunk's rows whatever the terms; the first teacher is written last."""
    teacher_entropy = torch.full_like(taken_N, torch.nan)
    for block in reversed(taught):
        if block.teacher.logq_N_V is not None:
            teacher_entropy[block.local_N] = entropy(block.teacher.logq_N_V)
    return {"logprob": taken_N, "entropy": entropy(logp_N_V), "teacher_entropy": teacher_entropy}
