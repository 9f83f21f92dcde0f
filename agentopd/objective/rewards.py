"""Rewards of a token by a teacher's distribution: what a score function climbs, named by the term's ``divergence``.

Each takes the log-probabilities of student and teacher of the same tokens, and the settings of the divergence of its name. With it,
the expected gradient of a score function under the student's own samples is that divergence's.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from agentopd.objective.floor import columns, floored

Reward: TypeAlias = Callable[..., Tensor]
LEAST = 1e-6
"""The least size of an exponent that divides; one nearer to 0 gives the same numbers."""


def log_ratio(logp: Tensor, logq: Tensor, *, clip: None = None) -> Tensor:
    """log q(y) - log p(y): the reverse KL, unclipped."""
    return logq - logp


def power(logp: Tensor, logq: Tensor, *, alpha: float | Tensor) -> Tensor:
    """(q(y)^alpha - p(y)^alpha) / alpha (PowerOPD, arXiv 2606.17199, over alpha): the density power divergence.

    For a positive alpha it is at most 1 / alpha in size; as alpha goes to 0 it is log q - log p.
    """
    if isinstance(alpha, Tensor):
        alpha = alpha.where(alpha.abs() > LEAST, LEAST)
    elif abs(alpha) < LEAST:
        alpha = LEAST
    return (torch.expm1(alpha * logq) - torch.expm1(alpha * logp)) / alpha


REWARDS: Mapping[str, Reward] = {"reverse_kl": log_ratio, "power": power}


@torch.no_grad()
def expected_reward(kind: str, settings: Mapping[str, Any], logp_M_V: Tensor, logq_M_V: Tensor) -> Tensor:
    """The mean reward [M] of a token that the student samples; for the log-ratio -KL(p || q), as vOPD's baseline (arXiv 2605.07865)."""
    logp, logq = floored(logp_M_V, logq_M_V)
    p = logp.exp()
    return (p * REWARDS[kind](logp, logq, **columns(settings))).where(p > 0, 0.0).sum(-1)
