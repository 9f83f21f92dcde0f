"""Distributions as logarithms: from logits, of mixtures, and how open they are; in float32 or better."""

import math
from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

from agentopd.objective.floor import FLOOR, column


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [..., V] at a temperature; differentiable."""
    return torch.log_softmax(_scaled(logits, temperature), -1)


def distribution(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Probabilities and log-probabilities [..., V], in new memory: one exponential an entry gives both."""
    scaled = _scaled(logits, temperature)
    p = torch.softmax(scaled, -1)
    largest, log_largest = scaled.amax(-1, keepdim=True), p.amax(-1, keepdim=True).log_()
    return p, torch.sub(scaled, largest).add_(log_largest)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    exact = exactly(logits)
    return exact if temperature == 1.0 else exact / temperature


def exactly(logits: Tensor) -> Tensor:
    """The same in float32 or better."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mixture(parts: Iterable[tuple[float | Tensor, Tensor]]) -> Tensor:
    """log sum_e share_e p_e [..., V], from the share of each part, a number or one a row, and its log-probabilities."""
    return reduce(torch.logaddexp, (logp + _log(share) for share, logp in parts))


def _log(share: float | Tensor) -> float | Tensor:
    return column(share.log()) if isinstance(share, Tensor) else math.log(share)


def entropy(logp: Tensor, p: Tensor | None = None) -> Tensor:
    """Entropy [...] in nats of log-probabilities [..., V], and of the probabilities where they are known; those of 0 add nothing."""
    return -((logp.exp() if p is None else p) * logp.clamp_min(FLOOR)).sum(-1)
