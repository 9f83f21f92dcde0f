"""The alpha-beta divergences, and those that they contain: alpha, power and chi-square.

All are one formula, evaluated so that its limits need no formulas of their own.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from agentopd.objective.floor import column, floored

LIMIT = 40.0
"""From this exponent on, exp goes on along its tangent: q^alpha p^beta of a negative exponent has no bound. It stays convex."""
TINY = 1.0e-20
"""Stands for a parameter that is nearer to 0. There (e^(c t) - 1) / c is t to rounding, which is the limit."""
NEAR = 0.01
"""Where the larger parameter times the log-ratio is below this, a difference that would cancel is taken from its series."""


Power = Annotated[float, Field(ge=-100.0, le=100.0)]


def alpha_beta(logp: Tensor, logq: Tensor, *, alpha: Power = 0.5, beta: Power = 0.5) -> Tensor:
    """The alpha-beta divergence (Cichocki, Cruces and Amari, Entropy 13, 2011; of language models: ABKD, arXiv 2505.04560).

    D = -1/(alpha beta) sum[q^alpha p^beta - alpha/(alpha+beta) q^(alpha+beta) - beta/(alpha+beta) p^(alpha+beta)], and its
    limits where alpha, beta or alpha + beta is 0: (1, 0) is the forward KL, (0, 1) the reverse KL, (1, -1) is
    sum[q/p - 1 - log(q/p)] and (0, 0) sum (log p - log q)^2 / 2. alpha + beta is at least 0: below, the least likely tokens
    would outweigh all others.

    With s = alpha + beta, t = log(q/p) and phi_c = (e^(ct) - 1) / c an entry is p^s [phi_s - phi_alpha] / beta. Of alpha and
    beta the one that is larger in size divides (D of p and q is D of q and p with alpha and beta exchanged), a parameter
    within ``TINY`` of 0 is ``TINY``, and where |t| times the larger is below ``NEAR`` the difference is its series. One of
    them may be negative: then q^alpha p^beta is continued from e^``LIMIT`` on along the tangent of exp, which keeps values
    and gradients finite and the sum above 0.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        alpha: The power of the teacher's probability.
        beta: The power of the student's.

    Raises:
        ValueError: alpha + beta is below 0.
    """
    logp, logq = floored(logp, logq)
    if isinstance(alpha, Tensor) or isinstance(beta, Tensor):
        a, b = _columns(alpha, beta, logp)
        require_sum(float((a + b).min()) if a.numel() else 0.0)
        swap = a.abs() > b.abs()
        logp, logq = torch.where(swap, logq, logp), torch.where(swap, logp, logq)
        return _entries(logp, logq, torch.where(swap, b, a), torch.where(swap, a, b)).sum(-1)
    require_sum(alpha + beta)
    if abs(alpha) > abs(beta):
        logp, logq, alpha, beta = logq, logp, beta, alpha
    return _entries(logp, logq, alpha, beta).sum(-1)


def alpha(logp: Tensor, logq: Tensor, *, alpha: Power = 0.5) -> Tensor:
    """Amari's alpha-divergence as in Cichocki and Amari, Entropy 12, 2010: (sum q^alpha p^(1-alpha) - 1) / (alpha (alpha - 1)).

    The limits are the forward KL at 1 and the reverse KL at 0. It is :func:`alpha_beta` of alpha and 1 - alpha: half of
    :func:`chi_square` at 2, and 4 times the squared Hellinger distance at 0.5. Amari's own parameter is 1 - 2 alpha.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        alpha: Between the reverse KL at 0 and the forward KL at 1, and beyond.
    """
    return alpha_beta(logp, logq, alpha=alpha, beta=1.0 - alpha)


def power(logp: Tensor, logq: Tensor, *, alpha: Annotated[float, Field(ge=-1.0, le=100.0)] = 0.1) -> Tensor:
    """The density power divergence (Basu et al., Biometrika 85, 1998), :func:`alpha_beta` of alpha and 1.

    D = sum[p^(1+alpha) / (alpha (1+alpha)) - p q^alpha / alpha + q^(1+alpha) / (1+alpha)]; the reverse KL at 0. Its gradient is
    -E[A grad log p] over tokens of the student, with the advantage A = (q^alpha - p^alpha) / alpha: that of PowerOPD (arXiv
    2606.17199), over alpha.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        alpha: 0 is the reverse KL; the more, the less unlikely tokens count.
    """
    return alpha_beta(logp, logq, alpha=alpha, beta=1.0)


def chi_square(logp: Tensor, logq: Tensor) -> Tensor:
    """sum (q - p)^2 / p, Pearson's, of the teacher from the student: 2 ``alpha_beta(2, -1)``, and like it finite everywhere."""
    return 2.0 * alpha_beta(logp, logq, alpha=2.0, beta=-1.0)


def require_sum(least: float) -> None:
    """Refuses parameters whose sum is below 0, but for rounding."""
    if least < -1.0e-6:
        raise ValueError(f"alpha + beta is {least}; make it at least 0, or the least likely tokens outweigh all others")


def off_zero(parameter: float | Tensor) -> float | Tensor:
    """A parameter that may divide."""
    if isinstance(parameter, Tensor):
        return torch.where(parameter.abs() < TINY, TINY, parameter)
    return TINY if abs(parameter) < TINY else parameter


def rise(base: Tensor, step: Tensor) -> Tensor:
    """e^(base + step) - e^base, accurate for small steps; above ``LIMIT`` along the tangent. ``base`` is at most about 0."""
    over = (base + step - LIMIT).clamp_min(0.0)
    step = step - over
    up = -(base + step).exp() * (-step).clamp_max(0.0).expm1()
    down = base.exp() * step.clamp_max(0.0).expm1()
    return torch.where(step > 0, up, down) + math.exp(LIMIT) * over


def _entries(logp: Tensor, logq: Tensor, a: float | Tensor, b: float | Tensor) -> Tensor:
    """The summands [..., V] of the divergence of parameters of which b is the larger in size."""
    a, b, s = off_zero(a), off_zero(b), off_zero(a + b)
    own, ratio = s * logp, logq - logp
    near = (b * ratio).abs() < NEAR
    far = (rise(own, s * ratio) / s - rise(own, a * ratio) / a) / b
    small = ratio.where(near, 0.0)
    return torch.where(near, own.exp() * small.square() * _series(s * small, a * small), far)


def _series(x: Tensor, y: Tensor) -> Tensor:
    """(E(x) - E(y)) / (x - y) of E(z) = (e^z - 1) / z = sum z^k / (k + 1)!, for small x and y."""
    symmetric, power_of_y = torch.ones_like(x), torch.ones_like(y)
    total = symmetric / 2
    for factorial in (6, 24, 120, 720):
        power_of_y = power_of_y * y
        symmetric = x * symmetric + power_of_y  # (x^k - y^k) / (x - y)
        total = total + symmetric / factorial
    return total


def _columns(alpha: float | Tensor, beta: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both parameters as columns, where at least one is one number a row."""
    given = (column(one) if isinstance(one, Tensor) else like.new_full((1,), one) for one in (alpha, beta))
    a, b = torch.broadcast_tensors(*given)  # type: ignore[no-untyped-call]
    return a, b
