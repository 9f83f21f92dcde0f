"""Estimators: how the gradient of a term is taken.

What each optimises, for a token y ~ p at one state, with p the student and q the teacher:

==================  ==============================  ============================================================================
estimator           its value                       its expected gradient
==================  ==============================  ============================================================================
``analytic``        the divergence, exact           that of the divergence
``score_function``  minus the advantage times       of the reward log q(y) - log p(y) ("k1"): that of the reverse KL; of a reward
                    log p(y)                        that does not depend on y, such as a divergence of the state: zero
k1, differentiated  the reverse KL, unbiased        zero: E[grad log p] = 0. So it is refused
``k2``              biased                          that of the reverse KL
``k3``              the reverse KL, unbiased        that of the forward KL
``pair_logit``      minus the advantage times       that of the pairwise loss, under the aggregate ``sum``
                    log p(y)
==================  ==============================  ============================================================================

An estimator is a function of :class:`Scored` that gives advantages; or, marked with :func:`by_token`, one of :class:`Taken` that
gives phi itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective.advantages import BASELINES, Baseline, Discount, Scored, remaining, returns, whiten
from agentopd.objective.columns import Logprobs, Reals
from agentopd.objective.contract import checked_by, idle
from agentopd.settings.parts import OneForAll
from agentopd.settings.signature import F, Function, Registry

RATIO = {"importance", "clip_low", "clip_high"}
"""The settings of a score function that :func:`policy_gradient` reads; the others make the advantage."""
VALUE = "value"
"""The baseline that is computed with the loss, from the teacher's distribution."""
GROUPED = {"group_mean", "group_normalised"}
"""Baselines over the episodes of one task."""
REFUSED: Mapping[str, str] = {
    "k1": "differentiating log p - log q of the sampled token carries no teacher signal: its expected gradient is zero; set "
    "estimator: {kind: score_function}, which takes it as a reward, or {kind: k2}",
}
"""Names of estimators that train nothing, with what to use instead."""
OPTIMISES: Mapping[str, str] = {"k3": "forward_kl"}
"""The divergence whose gradient an estimator of the token taken has in expectation, where that is not the reverse KL."""

Limit = Annotated[float, Field(gt=0.0)]
Importance: TypeAlias = Literal["none", "ratio", "clipped"]
"""PPO's surrogates of -log p, for steps that go on from the policy that acted."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The token taken in each of N rows, as a :func:`by_token` estimator sees it."""

    logp_N: Tensor
    """Its log-probability under the student, differentiable."""
    logq_N: Tensor
    """Its log-probability under the teacher."""

    def log_ratio(self, clip: float | Tensor | None) -> Tensor:
        """log q - log p, [N], between -clip and clip."""
        ratio_N = self.logq_N - self.logp_N
        return ratio_N if clip is None else ratio_N.clamp(max=clip).clamp(min=-clip)


def by_token(function: F) -> F:
    """Marks an estimator ``f(taken, **settings) -> [N]``, which gives phi of each row by its token alone."""
    function.by_token = True  # type: ignore[attr-defined]
    return function


def is_by_token(function: Function) -> bool:
    """Whether an estimator is marked with :func:`by_token`."""
    return getattr(function, "by_token", False)


def analytic() -> None:
    """The gradient of the divergence, through the student's distribution; none through sampling."""


@by_token
def k2(taken: Taken, *, clip: Limit | None = None) -> Tensor:
    """phi = (log p - log q)^2 / 2 of the token taken: its expected gradient is that of the reverse KL, its value is biased.

    Where the student itself sampled: E[grad phi] = E[(log p - log q) grad log p] (KDRL, arXiv 2506.02208, takes it as its KL).
    ``clip`` bounds the log-ratio; a row beyond has no gradient.

    Args:
        taken: The tokens taken.
        clip: Bounds the log-ratio, in nats.
    """
    return 0.5 * taken.log_ratio(clip).square()


@by_token
def k3(taken: Taken, *, clip: Limit | None = None) -> Tensor:
    """phi = q / p - 1 - log(q / p) of the token taken: its value estimates the reverse KL, its gradient is that of the FORWARD KL.

    Where the student itself sampled: E[grad phi] = E[(1 - q / p) grad log p] = -sum q grad log p. ``clip`` bounds the log-ratio; a row
    beyond has no gradient. Without it a token that the student hardly ever takes may outweigh all others.

    Args:
        taken: The tokens taken.
        clip: Bounds the log-ratio, in nats.
    """
    ratio_N = taken.log_ratio(clip)
    return torch.expm1(ratio_N) - ratio_N


def _require_clipped(settings: Mapping[str, Any]) -> None:
    unused = "" if settings["importance"] == "clipped" else idle(score_function, settings, "clip_low", "clip_high")
    if unused:
        raise ValueError(
            f"{unused}: importance={settings['importance']} does not read it; leave it out, or set importance: clipped"
        )


@checked_by(_require_clipped)
def score_function(
    scored: Scored,
    *,
    gamma: Discount | None = None,
    turn_gamma: Discount | None = None,
    reward_clip: Annotated[Limit, OneForAll()] | None = None,
    length_normalised: bool = False,
    baseline: Baseline | Literal["value"] = "none",
    whitened: bool = False,
    clip: Limit | None = None,
    logprobs: Logprobs = "behaviour",
    importance: Importance = "none",
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2,
    clip_high: Limit = 0.2,
) -> Reals:
    """Advantages [A] of whole episodes: reward clip, return-to-go, length, baseline, whitening, clip, in this order.

    ``gamma`` discounts inside a turn and ``turn_gamma``, which defaults to it, across turns. Left out, ``gamma`` is 0 for a
    teacher's log-ratio (the token-local surrogate of Thinking Machines, 2025) and 1 for a reward; 1 for a log-ratio gives the
    gradient of the sequence's reverse KL. ``reward_clip`` bounds the reward of each token, ``clip`` the advantage.
    ``length_normalised`` divides a return by the number of rewarded tokens that it is the sum of (MiniLLM, arXiv 2306.08543).

    ``baseline: value`` takes off the mean reward of a token that the student samples, -KL(p || q) for the log-ratio (vOPD, arXiv
    2605.07865): the expected gradient is the same, its variance less. It is computed with the loss, from the teacher's whole
    distribution, and is that of a token alone: ``gamma`` 0.

    ``logprobs`` says which log-probability of the student the log-ratio and the ratios ``ratio`` and ``clipped`` use: the one it acted
    with, or one recomputed by the learner. ``importance`` is PPO's surrogate of -log p (arXiv 1707.06347): r = p / p_old, differentiated,
    ``ratio`` bare or ``clipped`` to [1 - clip_low, 1 + clip_high]. For tokens that another engine, or older weights, sampled it is
    ``none``, and the term has the weight ``importance``.

    Args:
        scored: The episodes.
        gamma: The discount from token to token inside a turn.
        turn_gamma: The discount from turn to turn.
        reward_clip: Bounds each token's reward, on both sides.
        length_normalised: Whether a return is divided by the tokens that it sums over.
        baseline: What is taken off a return.
        whitened: Whether advantages are brought to mean 0 and deviation 1 over the batch.
        clip: Bounds the advantage, on both sides.
        logprobs: Which log-probability of the student is read.
        importance: The surrogate of -log p.
        clip_low: Of ``clipped``: how far a ratio may fall below 1.
        clip_high: Of ``clipped``: how far it may rise above 1.
    """
    inside = scored.gamma if gamma is None else gamma
    across = inside if turn_gamma is None else turn_gamma
    reward_A = scored.reward_A if reward_clip is None else scored.reward_A.clip(-reward_clip, reward_clip)
    return_A = returns(scored.rows, reward_A, inside, across)
    if length_normalised:
        return_A = return_A / remaining(scored)
    advantage_A: Reals = return_A if baseline == VALUE else BASELINES[baseline](scored, return_A)
    if whitened:
        advantage_A = whiten(advantage_A, scored.learns_A)
    return advantage_A if clip is None else advantage_A.clip(-clip, clip)


def require_baseline(settings: Mapping[str, Any], own: bool, distributional: bool) -> None:
    """Refuses a baseline that does not fit the other settings of a score function.

    Args:
        settings: All of the estimator's.
        own: Whether the target is a teacher's own distribution.
        distributional: Whether it is any distribution.
    """
    baseline, normalised = settings.get("baseline"), settings.get("length_normalised")
    discounts = [settings[name] for name in ("gamma", "turn_gamma") if settings.get(name) is not None]
    local = not discounts and distributional
    if baseline in GROUPED and (local or any(one != 1.0 for one in discounts) or normalised):
        raise ValueError(
            f"baseline {baseline!r} compares the total rewards of episodes with undiscounted returns; set gamma and turn_gamma to 1 "
            "and leave out length_normalised, or set baseline: batch_mean"
        )
    changed = [name for name in ("whitened", "clip", "reward_clip", "length_normalised") if settings.get(name)]
    if baseline == VALUE and (not own or any(one != 0.0 for one in discounts) or changed):
        wrong = f"leave out {', '.join(changed)}" if changed else "set gamma: 0 and target: {kind: distribution}"
        raise ValueError(
            f"baseline 'value' is the mean of a teacher's token-local reward, unchanged; {wrong}, or set baseline: batch_mean"
        )


def pair_logit(
    scored: Scored,
    *,
    chosen: str,
    beta: Annotated[Limit, OneForAll()] = 0.1,
    logprobs: Logprobs = "recomputed",
) -> Reals:
    """Advantages [A] of a loss over pairs of episodes: -log sigmoid(beta [log p/p_old (chosen) - log p/p_old (rejected)]).

    That is SPIN (arXiv 2401.01335), with p_old the target's distribution, such as the student's of a while ago, and
    log p/p_old the sum over an episode. With D the difference in brackets, a row of the chosen episode has the advantage
    beta sigmoid(-beta D), one of the rejected episode minus that, both detached. Under the aggregate ``sum`` the gradient is that of
    the sum of the loss over pairs, divided by the number of episodes; others average over tokens too.

    Args:
        scored: The episodes. Of a task's, the first chosen makes a pair with the first rejected, and so on; what is left over has the
            advantage 0.
        chosen: The source, or the actor, whose episodes are the chosen ones; those of the others that ``where`` selects are rejected.
        beta: How fast the loss gives way.
        logprobs: Which log-probability p is; ``recomputed`` is the present one, whoever acted.
    """
    rows, trajectory_A, size = scored.rows, scored.rows.trajectory_A, len(scored.rows.episodes)
    chosen_A = ((rows.source_A == chosen) | (rows.actor_A == chosen)) & scored.acted_A
    chosen_B, given_B = (np.bincount(trajectory_A[on_A], minlength=size) > 0 for on_A in (chosen_A, scored.given_A))
    moved_B = np.bincount(trajectory_A, weights=-scored.reward_A, minlength=size)
    advantage_B = np.zeros(size)
    for task in np.unique(rows.episodes.task_B[given_B]):
        of_task_B = given_B & (rows.episodes.task_B == task)
        sides = (np.flatnonzero(of_task_B & on_B) for on_B in (chosen_B, ~chosen_B))
        for better, worse in zip(*sides, strict=False):
            slope = beta * np.exp(-np.logaddexp(0.0, beta * (moved_B[better] - moved_B[worse])))
            advantage_B[better], advantage_B[worse] = slope, -slope
    advantage_A: Reals = advantage_B[trajectory_A]
    return advantage_A


def policy_gradient(
    logp_N: Tensor,
    advantage_N: Tensor,
    old_N: Tensor,
    *,
    importance: str = "none",
    clip_low: float | Tensor = 0.2,
    clip_high: float | Tensor = 0.2,
) -> Tensor:
    """phi [N] of score-function rows, from the student's log-probability of the taken token.

    Raises:
        ConfigError: There is no ``importance`` of that name.
    """
    if importance not in get_args(Importance):
        raise ConfigError(
            f"importance={importance}: there is none of that name; use one of {', '.join(get_args(Importance))}, and for tokens that "
            "somebody else sampled the weight importance"
        )
    if importance == "none":
        return -advantage_N * logp_N
    ratio_N = (logp_N - old_N).exp()
    if importance == "ratio":
        return -advantage_N * ratio_N
    clipped_N = ratio_N.clamp(min=1.0 - clip_low).clamp(max=1.0 + clip_high)
    return -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N)


ESTIMATORS: Registry = {
    "analytic": analytic,
    "score_function": score_function,
    "pair_logit": pair_logit,
    "k2": k2,
    "k3": k3,
}
