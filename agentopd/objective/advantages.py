"""Rewards, returns, baselines and couplings: from what was said about rows to one advantage a row.

Everything here is computed once on the global batch and detached. Returns and groups are matters of whole episodes: they are
formed on every action token of the intact episodes, whichever of them the term trains.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from agentopd.errors import TeacherError
from agentopd.objective.columns import Column, Reals, TeacherColumns
from agentopd.objective.naming import TeacherName
from agentopd.objective.rows import Rows
from agentopd.settings.parts import OneForAll
from agentopd.settings.signature import Registry
from agentopd.types import Bools

Part: TypeAlias = Annotated[float, Field(ge=0.0)]
Discount: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0), OneForAll()]
Baseline: TypeAlias = Literal["none", "batch_mean", "group_mean", "group_normalised"]
OUTCOME = "outcome"
"""The built-in reward: an episode's total reward, given at its last row."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One reward on whole episodes: what a score-function estimator works on."""

    rows: Rows
    """Every action token of the episodes that did not fail, in time order; corrected actions, which nobody took, left out."""
    learns_A: Bools
    """The rows that the term trains: means over rows are taken over these."""
    acted_A: Bools
    """The rows of the term's actors and sources, whether it trains them or not: who acted forms the groups."""
    reward_A: Reals
    given_A: Bools
    """Rows that the reward says something of. An episode without any is in no group; the other rows of its kind add zero."""
    gamma: float
    """The discount where the method sets none."""
    weight_A: Reals | None = None
    """What the term's weights say of each row, for a coupling; 0 on rows that the term does not train."""

    @classmethod
    def by(cls, rows: Rows, learns_A: Bools, acted_A: Bools, name: str) -> "Scored":
        """Scored by the reward ``name``: the outcome, or the turn rewards of a teacher."""
        if name == OUTCOME:
            return cls(rows, learns_A, acted_A, _outcome(rows), np.ones(len(rows), np.bool_), gamma=1.0)
        teacher = teacher_of(rows, name)
        return cls(rows, learns_A, acted_A, teacher.reward_A, teacher.rewarded_A, gamma=1.0)


def teacher_of(rows: Rows, name: str) -> TeacherColumns:
    """What the teacher ``name`` said.

    Raises:
        TeacherError: It annotated nothing in this batch.
    """
    if name not in rows.teachers:
        said = ", ".join(rows.teachers) or "no teacher"
        raise TeacherError(f"the target {name!r} annotated nothing in this batch ({said} did); check its where")
    return rows.teachers[name]


def _outcome(rows: Rows) -> Reals:
    reward_A = np.zeros(len(rows))
    last_A = _last(rows.trajectory_A)
    reward_A[last_A] = rows.episodes.reward_B[rows.trajectory_A[last_A]]
    return reward_A


def returns(rows: Rows, reward_A: Reals, gamma: float, turn_gamma: float) -> Reals:
    """Return-to-go: R_t = r_t + g R_{t+1}, g = ``gamma`` inside a turn and ``turn_gamma`` across turns."""
    return_A = reward_A.copy()
    same_trajectory = rows.trajectory_A[:-1] == rows.trajectory_A[1:]
    same_turn = rows.turn_A[:-1] == rows.turn_A[1:]
    discount = np.where(same_trajectory, np.where(same_turn, gamma, turn_gamma), 0.0)
    if discount.any():
        for t in range(len(rows) - 2, -1, -1):
            return_A[t] += discount[t] * return_A[t + 1]
    return return_A


def remaining(scored: Scored) -> Reals:
    """How many rows of the episode, from each on, the reward says something of; at least 1."""
    ones_A = scored.given_A.astype(np.float64)
    return np.maximum(returns(scored.rows, ones_A, 1.0, 1.0), 1.0)


def no_baseline(scored: Scored, return_A: Reals) -> Reals:
    """The return itself."""
    return return_A


def batch_mean(scored: Scored, return_A: Reals) -> Reals:
    """The return less the mean return of the rows that the term trains."""
    return return_A - return_A[scored.learns_A].mean() if scored.learns_A.any() else return_A


def group_mean(scored: Scored, return_A: Reals) -> Reals:
    """The return less the mean total reward of the episodes of the same task. For undiscounted returns."""
    return return_A - _group(scored)[0]


def group_normalised(scored: Scored, return_A: Reals) -> Reals:
    """As :func:`group_mean`, over the group's standard deviation (GRPO, arXiv 2402.03300); 0 where the group agrees."""
    return standardised(return_A, *_group(scored))


def standardised(value: Reals, mean: Reals, deviation: Reals) -> Reals:
    """(x - mean) / (deviation + 1e-6); 0 where the deviation is none."""
    return np.where(_differ(mean, deviation), (value - mean) / (deviation + 1e-6), 0.0)


def _differ(mean: Reals, deviation: Reals) -> Bools:
    """Whether numbers of this mean and deviation are more than one number and its rounding."""
    return np.asarray(deviation > np.maximum(1e-8, 1e-12 * np.abs(mean)), np.bool_)


def _group(scored: Scored) -> tuple[Reals, Reals]:
    """Mean and population standard deviation of total reward over the episodes of each row's task.

    The episode is the unit: a long one counts once, and one that the term trains no row of (a success, where only failures are
    trained) counts too.
    """
    trajectory_A, size = scored.rows.trajectory_A, len(scored.rows.episodes)
    total_B = np.bincount(trajectory_A, weights=scored.reward_A, minlength=size)
    acted_B = np.bincount(trajectory_A[scored.acted_A], minlength=size) > 0
    given_B = np.bincount(trajectory_A[scored.given_A], minlength=size) > 0
    counts_B = acted_B & given_B
    task_B = scored.rows.episodes.task_B
    mean_B, deviation_B = np.zeros(size), np.zeros(size)
    for task in np.unique(task_B[counts_B]):
        total = total_B[(task_B == task) & counts_B]
        mean_B[task_B == task], deviation_B[task_B == task] = total.mean(), total.std()
    return mean_B[trajectory_A], deviation_B[trajectory_A]


BASELINES: Registry = {
    "none": no_baseline,
    "batch_mean": batch_mean,
    "group_mean": group_mean,
    "group_normalised": group_normalised,
}


def whiten(advantage_A: Reals, learns_A: Bools) -> Reals:
    """Mean 0 and standard deviation 1 over the rows that learn; all zero where they agree."""
    if not learns_A.any():
        return advantage_A
    mean, deviation = advantage_A[learns_A].mean(), advantage_A[learns_A].std()
    return (advantage_A - mean) / deviation if _differ(mean, deviation) else np.zeros_like(advantage_A)


def uncoupled(scored: Scored, advantage_A: Reals) -> Reals:
    """Distillation alone."""
    return advantage_A


def advantage_sum(
    scored: Scored,
    advantage_A: Reals,
    *,
    reward_name: TeacherName = OUTCOME,
    distillation: Part = 1.0,
    reinforcement: Part = 1.0,
    baseline: Baseline = "group_normalised",
    weighted: Literal["both", "distillation"] = "both",
) -> Reals:
    """distillation * A + reinforcement * A_rl, with A_rl from a reward's undiscounted return (MOPD, arXiv 2601.02780; ATOD).

    The weights of the term multiply the loss of a row, and so both parts; with ``weighted: distillation`` they multiply A alone, under one
    importance ratio for the sum (SOD, arXiv 2605.07725; ATOD, arXiv 2606.27814).

    It works on the rows of the term it joins: turns that the term's teacher skips get neither part.

    Args:
        scored: The episodes.
        advantage_A: Of distillation.
        reward_name: The teacher that rewards, or ``outcome``.
        distillation: The factor of the teacher's advantage.
        reinforcement: The factor of the reward's.
        baseline: What is taken off the reward's return.
        weighted: Which of the two the weights multiply.
    """
    reinforced = Scored.by(scored.rows, scored.learns_A, scored.acted_A, reward_name)
    return_A = returns(reinforced.rows, reinforced.reward_A, 1.0, 1.0)
    reinforced_A: Reals = BASELINES[baseline](reinforced, return_A)
    if weighted == "distillation" and scored.weight_A is not None:
        advantage_A = scored.weight_A * advantage_A
    return distillation * advantage_A + reinforcement * reinforced_A


COUPLINGS: Registry = {"none": uncoupled, "advantage_sum": advantage_sum}


def _last(trajectory_A: Column) -> Column:
    """Index of the last row of each trajectory."""
    return np.flatnonzero(np.append(trajectory_A[:-1] != trajectory_A[1:], [True] * bool(len(trajectory_A))))
