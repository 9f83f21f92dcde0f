"""A divergence between two language models' heads, from hidden states, without the full logits of either."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentopd.choice import Function, OneOf
from agentopd.objective.chunked import chunked_loss
from agentopd.objective.divergences import DIVERGENCES, entropy, log_softmax
from agentopd.objective.head import Head
from agentopd.objective.reading import check_vocabulary, of_rows


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
    check_vocabulary(len(student_weight), len(teacher_weight), "teacher_weight")
    coef_A = student_hidden.new_full((rows,), 1.0 / max(rows, 1)) if weights is None else weights.detach()
    if coef_A.shape != (rows,) or len(teacher_hidden) != rows:
        raise ValueError(
            f"student_hidden has {rows} rows, teacher_hidden {len(teacher_hidden)} and weights {tuple(coef_A.shape)}; give one a row"
        )
    function, settings = _checked(kind, parameters, rows)
    student, teacher = (
        Head(weight, bias, scale, softcap)
        for weight, bias in ((student_weight, student_bias), (teacher_weight, teacher_bias))
    )

    def evaluate(logits_N_V: Tensor, chunk: slice) -> tuple[Tensor, dict[str, Tensor]]:
        logp_N_V = log_softmax(logits_N_V, temperature)
        with torch.no_grad():
            logq_N_V = log_softmax(teacher.logits(teacher_hidden[chunk]), temperature).to(logp_N_V.dtype)
        value_N: Tensor = function(logp_N_V, logq_N_V, **of_rows(settings, chunk, None, logp_N_V.dtype))
        signals = (value_N.detach(), entropy(logp_N_V.detach()), entropy(logq_N_V))
        return (coef_A[chunk].to(value_N.dtype) * value_N).sum(), dict(zip(_SIGNALS, signals, strict=True))

    loss, signals = chunked_loss(student_hidden, student, evaluate, chunk_rows)
    return LinearDivergence(loss, *(signals[name] for name in _SIGNALS))


_SIGNALS = ("divergence", "student_entropy", "teacher_entropy")


def _checked(kind: str, parameters: Mapping[str, Any], rows: int) -> tuple[Function, dict[str, Any]]:
    """The divergence and its settings, checked; one number a row by the smallest and the largest."""
    per_row = {name: value for name, value in parameters.items() if isinstance(value, Tensor) and value.ndim > 0}
    for name, value in per_row.items():
        if value.shape != (rows,):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for {rows} rows; give a number, or one number a row"
            )
    choose = OneOf("divergence", DIVERGENCES).validate
    ends = [{name: float(end(value)) for name, value in per_row.items() if rows} for end in (torch.min, torch.max)]
    choices = [choose({"kind": kind, **parameters, **end}) for end in ends]
    return choices[0].function, {**choices[0].settings, **per_row}
