"""Supports: the tokens over which a divergence is taken.

A support turns the student's full log-probabilities and what a teacher block holds into two log-distributions on common ids.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from agentopd.objective.contract import checked_by
from agentopd.objective.floor import FLOOR
from agentopd.settings.signature import Registry
from agentopd.types import Whose

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """What one teacher block offers for N rows: full log-probabilities, or ids [N, K] (best first, padding -1) and a tail.

    Those ids are the likeliest under ``of``: see :class:`~agentopd.types.Sparse`.
    """

    logq_N_V: Tensor | None = None
    ids_N_K: Tensor | None = None
    logq_N_K: Tensor | None = None
    logtail_N: Tensor | None = None
    of: Whose = "teacher"

    @property
    def k(self) -> int | None:
        """How many ids each of those gives whose likeliest they are; ``None`` where all of the vocabulary is there."""
        return None if self.ids_N_K is None else ids_each(self.of, self.ids_N_K.shape[1])

    def to(self, dtype: torch.dtype) -> Self:
        """The same in a precision."""
        return self._changed(lambda column: column.to(dtype) if column.is_floating_point() else column)

    def select(self, at: Tensor | slice) -> Self:
        """Some of the rows."""
        return self._changed(lambda column: column[at])

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(one) for name, one in held.items() if isinstance(one, Tensor)}
        return replace(self, **changed)


def ids_each(of: Whose, width: int) -> int:
    """The ids a row that teacher or student gave to a block of ``width`` columns."""
    return width // 2 if of == "union" else width


def full(logp_N_V: Tensor, teacher: TeacherRows) -> Pair:
    """The whole vocabulary. Needs a teacher that gives full distributions."""
    if teacher.logq_N_V is None:
        raise ValueError(
            "support 'full' needs a teacher with hidden states or full logits; use {kind: top_k} with a sparse teacher, or have it name all of the vocabulary"
        )
    return logp_N_V, teacher.logq_N_V


def _require_one_sum(settings: Mapping[str, Any]) -> None:
    if settings["tail"] and (settings["normalise_teacher"] or settings["normalise_student"]):
        raise ValueError(
            "top_k: a tail bucket already makes both sides sum to one; set tail: false to normalise instead"
        )


@checked_by(_require_one_sum)
def top_k(
    logp_N_V: Tensor,
    teacher: TeacherRows,
    *,
    k: Annotated[int, Field(ge=1)] = 64,
    of: Whose = "teacher",
    tail: bool = True,
    normalise_teacher: bool = False,
    normalise_student: bool = False,
) -> Pair:
    """The k most likely tokens of the teacher, the student, or both, with one bucket for all other tokens (``tail``).

    With the tail bucket the result is at most the divergence on the full vocabulary (data processing inequality). Without it,
    normalise both sides, or the sum is not a divergence: it can be negative, and is not stationary where student = teacher.

    Args:
        logp_N_V: The student's log-probabilities.
        teacher: What the term's teacher said.
        k: How many tokens; of ``union`` so many of each.
        of: Whose likeliest tokens.
        tail: Whether all other tokens are one bucket.
        normalise_teacher: Whether the teacher's probabilities on these tokens are made to sum to 1; only without ``tail``.
        normalise_student: The same of the student's.
    """
    _require_one_sum({"tail": tail, "normalise_teacher": normalise_teacher, "normalise_student": normalise_student})
    ids_N_K, logq_N_K, logtail_N = _candidates(logp_N_V, teacher, k, of)
    padding = ids_N_K < 0
    logp_N_K = logp_N_V.gather(1, ids_N_K.clamp_min(0)).masked_fill(padding, FLOOR)
    logq_N_K = logq_N_K.masked_fill(padding, FLOOR)
    if tail:
        return _append(logp_N_K, _log_outside(logp_N_V, ids_N_K)), _append(logq_N_K, logtail_N)
    normal_p = torch.log_softmax(logp_N_K, -1) if normalise_student else logp_N_K
    return normal_p, torch.log_softmax(logq_N_K, -1) if normalise_teacher else logq_N_K


def sampled() -> None:
    """The taken token alone: what a score function and the target ``taken`` read."""


def _candidates(logp_N_V: Tensor, teacher: TeacherRows, k: int, of: str) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of the support, duplicates and padding as -1; the teacher's log-probabilities there, and of everything else."""
    if teacher.logq_N_V is not None:
        ids_N_K = _most_likely(logp_N_V.detach(), teacher.logq_N_V, min(k, logp_N_V.shape[-1]), of)
        logq_N_K = teacher.logq_N_V.gather(1, ids_N_K.clamp_min(0))
        return ids_N_K, logq_N_K, _log_outside(teacher.logq_N_V, ids_N_K)
    if teacher.ids_N_K is None or teacher.logq_N_K is None or teacher.logtail_N is None or of != teacher.of:
        raise ValueError(
            f"support top_k of {of!r} needs a teacher with full distributions; this one gives those of {teacher.of!r} alone; set of: "
            f"{teacher.of}"
        )
    if of == "union" and min(k, logp_N_V.shape[-1]) != teacher.k:
        raise ValueError(
            f"support top_k of 'union' with k={k}: this one is of {teacher.k} ids each; set k: {teacher.k}"
        )
    k = teacher.ids_N_K.shape[1] if of == "union" else k
    dropped = teacher.logq_N_K[:, k:].masked_fill(teacher.ids_N_K[:, k:] < 0, FLOOR)
    logtail_N = torch.cat([dropped, teacher.logtail_N.unsqueeze(1)], 1).logsumexp(-1)
    return teacher.ids_N_K[:, :k], teacher.logq_N_K[:, :k], logtail_N


def _most_likely(logp_N_V: Tensor, logq_N_V: Tensor, k: int, of: str) -> Tensor:
    if of != "union":
        return (logq_N_V if of == "teacher" else logp_N_V).topk(k).indices
    theirs, ours = logq_N_V.topk(k).indices, logp_N_V.topk(k).indices
    repeated = (ours.unsqueeze(2) == theirs.unsqueeze(1)).any(-1)
    return torch.cat([theirs, ours.masked_fill(repeated, -1)], 1)


def _log_outside(log_N_V: Tensor, ids_N_K: Tensor) -> Tensor:
    """Log of the mass outside the support: summed, since one minus the rest would be rounding for a sure distribution."""
    width = log_N_V.shape[-1]
    inside = torch.zeros(len(ids_N_K), width + 1, dtype=torch.bool, device=log_N_V.device)
    inside.scatter_(1, ids_N_K.masked_fill(ids_N_K < 0, width), True)
    return log_N_V.masked_fill(inside[:, :width], FLOOR).logsumexp(-1)


def _append(log_N_K: Tensor, logtail_N: Tensor) -> Tensor:
    return torch.cat([log_N_K, logtail_N.unsqueeze(1)], -1)


SUPPORTS: Registry = {"full": full, "top_k": top_k, "sampled": sampled}
