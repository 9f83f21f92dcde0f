"""Aggregates: how the rows of a term are averaged.

Each function returns a measure [A] over the rows it is given, non-negative, with sum 1 unless it says otherwise. What a term leaves
out (other actors, skipped turns, failed episodes) is not among the rows, so it is in no denominator.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from agentopd.objective.columns import Reals, codes
from agentopd.objective.rows import Rows
from agentopd.settings.signature import Registry


def token(rows: Rows) -> Reals:
    """The mean over all tokens of the batch: long turns count for more."""
    return np.full(len(rows), 1.0 / max(len(rows), 1))


def turn(rows: Rows) -> Reals:
    """Token mean inside a turn, then over the turns of a trajectory, then over trajectories (after TurnOPD, arXiv 2607.05804)."""
    turn_A = codes(rows.turn_id_A)
    first = np.unique(turn_A, return_index=True)[1]
    turns_of_trajectory = np.bincount(codes(rows.trajectory_A)[first])
    per_turn = np.bincount(turn_A)[turn_A]
    per_trajectory = turns_of_trajectory[codes(rows.trajectory_A)]
    return 1.0 / (per_turn * per_trajectory * max(len(turns_of_trajectory), 1))


def sequence(rows: Rows) -> Reals:
    """Token mean inside a trajectory, then over trajectories."""
    trajectory_A = codes(rows.trajectory_A)
    tokens = np.bincount(trajectory_A)
    return 1.0 / (tokens[trajectory_A] * max(len(tokens), 1))


def summed(rows: Rows) -> Reals:
    """The tokens of a trajectory are added up, and trajectories averaged: each row counts 1 / trajectories, a sum above 1.

    For losses of whole sequences, whose log-probability is a sum.
    """
    return np.full(len(rows), 1.0 / max(len(np.unique(rows.trajectory_A)), 1))


def blend(rows: Rows, *, share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5) -> Reals:
    """(1 - share) token + share turn; TurnOPD schedules ``share`` from 0 to 1.

    Args:
        rows: The rows of the term.
        share: That of ``turn``.
    """
    return (1.0 - share) * token(rows) + share * turn(rows)


AGGREGATES: Registry = {"token": token, "turn": turn, "sequence": sequence, "sum": summed, "blend": blend}
