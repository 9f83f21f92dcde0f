"""A divergence between two language models' heads, from hidden states, without the full logits of either."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentopd.objective.chunked import Evaluate, chunked_loss, taken_logprob
from agentopd.objective.closed import formed, fused
from agentopd.objective.contract import row_values
from agentopd.objective.dense import DenseTeacher, Ensemble, Extrapolated, One, Tell, Told
from agentopd.objective.distributions import distribution, entropy, log_softmax
from agentopd.objective.divergences import check_temperature
from agentopd.objective.given import (
    Weight,
    check_finite,
    given_column,
    given_divergence,
    given_head,
    given_shares,
    given_tokens,
    given_weights,
    one_each,
)
from agentopd.objective.head import Head, Projector, Scratch
from agentopd.objective.numbers import of_rows
from agentopd.objective.reading import check_vocabulary
from agentopd.settings.choice import Choice


@dataclass(frozen=True, slots=True)
class LinearDivergence:
    """What :func:`linear_divergence` and its siblings return."""

    loss: Tensor
    """sum(weights * divergence), a scalar, differentiable once in the student's hidden states, weight and bias."""
    divergence: Tensor
    student_entropy: Tensor
    teacher_entropy: Tensor
    """[A] each, in nats, detached; ``nan`` where the teacher does not say."""
    student_logprob: Tensor | None = None
    teacher_logprob: Tensor | None = None
    """[A] each, detached: of the tokens that were given."""
    aleatoric: Tensor | None = None
    """[A], of an ensemble: the mean entropy of its members, in nats, detached."""
    epistemic: Tensor | None = None
    """[A], of an ensemble: the entropy of its mean less ``aleatoric``: how far its members differ."""


def linear_divergence(
    student_hidden: Tensor,
    student_weight: Weight,
    teacher_hidden: Tensor | Sequence[Tensor],
    teacher_weight: Weight | Sequence[Weight],
    *,
    kind: str = "forward_kl",
    weights: Tensor | None = None,
    tokens: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | Sequence[Tensor | None] | None = None,
    teacher_shares: Sequence[float] | Tensor | None = None,
    extrapolate_by: float | Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_rows: int | None = None,
    **parameters: Any,
) -> LinearDivergence:
    """The divergence ``kind`` between softmax(student_hidden @ student_weight.T) and the teacher's, over A rows.

    Logits of at most ``chunk_rows`` rows of each model exist at once; the gradient, of the student's tensors that require one alone,
    is formed in the forward pass. Divergences are computed in float32 or better; under autocast the matrix products alone are in its
    dtype. Select the rows to learn from (``hidden[mask]``): the weight 0 costs as much. A sharded weight (``DTensor``) is gathered
    once, by all processes of its mesh together; its gradient is their mean. Several teachers are an ensemble, of which the target is
    the mean of the distributions; or, with ``extrapolate_by``, a teacher q and a reference r, of which it is q^by r^(1 - by), normalised.
    Biases [V] (a list for several teachers), and ``scale`` and ``softcap`` of all models, are for weights that are no ``Head``.

    Args:
        student_hidden: [A, H_student], after the final norm.
        student_weight: [V, H_student], of the same dtype; or a ``Head``, which brings its own bias, scale and soft-cap.
        teacher_hidden: [A, H_teacher]; a list for several teachers, whose H may differ.
        teacher_weight: [V, H_teacher], of the same dtype, or a ``Head``; the vocabulary is the student's. A list for several.
        kind: A key of ``DIVERGENCES`` or an import path ``package.module:name``.
        weights: [A], any sign; by default 1 / A each, which makes ``loss`` the mean.
        tokens: [A], the tokens taken; asks for their log-probabilities.
        teacher_shares: The weight of each teacher of an ensemble, with sum 1; equal by default.
        extrapolate_by: ``by``, a number, or a tensor [A] of one a row; takes two teachers, the second of which is the reference.
        temperature: All models' logits are divided by it, those of each member of an ensemble.
        chunk_rows: Rows whose logits exist at once; by default as many as have 2**26 logits.
        **parameters: The divergence's own, such as ``beta``; a number, or a tensor [A] of one number a row.

    Raises:
        ValueError: Something does not exist or fit, or is out of range; weights are all 0; logits or weights are not finite; or one's
            own divergence returns no number a row or lets no gradient through.
    """
    check_temperature(temperature)
    student = given_head("student", student_hidden, student_weight, student_bias, scale, softcap)
    coef_A = given_weights(weights, student_hidden)
    token_A = None if tokens is None else given_tokens(tokens, student_hidden, student)
    heads = _teachers(student_hidden, student, teacher_hidden, teacher_weight, teacher_bias, scale, softcap)
    teacher = _target(heads, isinstance(teacher_hidden, Tensor), teacher_shares, extrapolate_by, temperature)
    choice, settings = given_divergence(kind, parameters, len(student_hidden))

    def open_chunk(rows: slice) -> Evaluate:
        return _Chunk(choice, settings, teacher.open(rows), coef_A, token_A, temperature)

    loss, signals = chunked_loss(student_hidden, student, open_chunk, chunk_rows)
    check_finite(signals)
    return LinearDivergence(loss, **signals)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """From the student's logits of a tile to its weighted sum and the columns of ``LinearDivergence``."""

    choice: Choice
    settings: Mapping[str, Any]
    tell: Tell
    coef_A: Tensor
    token_A: Tensor | None
    temperature: float

    def __call__(self, logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """By autograd, through the definition of the divergence where that has no closed form."""
        logp_M_V = log_softmax(logits_M_V, self.temperature)
        with torch.no_grad():
            told = _as(self.tell(tile), logp_M_V.dtype)
        settings = of_rows(self.settings, tile, None, logp_M_V.dtype)
        value_M = row_values("", self.choice, fused("", self.choice, settings, logp_M_V, told.logq_M_V), logp_M_V)
        fixed_M_V = logp_M_V.detach()
        signals = self._signals(value_M.detach(), fixed_M_V.exp(), fixed_M_V, told, tile)
        return (self.coef_A[tile].to(value_M.dtype) * value_M).sum(), signals

    def formed(self, logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor] | None:
        """By the closed form, g in the log-probabilities: coef / temperature * (g - p sum(g)) in the logits."""
        p_M_V, logp_M_V = distribution(logits_M_V, self.temperature)
        told = _as(self.tell(tile), logp_M_V.dtype)
        found = formed(self.choice, of_rows(self.settings, tile, None, logp_M_V.dtype), logp_M_V, told.logq_M_V)
        if found is None:
            return None
        value_M, gradient_M_V = found
        coef_M = self.coef_A[tile].to(value_M.dtype)
        signals = self._signals(value_M, p_M_V, logp_M_V, told, tile)
        gradient_M_V.addcmul_(p_M_V, gradient_M_V.sum(-1, keepdim=True), value=-1.0)
        return (coef_M * value_M).sum(), signals, gradient_M_V, coef_M / self.temperature

    def _signals(self, value_M: Tensor, p_M_V: Tensor, logp_M_V: Tensor, told: Told, tile: slice) -> dict[str, Tensor]:
        signals = {
            "divergence": value_M,
            "student_entropy": entropy(logp_M_V, p_M_V),
            "teacher_entropy": told.entropy_M,
            **told.signals,
        }
        if self.token_A is not None:
            token_M = self.token_A[tile]
            signals["student_logprob"] = taken_logprob(logp_M_V, token_M)
            signals["teacher_logprob"] = taken_logprob(told.logq_M_V, token_M)
        return signals


def _as(told: Told, dtype: torch.dtype) -> Told:
    """The same in the student's precision."""
    return Told(told.q_M_V.to(dtype), told.logq_M_V.to(dtype), told.signals)


def _teachers(
    student_hidden: Tensor,
    student: Head,
    hidden: Tensor | Sequence[Tensor],
    weight: Weight | Sequence[Weight],
    bias: Tensor | Sequence[Tensor | None] | None,
    scale: float,
    softcap: float | None,
) -> list[tuple[Head, Tensor]]:
    """The heads and hidden states of all teachers, checked."""
    if isinstance(hidden, Tensor) or not isinstance(hidden, Sequence):
        given: list[tuple[str, Any, Any, Any]] = [("teacher", hidden, weight, bias)]
    else:
        of_each = one_each("teacher_weight", weight, (Tensor, Head), len(hidden))
        biases = one_each("teacher_bias", bias, Tensor, len(hidden))
        given = [
            (f"teacher[{i}]", one, *rest) for i, (one, *rest) in enumerate(zip(hidden, of_each, biases, strict=True))
        ]
    found = []
    for who, its_hidden, its_weight, its_bias in given:
        head = given_head(who, its_hidden, its_weight, its_bias, scale, softcap)
        check_vocabulary(len(student.weight_V_H), len(head.weight_V_H), "the teacher" if who == "teacher" else who)
        if len(its_hidden) != len(student_hidden):
            raise ValueError(
                f"student_hidden has {len(student_hidden)} rows, {who}_hidden {len(its_hidden)}; give the same positions of both"
            )
        found.append((head, its_hidden))
    return found


def _target(
    teachers: Sequence[tuple[Head, Tensor]],
    single: bool,
    shares: Sequence[float] | Tensor | None,
    by: float | Tensor | None,
    temperature: float,
) -> DenseTeacher:
    """What the student is held against."""
    if by is not None:
        if len(teachers) != 2 or shares is not None:
            raise ValueError(
                f"extrapolate_by={by} with {len(teachers)} teachers{' and teacher_shares' * (shares is not None)}; give lists of two, "
                "the teacher and the reference, and no shares"
            )
        if isinstance(by, Tensor):
            by = given_column("extrapolate_by", by, len(teachers[0][1])) if by.ndim else float(by)
        projectors = [Projector(head, hidden) for head, hidden in teachers]
        return Extrapolated(projectors[0], projectors[1], by, temperature)
    if single:
        if shares is not None:
            raise ValueError("teacher_shares is for several teachers; give lists, or leave it out")
        return One(Projector(*teachers[0]), temperature)
    found, memory = given_shares(shares, len(teachers)), Scratch()
    return Ensemble([Projector(head, hidden, memory) for head, hidden in teachers], found, temperature)
