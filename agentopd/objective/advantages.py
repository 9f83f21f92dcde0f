"""Rewards, returns, baselines and couplings: from what was said about rows to one advantage a row.

Everything here is computed once on the global batch and detached. Rows stand in time order within each trajectory.
"""

from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Field

from agentopd.choice import Registry
from agentopd.objective.rows import Column, Reals, Rows

Discount: TypeAlias = Annotated[float, Field(ge=0.0, le=1.0)]
OUTCOME = "outcome"
"""The built-in reward: an episode's total reward, given at its last row."""


def reward(rows: Rows, name: str) -> Reals:
    """The reward ``name`` on the rows, [A]: the outcome, or the turn rewards of a teacher."""
    if name == OUTCOME:
        reward_A = np.zeros(len(rows))
        last_A = _last(rows.trajectory_A)
        totals = [record.trajectory.outcome.total_reward for record in rows.records]
        reward_A[last_A] = np.array(totals, np.float64)[rows.trajectory_A[last_A]] if totals else 0.0
        return reward_A
    return rows.teachers[name].reward_A


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


def no_baseline(rows: Rows, return_A: Reals, reward_A: Reals) -> Reals:
    """The return itself."""
    return return_A


def batch_mean(rows: Rows, return_A: Reals, reward_A: Reals) -> Reals:
    """The return less the mean return of all rows."""
    return return_A - return_A.mean() if len(return_A) else return_A


def group_mean(rows: Rows, return_A: Reals, reward_A: Reals) -> Reals:
    """The return less the mean total reward of the episodes of the same task."""
    return return_A - _group(rows, reward_A)[0]


def group_normalised(rows: Rows, return_A: Reals, reward_A: Reals) -> Reals:
    """As :func:`group_mean`, over the group's standard deviation (GRPO, arXiv 2402.03300); 0 where the group agrees."""
    mean_A, deviation_A = _group(rows, reward_A)
    return np.where(deviation_A > 1e-8, (return_A - mean_A) / (deviation_A + 1e-6), 0.0)


def _group(rows: Rows, reward_A: Reals) -> tuple[Reals, Reals]:
    """Mean and population standard deviation of total reward over the episodes of each row's task."""
    size = len(rows.records)
    total_B = np.bincount(rows.trajectory_A, weights=reward_A, minlength=size)
    present_B = np.bincount(rows.trajectory_A, minlength=size) > 0
    task_B = np.array([record.trajectory.task.id for record in rows.records])
    mean_B, deviation_B = np.zeros(size), np.zeros(size)
    for task in np.unique(task_B[present_B]):
        group = (task_B == task) & present_B
        mean_B[group], deviation_B[group] = total_B[group].mean(), total_B[group].std()
    return mean_B[rows.trajectory_A], deviation_B[rows.trajectory_A]


BASELINES: Registry = {
    "none": no_baseline,
    "batch_mean": batch_mean,
    "group_mean": group_mean,
    "group_normalised": group_normalised,
}


def whiten(advantage_A: Reals) -> Reals:
    """Mean 0 and standard deviation 1 over the rows; all zero where they agree."""
    centred = advantage_A - advantage_A.mean() if len(advantage_A) else advantage_A
    deviation = centred.std() if len(centred) else 0.0
    return centred / deviation if deviation > 1e-8 else np.zeros_like(centred)


def uncoupled(rows: Rows, advantage_A: Reals) -> Reals:
    """Distillation alone."""
    return advantage_A


def advantage_sum(
    rows: Rows,
    advantage_A: Reals,
    *,
    reward_name: str = OUTCOME,
    distillation: float = 1.0,
    reinforcement: float = 1.0,
    baseline: Literal["none", "batch_mean", "group_mean", "group_normalised"] = "group_normalised",
    turn_gamma: Discount = 1.0,
) -> Reals:
    """distillation * A + reinforcement * A_rl, with A_rl from a reward's return-to-go (MOPD, arXiv 2601.02780; ATOD)."""
    reward_A = reward(rows, reward_name)
    return_A = returns(rows, reward_A, 1.0, turn_gamma)
    reinforced_A: Reals = BASELINES[baseline](rows, return_A, reward_A)
    return distillation * advantage_A + reinforcement * reinforced_A


COUPLINGS: Registry = {"none": uncoupled, "advantage_sum": advantage_sum}


def _last(trajectory_A: Column) -> Column:
    """Index of the last row of each trajectory."""
    return np.flatnonzero(np.append(trajectory_A[:-1] != trajectory_A[1:], [True] * bool(len(trajectory_A))))
