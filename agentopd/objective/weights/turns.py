"""Weights by turn, and by what went before: how far an episode has left what the teacher knows."""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentopd.objective.columns import Column, Logprobs, Reals, TeacherColumns
from agentopd.objective.naming import TeacherName
from agentopd.objective.rows import Rows
from agentopd.objective.weights.curves import Direction, soft_or
from agentopd.objective.weights.grouping import first_in, group
from agentopd.objective.weights.marks import live_if_asked, needs_statistics
from agentopd.objective.weights.named import NotNegative, Positive, ask, taught


@needs_statistics("disagreement")
@live_if_asked
def sod(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    delta: NotNegative = 0.2,
    epsilon: Positive = 1e-6,
    direction: Direction = "down",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta) for turn k (SOD, arXiv 2605.07725).

    d_k is the mean of abs(log p - log q) over the turn's rows: a turn in which teacher and student are further apart than in the first
    one counts less. The paper multiplies the ratios of neighbouring turns, (d_u + epsilon) / (d_{u+1} + epsilon), whose product is this.
    Turns are told by their number, not by runs of trained tokens.

    Args:
        rows: The rows of the term; the first turn is the first one among them.
        teacher: What the term's teacher said.
        delta: How far above 1 a turn may count.
        epsilon: Keeps the ratio finite.
        direction: ``up`` inverts the ratio: a turn counts more where they are further apart.
        logprobs: Which log-probability of the student.
        of: Another teacher to ask than the term's.
    """
    d_A = ask(rows, teacher, "disagreement", level="turn", logprobs=logprobs, of=of) + epsilon
    first_A = first_in(d_A, group(rows, "trajectory"))
    weight: Reals = np.minimum(first_A / d_A if direction == "down" else d_A / first_A, 1.0 + delta)
    return weight


@needs_statistics("disagreement", "surprisal")
@live_if_asked
def t_dur(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    direction: Direction = "up",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """w_k = 1 - (1 - d_k)(1 - h_k) for turn k (T-DUR of ATOD, arXiv 2606.27814): turns of disagreement or doubt count more.

    d_k is the mean of abs(log p - log q) over the turn's rows and h_k that of -log p, each min-max normalised within the trajectory, and
    0.5 where its range is below 1e-8. ``direction: down`` gives 1 - w_k. Other settings as in :func:`sod`.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        direction: ``up`` for w_k, ``down`` for 1 - w_k.
        logprobs: Which log-probability of the student it reads.
        of: Another teacher to ask than the term's.
    """
    return soft_or(
        rows,
        teacher,
        first="disagreement",
        second="surprisal",
        within="trajectory",
        direction=direction,
        level="turn",
        logprobs=logprobs,
        of=of,
    )


@needs_statistics("disagreement")
@live_if_asked
def iw_opd(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    most: Annotated[float, Field(ge=1.0)] = 1.5,
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """w_t = 1 + (most - 1)(1 - sum_{u<t} d_u / sum_u d_u), d = abs(log p - log q) of the token taken (IW-OPD, arXiv 2606.22600).

    The sums are over the episode's rows: the first token of an episode has the weight ``most``, and the more of the whole disagreement of
    student and teacher lies before a token, the nearer to 1 it comes. Where they agree on every token all have ``most``.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        most: The weight of an episode's first token.
        logprobs: Which log-probability of the student.
        of: Another teacher to ask than the term's.
    """
    d_A = ask(rows, teacher, "disagreement", logprobs=logprobs, of=of)
    group_A = group(rows, "trajectory")
    before_A = np.cumsum(d_A) - d_A
    whole_A = np.bincount(group_A, weights=d_A)[group_A]
    share_A = (before_A - first_in(before_A, group_A)) / np.where(whole_A > 0.0, whole_A, 1.0)
    weight: Reals = 1.0 + (most - 1.0) * (1.0 - share_A.clip(0.0, 1.0))
    return weight


@needs_statistics("reliability")
def reliability(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5,
    above: bool = True,
    of: TeacherName | None = None,
) -> Reals:
    """1 in turns before which the student did what the teacher finds likely, else 0: whether its word still holds so deep.

    r_k = exp(mean of log q over the tokens taken in turns 1 .. k-1), and r_1 = 1: how likely the teacher finds the history that it is
    asked about. The weight is 1 where r_k >= ``threshold``, or, with ``above: false``, where it is below. A teacher fitted on clean
    episodes is out of its depth in a history that it would never come to, however sure it looks there. Our own.

    Args:
        rows: The rows of the term; the history is made of them, corrected actions left out.
        teacher: What the term's teacher said.
        threshold: A probability.
        above: Whether reliable turns are kept, or the others.
        of: Another teacher to ask than the term's.
    """
    r_A = ask(rows, teacher, "reliability", of=of)
    return np.asarray((r_A >= threshold) == above, np.float64)


@needs_statistics("teacher_surprisal")
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
    mistake_A = taught(teacher, "weight 'until_mistake'").taken_logprob_A < math.log(probability)
    before_A: Column = np.cumsum(mistake_A) - mistake_A
    group_A = group(rows, "trajectory" if within == "episode" else "turn")
    return np.asarray(before_A == first_in(before_A.astype(np.float64), group_A), np.float64)
