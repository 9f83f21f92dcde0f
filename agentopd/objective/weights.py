"""Weights: how much each row of a term counts.

A weight is a function of the term's rows and of what its teacher said about them (``None`` for a term without a teacher), and
returns [A], finite and non-negative. Several weights multiply. One's own is named by import path:
``weight: {kind: "package.module:name"}``. A weight that reads ``rows.live`` is marked with :func:`needs_live`.
"""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentopd.objective.columns import Column, Reals, TeacherColumns
from agentopd.objective.rows import Rows
from agentopd.settings.choice import Function, Registry


def needs_live(weight: Function) -> Function:
    """Marks a weight that reads the student's present statistics, which cost one pass without gradient."""
    weight.needs_live = True  # type: ignore[attr-defined]
    return weight


def uniform(rows: Rows, teacher: TeacherColumns | None) -> Reals:
    """Every row counts the same."""
    return np.ones(len(rows))


def teacher_entropy(
    rows: Rows, teacher: TeacherColumns | None, *, scale: Annotated[float, Field(gt=0.0)] = 1.0
) -> Reals:
    """exp(-H(q) / scale): the less sure the teacher is, the less it teaches. ``scale`` is in nats."""
    weight: Reals = np.exp(-_entropy(teacher, "teacher_entropy") / scale)
    return weight


def teacher_entropy_gate(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    threshold: Annotated[float, Field(ge=0.0)] = 0.8,
    above: bool = True,
) -> Reals:
    """1 where the teacher's entropy is above ``threshold`` nats (or at most that, with ``above: false``), else 0.

    EOPD (arXiv 2603.07079) adds a forward KL where the entropy is above 0.8 nats.
    """
    entropy_A = _entropy(teacher, "teacher_entropy_gate")
    return np.asarray(entropy_A > threshold if above else entropy_A <= threshold, np.float64)


def until_mistake(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05,
    within: Literal["episode", "turn"] = "episode",
) -> Reals:
    """1 up to the first token to which the teacher gives less than ``probability``, that token included, else 0.

    That token is the mistake, and what the teacher says of it the lesson. Behind it stand states that the teacher would hardly come
    to: its advice there is that of a model out of its depth, its divergence from the student large, and what one could learn seldom
    of use to a student that no longer errs there. As in process supervision that ends at the first wrong step (arXiv 2305.20050).
    The rows that it leaves out stay in the aggregate's denominator, unless the term has ``rescale``.

    Args:
        rows: The rows of the term. A mistake in a row that the term does not train is not seen; corrected actions are apart.
        teacher: What the term's teacher said; rows that it is silent on are no mistakes.
        probability: The least that a token may have, under the teacher at the temperature that was sampled at.
        within: ``episode`` leaves out all that follows; ``turn`` only the rest of that turn.
    """
    if teacher is None:
        raise ValueError("weight 'until_mistake' needs a term whose target is a teacher's distribution")
    group_A = 2 * (rows.trajectory_A if within == "episode" else rows.turn_id_A) + rows.corrected_A
    mistake_A = teacher.taken_logprob_A < math.log(probability)
    before_A: Column = np.cumsum(mistake_A) - mistake_A
    _, first, group_A = np.unique(group_A, return_index=True, return_inverse=True)
    return np.asarray(before_A == before_A[first[group_A.reshape(-1)]], np.float64)


def _entropy(teacher: TeacherColumns | None, name: str) -> Reals:
    if teacher is None:
        raise ValueError(f"weight {name!r} needs a term whose target is a teacher's distribution")
    if np.isnan(teacher.entropy_A).any():
        raise ValueError(f"weight {name!r} needs the teacher's entropy on every row; this teacher does not give it")
    return teacher.entropy_A


WEIGHTS: Registry = {
    "uniform": uniform,
    "teacher_entropy": teacher_entropy,
    "teacher_entropy_gate": teacher_entropy_gate,
    "until_mistake": until_mistake,
}
