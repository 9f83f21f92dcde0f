"""Divergences on the full vocabulary whose gradient is formed together with their value, in few passes over memory.

They say the same as those of the same names in ``divergences.py``, which define them and which can be differentiated again.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from agentopd.objective.contract import call
from agentopd.objective.divergences import FLOOR
from agentopd.settings.choice import Choice

Form: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
"""From log-probabilities [N, V] of student and teacher, without -inf, to the value [N] and its gradient [N, V] in the student's.

A multiple of the student's probabilities may be added to that gradient: the softmax behind them takes it out again.
"""


def fused(key: str, choice: Choice, settings: Mapping[str, Any], logp_N_V: Tensor, logq_N_V: Tensor) -> Tensor:
    """The divergence [N] of a softmax from a teacher's, by its closed form where it has one; differentiable once.

    Args:
        key: Where the part stands in a configuration.
        choice: The divergence.
        settings: Its settings at this step, a number or one a row.
        logp_N_V: The student's log-probabilities, of ``log_softmax``.
        logq_N_V: The teacher's.
    """
    found = formed(choice, settings, logp_N_V.detach(), logq_N_V) if logp_N_V.requires_grad else None
    if found is None:
        return call(key, choice, settings, logp_N_V, logq_N_V)  # type: ignore[no-any-return]
    return _Formed.apply(logp_N_V, *found)  # type: ignore[no-any-return,no-untyped-call]


def formed(
    choice: Choice, settings: Mapping[str, Any], logp_N_V: Tensor, logq_N_V: Tensor
) -> tuple[Tensor, Tensor] | None:
    """The divergence [N] and its gradient as a ``Form`` gives them; ``None`` without one, or where a probability is 0."""
    form = CLOSED.get(choice.kind)
    if form is None or _lowest(logp_N_V, logq_N_V) < FLOOR:
        return None
    columns = {name: value.unsqueeze(1) if isinstance(value, Tensor) else value for name, value in settings.items()}
    return form(logp_N_V, logq_N_V, **columns)


def _lowest(logp_N_V: Tensor, logq_N_V: Tensor) -> float:
    """The least of both, ``nan`` left out: one number that the host waits for, where clamping would write both tensors again."""
    return float(torch.fmin(logp_N_V.amin(), logq_N_V.amin())) if logp_N_V.numel() else 0.0


class _Formed(torch.autograd.Function):
    """A value [N] whose gradient in log-probabilities [N, V] is known already."""

    @staticmethod
    def forward(ctx: Any, logp_N_V: Tensor, value_N: Tensor, gradient_N_V: Tensor) -> Tensor:
        ctx.save_for_backward(gradient_N_V)
        return value_N.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a closed form keeps no graph of its gradient; use the definition in divergences.py instead"
            )
        (gradient_N_V,) = ctx.saved_tensors
        return gradient_N_V * grad_outputs[0].unsqueeze(1), None, None


def _dot(one_N_V: Tensor, other_N_V: Tensor) -> Tensor:
    """The sum of products over the vocabulary, [N]: two passes in a cache, where a batched matrix product of rows takes far longer."""
    return (one_N_V * other_N_V).sum(-1)


def _forward_kl(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """In the logits: p - q."""
    q = logq.exp()
    return _dot(q, logq - logp), q.neg_()


def _reverse_kl(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """In the logits: p (log p / q - KL)."""
    p, ratio = logp.exp(), logp - logq
    value = _dot(p, ratio)
    return value, ratio.sub_(value.unsqueeze(1)).mul_(p)


def _jsd(logp: Tensor, logq: Tensor, *, beta: float | Tensor = 0.5) -> tuple[Tensor, Tensor]:
    """In the logits: (1 - beta) p (log p / m - KL(p || m))."""
    p, q = logp.exp(), logq.exp()
    logm = _mixture(q, p, beta)
    ours, theirs = _dot(p, logp - logm), _dot(q, logq - logm)
    ratio = torch.sub(logp, logm, out=logm)
    rest = 1.0 - beta
    value = _flat(beta) * theirs + _flat(rest) * ours
    return value, ratio.sub_(ours.unsqueeze(1)).mul_(p).mul_(rest)


def _skew_forward_kl(logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """In the student's log-probabilities: -(1 - alpha) q p / m."""
    p, q = logp.exp(), logq.exp()
    logm = _mixture(q, p, alpha)
    value = _dot(q, logq - logm)
    return value, torch.sub(logp, logm, out=logm).exp_().mul_(q).mul_(alpha - 1.0)


def _skew_reverse_kl(logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """In the student's log-probabilities: p (log p / m - alpha p / m), up to a multiple of p."""
    p, q = logp.exp(), logq.exp()
    ratio = torch.sub(logp, _mixture(p, q, alpha))
    value = _dot(p, ratio)
    return value, ratio.sub_(ratio.exp().mul_(alpha)).sub_(value.unsqueeze(1)).mul_(p)


def _mixture(one: Tensor, other: Tensor, share: float | Tensor) -> Tensor:
    """log(share one + (1 - share) other) of probabilities, finite also where both are 0."""
    mixture = (one * share).add_(other * (1.0 - share))
    return mixture.clamp_min_(torch.finfo(mixture.dtype).tiny).log_()


def _flat(share: float | Tensor) -> float | Tensor:
    return share.squeeze(1) if isinstance(share, Tensor) else share


CLOSED: Mapping[str, Form] = {
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jsd": _jsd,
    "skew_forward_kl": _skew_forward_kl,
    "skew_reverse_kl": _skew_reverse_kl,
}
