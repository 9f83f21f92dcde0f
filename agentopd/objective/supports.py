"""Supports: the tokens over which a divergence is taken.

A support turns the student's full log-probabilities and what a teacher block holds into two log-distributions on common ids.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from agentopd.choice import Registry
from agentopd.objective.divergences import FLOOR

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """What one teacher block offers for N rows: full log-probabilities, or ids [N, K] (padding -1)."""

    logq_N_V: Tensor | None = None
    ids_N_K: Tensor | None = None
    logq_N_K: Tensor | None = None


def full(logp_N_V: Tensor, teacher: TeacherRows) -> Pair:
    """The whole vocabulary. Needs a teacher that gives full distributions."""
    if teacher.logq_N_V is None:
        raise ValueError(
            "support 'full' needs a teacher with hidden states or full logits; use {kind: top_k} with a sparse teacher"
        )
    return logp_N_V, teacher.logq_N_V


def top_k(
    logp_N_V: Tensor,
    teacher: TeacherRows,
    *,
    k: Annotated[int, Field(ge=1)] = 64,
    of: Literal["teacher", "student", "union"] = "teacher",
    tail: bool = True,
    normalise_teacher: bool = False,
    normalise_student: bool = False,
) -> Pair:
    """The k most likely tokens of the teacher, the student, or both, with one bucket for all other tokens (``tail``).

    With the tail bucket the result is at most the divergence on the full vocabulary (data processing inequality). Without it,
    normalise both sides, or the sum is not a divergence: it can be negative, and is not stationary where student = teacher.
    """
    if tail and (normalise_teacher or normalise_student):
        raise ValueError(
            "top_k: a tail bucket already makes both sides sum to one; set tail: false to normalise instead"
        )
    ids_N_K, logq_N_K = _candidates(logp_N_V, teacher, k, of)
    padding = ids_N_K < 0
    logp_N_K = logp_N_V.gather(1, ids_N_K.clamp_min(0)).masked_fill(padding, FLOOR)
    logq_N_K = logq_N_K.masked_fill(padding, FLOOR)
    if tail:
        return _with_tail(logp_N_K), _with_tail(logq_N_K)
    normal_p = torch.log_softmax(logp_N_K, -1) if normalise_student else logp_N_K
    return normal_p, torch.log_softmax(logq_N_K, -1) if normalise_teacher else logq_N_K


def _candidates(logp_N_V: Tensor, teacher: TeacherRows, k: int, of: str) -> Pair:
    """Ids of the support, duplicates and padding as -1, and the teacher's log-probabilities there."""
    if teacher.logq_N_V is None:
        if teacher.ids_N_K is None or teacher.logq_N_K is None or of != "teacher":
            raise ValueError(
                f"support top_k of {of!r} needs a teacher with full distributions; this one gives its own top-k only"
            )
        return teacher.ids_N_K[:, :k], teacher.logq_N_K[:, :k]
    size = min(k, logp_N_V.shape[-1])
    theirs, ours = teacher.logq_N_V.topk(size).indices, logp_N_V.detach().topk(size).indices
    if of == "union":
        repeated = (ours.unsqueeze(2) == theirs.unsqueeze(1)).any(-1)
        ids = torch.cat([theirs, ours.masked_fill(repeated, -1)], 1)
    else:
        ids = theirs if of == "teacher" else ours
    return ids, teacher.logq_N_V.gather(1, ids.clamp_min(0))


def _with_tail(log_N_K: Tensor) -> Tensor:
    """Appends the log of the mass outside the support; clamped where rounding leaves none."""
    tiny = torch.finfo(log_N_K.dtype).eps
    inside = log_N_K.logsumexp(-1, keepdim=True).clamp_max(-tiny)
    return torch.cat([log_N_K, (-torch.expm1(inside)).log()], -1)


SUPPORTS: Registry = {"full": full, "top_k": top_k}
