"""A divergence between two language models' heads, from hidden states, without the full logits of either."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentopd.objective.chunked import Evaluate, Open, chunked_loss, inner
from agentopd.objective.closed import fused
from agentopd.objective.contract import per_row
from agentopd.objective.divergences import check_temperature, check_tensors, choose, entropy, log_softmax
from agentopd.objective.head import Head
from agentopd.objective.reading import check_vocabulary, of_rows
from agentopd.settings.choice import Choice


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

    Logits of at most ``chunk_rows`` rows of each model exist at once; the gradient is formed in the forward pass. It flows into
    the student's tensors that require one. Nothing flows into the teacher or ``weights``. Divergences are computed in float32 or
    better. A row is one position to learn from: select those (``hidden[mask]``) rather than give others the weight 0, which
    costs as much and turns ``nan`` into ``nan``.

    Args:
        student_hidden: [A, H_student], after the final norm.
        student_weight: [V, H_student], of the same dtype.
        teacher_hidden: [A, H_teacher].
        teacher_weight: [V, H_teacher], of the same dtype; the vocabulary is the student's.
        kind: A key of ``DIVERGENCES`` or an import path ``package.module:name``.
        weights: [A], any sign; by default 1 / A each, which makes ``loss`` the mean.
        student_bias: [V].
        teacher_bias: [V].
        temperature: Both models' logits are divided by it.
        softcap: Both models' logits become softcap * tanh(logits / softcap).
        scale: Both models' logits are multiplied by it, before ``softcap``.
        chunk_rows: Rows whose logits exist at once.
        **parameters: The divergence's own, such as ``beta``; a number, or a tensor [A] of one number a row.

    Raises:
        ValueError: The kind or a parameter does not exist; shapes or dtypes do not match; a number is out of range; or one's own
            divergence returns no number a row or lets no gradient through.
    """
    check_temperature(temperature)
    student = _head("student", student_hidden, student_weight, student_bias, scale, softcap)
    teacher = _head("teacher", teacher_hidden, teacher_weight, teacher_bias, scale, softcap)
    check_vocabulary(len(student_weight), len(teacher_weight), "the teacher")
    coef_A = _coefficients(weights, student_hidden, teacher_hidden)
    choice, settings = _chosen(kind, parameters, len(student_hidden))
    open_chunk = _opening(choice, settings, teacher, teacher_hidden, coef_A, temperature)
    loss, signals = chunked_loss(student_hidden, student, open_chunk, chunk_rows)
    return LinearDivergence(loss, **signals)


def _opening(
    choice: Choice, settings: Mapping[str, Any], teacher: Head, hidden_A_H: Tensor, coef_A: Tensor, temperature: float
) -> Open:
    """From the student's logits of a tile to its weighted sum and the columns of ``LinearDivergence``."""

    def open_chunk(rows: slice) -> Evaluate:
        with torch.no_grad():
            projected_N_V = teacher.projected(hidden_A_H[rows])

        def evaluate(logits_M_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
            logp_M_V = log_softmax(logits_M_V, temperature)
            with torch.no_grad():
                logits = teacher.shaped(projected_N_V[inner(tile, rows)])
                logq_M_V = log_softmax(logits, temperature).to(logp_M_V.dtype)
            given = fused("", choice, of_rows(settings, tile, None, logp_M_V.dtype), logp_M_V, logq_M_V)
            value_M = per_row("", choice, given, logp_M_V)
            return (coef_A[tile].to(value_M.dtype) * value_M).sum(), {
                "divergence": value_M.detach(),
                "student_entropy": entropy(logp_M_V.detach()),
                "teacher_entropy": entropy(logq_M_V),
            }

        return evaluate

    return open_chunk


def _head(who: str, hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Head:
    """One model's head, its shapes checked: a wrong one may broadcast without an error."""
    check_tensors(**{f"{who}_hidden": hidden, f"{who}_weight": weight, f"{who}_bias": bias})
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"{who}_hidden is {tuple(hidden.shape)} and {who}_weight {tuple(weight.shape)}; give [A, H] (select or flatten the "
            "positions) and [V, H]"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{who}_bias is {tuple(bias.shape)}; give one number a token, ({len(weight)},)")
    found = {tensor.dtype for tensor in (hidden, weight, bias) if tensor is not None}
    if not hidden.is_floating_point() or (len(found) > 1 and not torch.is_autocast_enabled(hidden.device.type)):
        names = ", ".join(sorted(map(str, found)))
        raise ValueError(
            f"{who}_hidden, {who}_weight and {who}_bias are of {names}; cast them to one floating-point dtype"
        )
    if scale <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"scale and softcap must be above 0, got {scale} and {softcap}")
    return Head(weight, bias, scale, softcap)


def _coefficients(weights: Tensor | None, student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    check_tensors(weights=weights)
    rows = len(student_hidden)
    coef_A = student_hidden.new_full((rows,), 1.0 / max(rows, 1)) if weights is None else weights.detach()
    if coef_A.shape != (rows,) or len(teacher_hidden) != rows:
        raise ValueError(
            f"student_hidden has {rows} rows, teacher_hidden {len(teacher_hidden)} and weights {tuple(coef_A.shape)}; give one a row"
        )
    return coef_A


def _chosen(kind: str, parameters: Mapping[str, Any], rows: int) -> tuple[Choice, dict[str, Any]]:
    """The divergence and its settings, checked; one number a row by the smallest and the largest."""
    per_row = {
        name: value.detach() for name, value in parameters.items() if isinstance(value, Tensor) and value.ndim > 0
    }
    for name, value in per_row.items():
        if value.shape != (rows,):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)} for {rows} rows; give a number, or one number a row"
            )
    numbers = {name: value for name, value in parameters.items() if name not in per_row}
    ends = [{name: float(end(value)) for name, value in per_row.items() if rows} for end in (torch.min, torch.max)]
    choices = [choose(kind, {**numbers, **end}) for end in ends]
    return choices[0], {**choices[0].settings, **per_row}
