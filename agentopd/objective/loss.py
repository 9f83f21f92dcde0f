"""The loss of a micro-batch: sum(coef * phi) over rows and terms, and nothing else.

The student's logits are computed once for each chunk of rows. phi belongs to a term and, for a divergence, to a teacher's block:
terms and teachers may overlap on rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective.apart import SpanRows, across, apart, shared_evenly
from agentopd.objective.batch import Batch, BatchTerm
from agentopd.objective.chunked import Evaluate, check_tokens, chunked_loss, chunks, tiles, undivided
from agentopd.objective.closed import fused
from agentopd.objective.contract import call, pair, row_values
from agentopd.objective.estimators import RATIO, Taken, policy_gradient
from agentopd.objective.head import Head
from agentopd.objective.numbers import of_rows
from agentopd.objective.reading import Plan, Read, Tile, check_apart, check_ids, check_width
from agentopd.objective.rewards import expected_reward
from agentopd.objective.signals import loss_of
from agentopd.objective.supports import TeacherRows
from agentopd.objective.targets import whole


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A micro-batch's loss, and what was seen of each row."""

    loss: Tensor
    signals: Mapping[str, Tensor]
    """[A] each (of the likeliest tokens [A, K]), detached: of the student, of teachers with dense blocks, and phi of each term, ``nan`` on rows that it leaves out;
    named as in ``signals.py``."""


def loss(
    hidden_A_H: Tensor,
    head: Head,
    teacher_heads: Mapping[str, Head],
    batch: Batch,
    temperature: float = 1.0,
    chunk_rows: int = 1024,
    likeliest: int = 0,
) -> LossOutput:
    """The loss of ``batch``, differentiable in the student's hidden states and its head.

    Args:
        hidden_A_H: ``hidden_B_T_H[batch.sample_A, batch.position_A]`` of the student.
        head: The student's output head.
        teacher_heads: The heads that dense blocks name.
        batch: On the same device.
        temperature: Student and teachers are compared at this temperature, the one that was sampled at.
        chunk_rows: Rows whose logits exist at once.
        likeliest: How many of the student's likeliest tokens the signals hold of each row.

    Raises:
        ConfigError: A teacher's vocabulary differs from the student's, or its top-k is narrower than a support's; or a part raised,
            returned something else than its contract says, or lets no gradient through.
        ValueError: A dense block names a head that is not given, or ``batch`` does not fit ``hidden_A_H`` or the student's
            vocabulary.
    """
    check_tokens(batch.token_A, len(hidden_A_H), len(head.weight_V_H))
    for block in batch.blocks:
        check_ids(block, len(head.weight_V_H))
        for term in batch.terms:
            check_width(term, block, len(head.weight_V_H))
            check_apart(term, block)
    whole = undivided([one for block in batch.blocks for one in block.whole])
    of_chunk = {
        rows.start: tiles(rows, head.weight_V_H.T, whole) for rows in chunks(len(hidden_A_H), chunk_rows, whole)
    }
    plan = Plan.of(
        batch, [tile for within in of_chunk.values() for tile in within], len(head.weight_V_H), teacher_heads
    )

    def open_chunk(rows: slice) -> Evaluate:
        projected = plan.projected(of_chunk[rows.start], teacher_heads)
        return lambda logits_N_V, tile: _summed(batch, plan.tile(logits_N_V, tile, projected, temperature), likeliest)

    return LossOutput(*chunked_loss(hidden_A_H, head, open_chunk, chunk_rows, whole))


def _summed(batch: Batch, tile: Tile, likeliest: int) -> tuple[Tensor, dict[str, Tensor]]:
    """sum(coef * phi) over all terms, and what is seen of the rows of a tile."""
    total, signals = tile.taken_logprob_N.new_zeros(()), tile.signals()
    if likeliest:
        signals |= tile.likeliest(likeliest)
    for i, term in enumerate(batch.terms):
        phi_N, coef_N = _phi(term, tile, i), term.coef_A[tile.rows]
        on_N = coef_N != 0
        total = total + (coef_N.to(phi_N.dtype) * phi_N.where(on_N, 0.0)).sum()
        signals[f"{term.name}/{loss_of(term.term)}"] = phi_N.detach().masked_fill(~on_N, torch.nan)
    return total, signals


def _phi(term: BatchTerm, tile: Tile, i: int) -> Tensor:
    """phi [N] of the rows that term ``i`` trains; anything elsewhere."""
    logprob_N, rows = tile.taken_logprob_N, tile.rows
    if term.term.target.kind == "taken":
        return -logprob_N
    if term.term.by_token:
        return _of_taken(term, tile)
    if term.term.scored:
        advantage_N, old_N = term.advantage_A[rows].to(logprob_N.dtype), term.old_A[rows].to(logprob_N.dtype)
        ratio = {name: value for name, value in term.settings["estimator"].items() if name in RATIO}
        settings = of_rows(ratio, rows, None, logprob_N.dtype)
        return policy_gradient(logprob_N, _centred(term, tile, i, advantage_N), old_N, **settings)
    phi_N = logprob_N.new_zeros(logprob_N.shape)
    for read in tile.reads(i):
        if read.spans is not None:
            phi_N = phi_N + _of_spans(term, tile, read, read.spans)
            continue
        phi_N = phi_N.index_add(0, read.local_M, _divergence(term, rows, read).to(phi_N.dtype))
    return phi_N


def _of_spans(term: BatchTerm, tile: Tile, read: Read, spans: SpanRows) -> Tensor:
    """phi [N] from a teacher with a vocabulary of its own: the divergence of each span, in equal parts on its rows."""
    logprob_N, dtype, key = tile.taken_logprob_N, read.logp_M_V.dtype, f"{term.key}.divergence"
    row_M_L, has_M_L = spans.rows(read.local_M, len(logprob_N))
    rest_M = (logprob_N[row_M_L] * has_M_L)[:, 1:].sum(1)
    events = apart(read.logp_M_V, tile.token_N[read.local_M], rest_M, spans)
    settings = of_rows(term.settings["divergence"], tile.rows, read.local_M, dtype)
    value_M = row_values(key, term.term.divergence, across(key, term.term.divergence, settings, events), read.logp_M_V)
    return logprob_N.new_zeros(logprob_N.shape).index_add(
        0, row_M_L.flatten(), shared_evenly(value_M, has_M_L).flatten().to(logprob_N.dtype)
    )


def _of_taken(term: BatchTerm, tile: Tile) -> Tensor:
    """phi [N] of an estimator of the token taken; rows that the term leaves out are given a teacher like the student."""
    logprob_N, rows, estimator, key = tile.taken_logprob_N, tile.rows, term.term.estimator, f"{term.key}.estimator"
    logq_N = term.logq_A[rows].to(logprob_N.dtype).where(term.coef_A[rows] != 0, logprob_N.detach())
    settings = of_rows(term.settings["estimator"], rows, None, logprob_N.dtype)
    return row_values(key, estimator, call(key, estimator, settings, Taken(logprob_N, logq_N)), logprob_N.unsqueeze(1))


def _centred(term: BatchTerm, tile: Tile, i: int, advantage_N: Tensor) -> Tensor:
    """The advantage less the mean reward of a sampled token, where that is the term's baseline."""
    for read in tile.reads(i):
        logp, logq = read.logp_M_V, read.teacher.logq_N_V
        if logq is None:
            raise ConfigError(
                f"{term.key}.estimator.baseline=value: it is a mean over the full distribution, and teacher {term.term.teacher!r} gives "
                "only its top-k; set it to batch_mean or none"
            )
        settings = of_rows(term.settings["divergence"], tile.rows, read.local_M, read.logp_M_V.dtype)
        value_M = expected_reward(term.term.divergence.kind, settings, logp.detach(), logq)
        advantage_N = advantage_N.index_add(0, read.local_M, value_M.to(advantage_N.dtype), alpha=-1)
    return advantage_N


def _divergence(term: BatchTerm, rows: slice, read: Read) -> Tensor:
    """The divergence [M] of a term on the rows that it reads of one block."""
    support, divergence, dtype = term.term.support, term.term.divergence, read.logp_M_V.dtype
    logp_M_V, teacher, factor_M = _compared(term, rows, read)
    settings = of_rows(term.settings["support"], rows, read.local_M, dtype)
    given = call(f"{term.key}.support", support, settings, logp_M_V, teacher)
    logp, logq = pair(f"{term.key}.support", support, given, logp_M_V)
    settings = of_rows(term.settings["divergence"], rows, read.local_M, dtype)
    key = f"{term.key}.divergence"
    # a closed form leans on the softmax behind the log-probabilities, which a support of fewer tokens does not have
    value_M = (fused if support.kind == "full" else call)(key, divergence, settings, logp, logq)
    value_M = row_values(key, divergence, value_M, logp)
    return value_M if factor_M is None else value_M * factor_M


def _only_top_k(term: BatchTerm) -> ConfigError:
    """Of a target, or a temperature, that takes more than a teacher's most likely tokens."""
    gives, target = f"and teacher {term.term.teacher!r} gives only its top-k", term.term.target
    if target.kind == "distribution":
        return ConfigError(
            f"{term.key}.temperature={term.temperature:g}: a temperature takes full distributions, {gives}; set it to 1"
        )
    tempered = "" if term.temperature == 1.0 else f" and {term.key}.temperature: 1"
    return ConfigError(
        f"{term.key}.target.kind={target.kind}: it is made of full distributions, {gives}; set {term.key}.target.kind: "
        f"distribution{tempered}, or name a teacher that gives full distributions"
    )


def _compared(term: BatchTerm, rows: slice, read: Read) -> tuple[Tensor, TeacherRows, Tensor | None]:
    """The student and the target, and what multiplies each row's loss."""
    target, logp_M_V, logq_M_V = term.term.target, read.logp_M_V, read.teacher.logq_N_V
    if target.kind == "distribution" and term.temperature == 1.0:
        return logp_M_V, read.teacher, None
    if logq_M_V is None:
        raise _only_top_k(term)
    named = dict(zip(term.term.reads, (logq_M_V, *read.further.values()), strict=True))
    settings = of_rows(term.settings["target"], rows, read.local_M, logp_M_V.dtype)
    logq_M_V, factor_M = whole(f"{term.key}.target", target, settings, logp_M_V.detach(), named)
    return logp_M_V, TeacherRows(logq_M_V), factor_M
