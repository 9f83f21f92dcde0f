"""Groups of rows: turns, trajectories, siblings; and what is formed inside them."""

from typing import Literal, TypeAlias

import numpy as np

from agentopd.objective.columns import Column, Reals, codes
from agentopd.objective.rows import Rows
from agentopd.types import Bools

Level: TypeAlias = Literal["token", "turn", "trajectory"]
Within: TypeAlias = Literal["batch", "trajectory"]

FLAT = 1e-8
"""A range below this is none: everything in it is in the middle."""


def group(rows: Rows, what: Literal["turn", "trajectory", "batch"]) -> Column:
    """The group of each row, [A], numbered from 0; a turn's corrected action is apart from the turn, and those of an episode from it."""
    if what == "batch":
        return np.zeros(len(rows), np.int64)
    return codes(2 * (rows.turn_id_A if what == "turn" else rows.trajectory_A) + rows.corrected_A)


def mean_over(rows: Rows, value_A: Reals, level: Level) -> Reals:
    """The mean of the turn's or trajectory's rows in the place of each; of a token, the value itself."""
    if level == "token":
        return value_A
    group_A = group(rows, level)
    return (np.bincount(group_A, weights=value_A) / np.bincount(group_A))[group_A]


def first_in(value_A: Reals, group_A: Column) -> Reals:
    """The value of the first row of each group, in the place of each of its rows."""
    return value_A[np.unique(group_A, return_index=True)[1]][group_A]


def min_max(value_A: Reals, group_A: Column) -> Reals:
    """(x - min) / (max - min) inside each group, and 0.5 where the range is below 1e-8, 0/0 included."""
    if not len(value_A):
        return value_A
    low_G, high_G = (np.full(int(group_A.max()) + 1, start) for start in (np.inf, -np.inf))
    np.minimum.at(low_G, group_A, value_A)
    np.maximum.at(high_G, group_A, value_A)
    range_A = (high_G - low_G)[group_A]
    flat_A = range_A < FLAT
    scaled: Reals = np.where(flat_A, 0.5, (value_A - low_G[group_A]) / np.where(flat_A, 1.0, range_A))
    return scaled


def largest(value_A: Reals, share: float) -> Bools:
    """The floor(share * A) rows of the largest values, at least one; rows that tie with the last of them are kept too."""
    size = len(value_A)
    if not size:
        return np.zeros(0, np.bool_)
    kept = min(max(int(share * size + 1e-9), 1), size)
    return np.asarray(value_A >= np.partition(value_A, size - kept)[size - kept], np.bool_)


def among_siblings(rows: Rows, score_B: Reals) -> Reals:
    """n * softmax(score) among the n episodes of a task that have a row here, [A]: its mean over them is 1."""
    weight_B = np.zeros(len(rows.episodes))
    present = np.unique(rows.trajectory_A)
    sibling = codes(rows.episodes.task_B[present])
    score = score_B[present]
    highest_G = np.full(len(present), -np.inf)
    np.maximum.at(highest_G, sibling, score)
    share = np.exp(score - highest_G[sibling])
    weight_B[present] = share * (np.bincount(sibling) / np.bincount(sibling, weights=share))[sibling]
    return weight_B[rows.trajectory_A]
