"""Drawing tokens: the processed distribution, and draws that depend on a request's seed alone."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentopd.rollout.policy import Rollout

NUCLEUS = 256
"""Candidates among which top-p is looked for first."""


def uniforms(seed: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers in [0, 1), the i-th for the i-th token of a turn, from a counter-based generator keyed by ``seed``."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def processed(logits_B_V: Tensor, settings: Rollout) -> Tensor:
    """Log-probabilities [B, V] of the distribution that is sampled from: temperature, then top-k, then top-p.

    Removed tokens have ``-inf``. At temperature 0 all mass is on the most probable token. Half precision is widened.
    """
    logits_B_V = logits_B_V.to(torch.promote_types(logits_B_V.dtype, torch.float32))
    if settings.temperature == 0.0:
        point_B_V = torch.full_like(logits_B_V, -torch.inf)
        return point_B_V.scatter_(1, logits_B_V.argmax(1, keepdim=True), 0.0)
    logprob_B_V = torch.log_softmax(logits_B_V / settings.temperature, dim=1)
    if 0 < settings.top_k < logprob_B_V.shape[1]:
        logprob_B_V = torch.log_softmax(_top_k(logprob_B_V, settings.top_k), dim=1)
    if settings.top_p < 1.0:
        logprob_B_V = torch.log_softmax(_top_p(logprob_B_V, settings.top_p), dim=1)
    return logprob_B_V


def draw(logprob_B_V: Tensor, uniform_B: Tensor) -> Tensor:
    """Token ids [B] by inverse CDF, tokens in the order of their ids: the first whose cumulative mass exceeds the uniform."""
    cdf_B_V = logprob_B_V.to(torch.float64, copy=True).exp_()
    torch.cumsum(cdf_B_V, 1, out=cdf_B_V)  # in place: over a large vocabulary, new memory costs more than the sum
    total_B_1 = cdf_B_V[:, -1:]
    below_total_B_1 = torch.nextafter(total_B_1, torch.zeros_like(total_B_1))
    mass_B_1 = torch.minimum(uniform_B[:, None] * total_B_1, below_total_B_1)
    return torch.searchsorted(cdf_B_V, mass_B_1, right=True)[:, 0]


def blended(logp_B_V: Tensor, logq_B_V: Tensor, alpha: float) -> Tensor:
    """Log-probabilities [B, V] of (1 - alpha) p + alpha q."""
    if alpha in (0.0, 1.0):
        return logq_B_V if alpha else logp_B_V
    return torch.logaddexp(logp_B_V + math.log1p(-alpha), logq_B_V + math.log(alpha))


def ranked_within(logits_B_V: Tensor, token_B: Tensor, k: int) -> Tensor:
    """Whether fewer than ``k`` tokens have larger logits, [B]."""
    return (logits_B_V > logits_B_V.gather(1, token_B[:, None])).sum(1) < k


def _top_k(logprob_B_V: Tensor, k: int) -> Tensor:
    kept = torch.topk(logprob_B_V, k, dim=1)
    return torch.full_like(logprob_B_V, -torch.inf).scatter_(1, kept.indices, kept.values)


def _top_p(logprob_B_V: Tensor, p: float) -> Tensor:
    """Keeps the most probable tokens up to mass ``p``, of equals the lower ids first; the most probable always stays."""
    if logprob_B_V.shape[1] <= NUCLEUS:
        return _nucleus(logprob_B_V, p)[0]
    # to sort a large vocabulary costs more than a small model's forward, and nearly always a few tokens hold the mass
    index_B_K = torch.topk(logprob_B_V, NUCLEUS, dim=1, sorted=False).indices.sort(1).values
    kept_B_K, ended_B = _nucleus(logprob_B_V.gather(1, index_B_K), p)
    kept_B_V = torch.full_like(logprob_B_V, -torch.inf).scatter_(1, index_B_K, kept_B_K)
    if not bool(ended_B.all()):
        kept_B_V[~ended_B] = _nucleus(logprob_B_V[~ended_B], p)[0]
    return kept_B_V


def _nucleus(logprob_B_K: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """What is kept of these candidates, and for which rows [B] no token beyond them could be: the mass is full before the last value."""
    sorted_B_K, order_B_K = torch.sort(logprob_B_K, dim=1, descending=True, stable=True)
    before_B_K = sorted_B_K.exp().cumsum(1) - sorted_B_K.exp()
    before_B_K[:, 0] = 0.0
    removed_B_K = before_B_K >= p
    ended_B = (removed_B_K & (sorted_B_K > sorted_B_K[:, -1:])).any(1)
    kept_B_K = sorted_B_K.masked_fill(removed_B_K, -torch.inf)
    return torch.empty_like(kept_B_K).scatter_(1, order_B_K, kept_B_K), ended_B
