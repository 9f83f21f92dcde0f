"""A divergence between two language models' heads, from hidden states, without the full logits of either."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentopd.choice import Choice, OneOf
from agentopd.objective.chunked import chunked_loss
from agentopd.objective.divergences import DIVERGENCES, entropy, log_softmax
from agentopd.objective.head import Head


@dataclass(frozen=True, slots=True)
class LinearDivergence:
    """What :func:`linear_divergence` returns."""

    loss: Tensor
    """sum(weights * divergence), a scalar, differentiable once in the student's hidden states, weight and bias."""
    divergence: Tensor
    student_entropy: Tensor
    teacher_entropy: Tensor
    """[A] each, in nats, detached."""


def linear_divergence(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    kind: str = "forward_kl",
    weights: Tensor | None = None,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_rows: int = 1024,
    **parameters: Any,
) -> LinearDivergence:
    """The divergence ``kind`` between softmax(student_hidden @ student_weight.T) and the teacher's, over A rows.

    Logits of at most ``chunk_rows`` rows of each model exist at once; the gradient is formed in the forward pass.

    Args:
        student_hidden: [A, H_student], after the final norm.
        student_weight: [V, H_student].
        teacher_hidden: [A, H_teacher]; detached, as all of the teacher.
        teacher_weight: [V, H_teacher]; the vocabulary is the student's.
        kind: A key of ``DIVERGENCES`` or an import path ``package.module:name``.
        weights: [A], detached; by default 1 / A each, which makes ``loss`` the mean.
        student_bias: [V].
        teacher_bias: [V].
        temperature: Both models' logits are divided by it.
        softcap: Both models' logits become softcap * tanh(logits / softcap).
        scale: Both models' logits are multiplied by it, before ``softcap``.
        chunk_rows: Rows whose logits exist at once.
        **parameters: The divergence's own, such as ``beta``; a number, or a tensor [A] of one number a row.

    Raises:
        ValueError: The kind or a parameter does not exist, or shapes do not match.
    """
    rows = len(student_hidden)
    student = Head(student_weight, student_bias, scale, softcap)
    teacher = Head(teacher_weight, teacher_bias, scale, softcap)
    coef_A = student_hidden.new_full((rows,), 1.0 / max(rows, 1), dtype=torch.float64) if weights is None else weights.detach()
    _check_shapes(student_hidden, student_weight, teacher_hidden, teacher_weight, coef_A)
    choice = _choice(kind, parameters, rows)

    def evaluate(logits_N_V: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp = log_softmax(logits_N_V, temperature)
        with torch.no_grad():
            logq = log_softmax(teacher.logits(teacher_hidden[rows]), temperature)
        settings = {name: _of_rows(value, rows, logp) for name, value in choice.settings.items()}
        value: Tensor = choice.function(logp, logq.to(logp.dtype), **settings)
        signals = {"divergence": value, "student_entropy": entropy(logp), "teacher_entropy": entropy(logq)}
        return (coef_A[rows].to(value.dtype) * value).sum(), {name: signal.detach() for name, signal in signals.items()}

    total, signals = chunked_loss(student_hidden, student, evaluate, chunk_rows)
    nothing = student_hidden.new_zeros(0)
    return LinearDivergence(total, *(signals.get(n, nothing) for n in ("divergence", "student_entropy", "teacher_entropy")))
