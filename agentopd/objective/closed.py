"""Divergences on the full vocabulary whose gradient is formed together with their value, in few passes over memory.

They say the same as those of the same names in ``divergences.py``, which define them and which can be differentiated again.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import hardshrink, pad

from agentopd.objective.alpha_beta import LIMIT, alpha_beta, off_zero, require_sum, rise
from agentopd.objective.contract import call
from agentopd.objective.divergences import Inner, head_share, inner_settings, rounding
from agentopd.objective.floor import FLOOR, column
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
    columns = {name: column(one.detach()) if isinstance(one, Tensor) else one for name, one in settings.items()}
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


Entries: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor | None]]
"""What each entry contributes, [N, V]; its derivative in the student's log-probability there, without the multiple of the student's
probabilities that a sum over all entries loses again; and that multiple, ``None`` where there is none."""


def _form(entries: Entries) -> Form:
    """The sum over entries; with ``clip`` none is more than that, and one above has no gradient."""

    def form(
        logp: Tensor, logq: Tensor, *, clip: float | Tensor | None = None, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        contribution, gradient, multiple = entries(logp, logq, **settings)
        if clip is None:
            return contribution.sum(1), gradient
        kept = contribution <= clip
        gradient = gradient if multiple is None else gradient + multiple
        return contribution.clamp_max(clip).sum(1), gradient.mul_(kept)

    return form


def _forward_kl(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor, None]:
    """-q."""
    q = logq.exp()
    return torch.sub(logq, logp).mul_(q), q.neg_(), None


def _reverse_kl(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p log p / q, and p."""
    p = logp.exp()
    contribution = torch.sub(logp, logq).mul_(p)
    return contribution, contribution, p


def _jsd(logp: Tensor, logq: Tensor, *, beta: float | Tensor = 0.5) -> tuple[Tensor, Tensor, None]:
    """(1 - beta) p log p / m."""
    p, q = logp.exp(), logq.exp()
    logm = _log_mixed(q, p, beta)
    theirs = torch.sub(logq, logm).mul_(q).mul_(beta)
    ours = torch.sub(logp, logm, out=logm).mul_(p).mul_(1.0 - beta)
    return theirs.add_(ours), ours, None


def _skew_forward_kl(logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.1) -> tuple[Tensor, Tensor, None]:
    """-(1 - alpha) q p / m."""
    p, q = logp.exp(), logq.exp()
    logm = _log_mixed(q, p, alpha)
    contribution = torch.sub(logq, logm).mul_(q)
    return contribution, torch.sub(logp, logm, out=logm).exp_().mul_(q).mul_(alpha - 1.0), None


def _skew_reverse_kl(logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """p (log p / m - alpha p / m), and p."""
    p, q = logp.exp(), logq.exp()
    ratio = torch.sub(logp, _log_mixed(p, q, alpha))
    contribution = ratio * p
    return contribution, ratio.exp_().mul_(p).mul_(-alpha).add_(contribution), p


def _adaptive_kl(logp: Tensor, logq: Tensor, *, mass: float | Tensor = 0.5) -> tuple[Tensor, Tensor]:
    """In the logits: w (p - q) + (1 - w) p (log p / q - KL(p || q))."""
    share = head_share(logp, logq, mass).unsqueeze(1)
    p, q, ratio = logp.exp(), logq.exp(), logp - logq
    ours, theirs = _dot(p, ratio), -_dot(q, ratio)
    value = share.squeeze(1) * theirs + (1.0 - share.squeeze(1)) * ours
    return value, ratio.sub_(ours.unsqueeze(1)).mul_(p).mul_(1.0 - share).sub_(q.mul_(share))


def _todi(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """In the student's log-probabilities: (1 - w) p (1 - log q / p) - w q."""
    p, q, ratio = logp.exp(), logq.exp(), logq - logp
    weight = ratio.sigmoid()
    value = _dot(q - p, ratio)
    return value, ratio.neg_().add_(1.0).mul_(p).mul_(1.0 - weight).sub_(q.mul_(weight))


def _jeffreys(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """In the logits: p - q + p (log p / q - KL(p || q))."""
    p, q, ratio = logp.exp(), logq.exp(), logp - logq
    ours = _dot(p, ratio)
    return ours - _dot(q, ratio), ratio.sub_(ours.unsqueeze(1)).mul_(p).sub_(q)


def _total_variation(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """In the student's log-probabilities: sign(p - q) p / 2."""
    p, sign = logp.exp(), hardshrink(logp - logq, rounding(logp.dtype)).sign_()
    value = 0.5 * _dot(p - logq.exp(), sign)
    return value, sign.mul_(p).mul_(0.5)


def _alpha_beta(
    logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.5, beta: float | Tensor = 0.5
) -> tuple[Tensor, Tensor]:
    """In the student's log-probabilities: (p^s - q^alpha p^beta) / alpha, s = alpha + beta.

    The sum of that is beta D - sum (q^s - p^s) / s. It gives the value where beta is not so small that rounding would, and
    where no number is one a row.
    """
    s = off_zero(alpha + beta)
    gradient, excess_N = _alpha_beta_slope(logp, logq, off_zero(alpha), s)
    if isinstance(alpha, Tensor) or isinstance(beta, Tensor) or abs(beta) < 0.1:
        return alpha_beta(logp, logq, alpha=_flat(alpha), beta=_flat(beta)), gradient  # type: ignore[arg-type]
    require_sum(alpha + beta)
    total_N = gradient.sum(1) - excess_N
    if s != 1.0:  # where both sum to 1 there is nothing to add
        total_N += rise(s * logp, s * (logq - logp)).sum(1) / s
    return total_N / beta, gradient


def _alpha_beta_slope(
    logp: Tensor, logq: Tensor, alpha: float | Tensor, s: float | Tensor
) -> tuple[Tensor, Tensor | float]:
    """The gradient, and what the tangent above ``LIMIT`` adds to the sum of (q^alpha p^beta - p^s) / alpha."""
    own, step = logp * s, torch.sub(logq, logp).mul_(alpha)
    excess: Tensor | float = 0.0
    if isinstance(alpha, Tensor) or isinstance(s, Tensor) or min(alpha, s - alpha) < 0.0:
        over = torch.add(own, step).sub_(LIMIT).clamp_min_(0.0)
        step.sub_(over)
        excess = over.sum(1) * math.exp(LIMIT) / _flat(alpha)
    larger = step.clamp_min(0.0).add_(own).exp_()
    return step.abs().neg_().expm1_().copysign_(step).mul_(larger).div_(-alpha), excess


def _alpha(logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.5) -> tuple[Tensor, Tensor]:
    return _alpha_beta(logp, logq, alpha=alpha, beta=1.0 - alpha)


def _power(logp: Tensor, logq: Tensor, *, alpha: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    return _alpha_beta(logp, logq, alpha=alpha, beta=1.0)


def _chi_square(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    value, gradient = _alpha_beta(logp, logq, alpha=2.0, beta=-1.0)
    return 2.0 * value, gradient.mul_(2.0)


def _uld(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """In the student's log-probabilities: p sign(p_(i) - q_(i)), i the place of each in their order."""
    ordered, place = logp.sort(-1, descending=True)
    theirs = logq.sort(-1, descending=True).values
    size = max(logp.shape[-1], logq.shape[-1])
    ours, theirs = (pad(one, (0, size - one.shape[-1]), value=FLOOR) for one in (ordered, theirs))
    sign = hardshrink(ours - theirs, rounding(logp.dtype)).sign_()
    value = _dot(ours.exp() - theirs.exp(), sign)
    return value, torch.empty_like(logp).scatter_(-1, place, sign[:, : logp.shape[-1]]).mul_(logp.exp())


def _gold(
    logp: Tensor,
    logq: Tensor,
    *,
    by: Inner = "jsd",
    beta: float | Tensor = 0.5,
    matched: float | Tensor = 1.0,
    unmatched: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    value, gradient = CLOSED[by](logp, logq, **inner_settings(by, beta))
    return _flat(matched) * value, gradient.mul_(matched)


def _log_mixed(one: Tensor, other: Tensor, share: float | Tensor) -> Tensor:
    """log(share one + (1 - share) other) of probabilities, finite also where both are 0; faster than of logarithms."""
    mixture = torch.lerp(other, one, share)
    return mixture.clamp_min_(torch.finfo(mixture.dtype).tiny).log_()


def _flat(share: float | Tensor) -> float | Tensor:
    return share.squeeze(1) if isinstance(share, Tensor) else share


CLOSED: Mapping[str, Form] = {
    "forward_kl": _form(_forward_kl),
    "reverse_kl": _form(_reverse_kl),
    "jsd": _form(_jsd),
    "skew_forward_kl": _form(_skew_forward_kl),
    "skew_reverse_kl": _form(_skew_reverse_kl),
    "adaptive_kl": _adaptive_kl,
    "todi": _todi,
    "jeffreys": _jeffreys,
    "total_variation": _total_variation,
    "chi_square": _chi_square,
    "alpha": _alpha,
    "alpha_beta": _alpha_beta,
    "power": _power,
    "uld": _uld,
    "gold": _gold,
}
"""Those of ``DIVERGENCES`` but ``f``, whose generator is known to automatic differentiation alone."""
