"""Estimators: how the gradient of a term is taken.

``analytic`` differentiates the divergence itself. ``score_function`` treats a detached advantage as a reward:
with y ~ p and the reward log q(y) - log p(y) ("k1"), its expected gradient is exactly that of the reverse KL.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from agentopd.objective.advantages import BASELINES, Baseline, Discount, Scored, returns, whiten
from agentopd.objective.columns import Reals
from agentopd.settings.choice import Registry

RATIO = {"importance", "clip_low", "clip_high"}
"""The settings of a score function that :func:`policy_gradient` reads; the others make the advantage."""


def analytic() -> None:
    """The gradient of the divergence, through the student's distribution; none through sampling."""


def score_function(
    scored: Scored,
    *,
    gamma: Discount | None = None,
    turn_gamma: Discount | None = None,
    baseline: Baseline = "none",
    whitened: bool = False,
    clip: Annotated[float, Field(gt=0.0)] | None = None,
    logprobs: Literal["behaviour", "recomputed"] = "behaviour",
    importance: Literal["none", "ratio", "clipped"] = "none",
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2,
    clip_high: Annotated[float, Field(gt=0.0)] = 0.2,
) -> Reals:
    """Advantages [A] of whole episodes: return-to-go, baseline, whitening, clipping, in this order.

    ``gamma`` discounts inside a turn and ``turn_gamma``, which defaults to it, across turns. Left out, ``gamma`` is 0 for a
    teacher's log-ratio (the token-local surrogate of Thinking Machines, 2025) and 1 for a reward; 1 for a log-ratio gives the
    gradient of the sequence's reverse KL. ``logprobs`` says which log-probability of the student the log-ratio and the
    importance ratio use: the one it acted with, or one recomputed by the learner. ``importance`` multiplies by p / p_old, bare
    or clipped as in PPO (arXiv 1707.06347) to [1 - clip_low, 1 + clip_high].
    """
    inside = scored.gamma if gamma is None else gamma
    across = inside if turn_gamma is None else turn_gamma
    return_A = returns(scored.rows, scored.reward_A, inside, across)
    advantage_A: Reals = BASELINES[baseline](scored, return_A)
    if whitened:
        advantage_A = whiten(advantage_A, scored.learns_A)
    return advantage_A if clip is None else advantage_A.clip(-clip, clip)


def policy_gradient(
    logp_N: Tensor,
    advantage_N: Tensor,
    old_N: Tensor,
    *,
    importance: str = "none",
    clip_low: float | Tensor = 0.2,
    clip_high: float | Tensor = 0.2,
) -> Tensor:
    """phi [N] of score-function rows, from the student's log-probability of the taken token."""
    if importance == "none":
        return -advantage_N * logp_N
    ratio_N = (logp_N - old_N).exp()
    if importance == "ratio":
        return -advantage_N * ratio_N
    clipped_N = ratio_N.clamp(min=1.0 - clip_low).clamp(max=1.0 + clip_high)
    return -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)


ESTIMATORS: Registry = {"analytic": analytic, "score_function": score_function}
