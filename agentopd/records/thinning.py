"""Makes dense annotations small enough to keep."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from agentopd.errors import RecordError
from agentopd.records.compact import compacted
from agentopd.types import Aligned, Annotation, Dense, Floats, Ints, Mixture, Record, Sampled, Sparse

if TYPE_CHECKING:
    import torch

Kept: TypeAlias = Literal["sampled", "sparse", "compact"]
"""What remains of a whole distribution."""

CHUNK_ROWS = 512
"""Rows whose logits exist at once."""


class LogitHead(Protocol):
    """What turns hidden states [N, H] into logits [N, V]."""

    def logits(self, hidden_N_H: "torch.Tensor", /) -> "torch.Tensor":
        """The logits."""
        ...


def thin(
    record: Record,
    block: Kept = "sampled",
    k: int = 64,
    heads: Mapping[str, LogitHead] | None = None,
    temperature: float = 1.0,
) -> Record:
    """``record`` with every dense block, and every mixture of them, replaced; other blocks stay, and ``taken_logprob_N`` and ``entropy_N`` stay in any case.

    Of a teacher with a tokenizer of its own the spans and their log-probabilities are kept, whatever ``block`` says.

    Args:
        record: A record.
        block: ``sampled`` keeps the log-probability of the taken token alone; ``sparse`` the ``k`` most likely tokens, the most
            likely first, with the exact log of the mass outside them; ``compact`` these in fewer bytes, each less than 0.05 nats off
            where its probability is above 1e-4: sparse blocks that teachers gave are made so, too.
        k: The most tokens that a sparse row keeps; the vocabulary bounds it.
        heads: Of the teachers, by the names that their dense blocks use; ``sampled`` needs none.
        temperature: Divides the logits; the one at which the teacher was asked, so that ``taken_logprob_N`` agrees.

    Raises:
        RecordError: A head is missing, or ``k`` is not positive.
    """
    if k < 1:
        raise RecordError(f"thin: k={k}; keep at least one token a row")

    def thinned(annotation: Annotation) -> Annotation:
        if isinstance(annotation.block, Aligned):
            return replace(annotation, block=annotation.block.span)
        if block == "compact" and isinstance(annotation.block, Sparse):
            return replace(annotation, block=compacted(annotation.block))
        if not isinstance(annotation.block, Dense | Mixture):
            return annotation
        if block == "sampled":
            return replace(annotation, block=Sampled())
        members = annotation.block.members if isinstance(annotation.block, Mixture) else (annotation.block,)
        named = [(one.hidden_N_H, _head(annotation, one, heads or {})) for one in members]
        sparse = _sparse(named, k, temperature)
        return replace(annotation, block=sparse if block == "sparse" else compacted(sparse))

    return replace(record, annotations=tuple(map(thinned, record.annotations)))


def _head(annotation: Annotation, dense: Dense, heads: Mapping[str, LogitHead]) -> LogitHead:
    name = dense.head
    if name not in heads:
        raise RecordError(
            f"thin: the head {name!r} of teacher {annotation.teacher!r} is needed to make its block sparse, and heads has: "
            f"{', '.join(heads) or 'none'}; pass the teacher's heads, or block='sampled'"
        )
    return heads[name]


def _sparse(named: Sequence[tuple["torch.Tensor", LogitHead]], k: int, temperature: float) -> Sparse:
    """The sparse block of one model, or of a mixture of several, from their hidden states and heads."""
    starts = range(0, max(len(named[0][0]), 1), CHUNK_ROWS)
    rows = [slice(i, i + CHUNK_ROWS) for i in starts]
    chunks = [_top([head.logits(hidden_N_H[one]) / temperature for hidden_N_H, head in named], k) for one in rows]
    ids_N_K, logprob_N_K, logtail_N = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return Sparse(ids_N_K, logprob_N_K, logtail_N)


def _top(logits: Sequence["torch.Tensor"], k: int) -> tuple[Ints, Floats, Floats]:
    """Of the mean of the members' distributions the k most likely ids, their log-probabilities, and the log of the mass of the rest."""
    logits_N_V = logits[0].detach().float()
    if len(logits) > 1:  # a sum of distributions does for their mean: it is normalised below
        logits_N_V = reduce(
            lambda total, one: total.logaddexp(one), (one.detach().float().log_softmax(-1) for one in logits)
        )
    top_N_K, ids_N_K = logits_N_V.topk(min(k, logits_N_V.shape[-1]), dim=-1)
    total_N_1 = logits_N_V.logsumexp(-1, keepdim=True)
    # summed over the others, not taken as 1 - sum: nothing cancels where the top holds nearly all of the mass
    rest_N = logits_N_V.scatter(-1, ids_N_K, float("-inf")).logsumexp(-1)
    logprob_N_K, logtail_N = top_N_K - total_N_1, rest_N - total_N_1.squeeze(-1)
    return ids_N_K.cpu().numpy().astype(np.int32), logprob_N_K.cpu().numpy(), logtail_N.cpu().numpy()
