"""Weights by one statistic of uncertainty: of the teacher, of its members, of the student, and between the two."""

from typing import Literal

import numpy as np

from agentopd.objective.columns import ALEATORIC, EPISTEMIC, Logprobs, Reals, TeacherColumns
from agentopd.objective.naming import TeacherName
from agentopd.objective.rows import Rows
from agentopd.objective.weights.curves import Direction, curve
from agentopd.objective.weights.grouping import Level
from agentopd.objective.weights.marks import live_if_asked, needs_live, needs_statistics
from agentopd.objective.weights.named import NotNegative, Positive, ask


def uniform(rows: Rows, teacher: TeacherColumns | None) -> Reals:
    """Every row counts the same."""
    return np.ones(len(rows))


@needs_statistics("teacher_entropy")
def teacher_entropy(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    scale: Positive = 1.0,
    direction: Direction = "down",
    level: Level = "token",
    of: TeacherName | None = None,
) -> Reals:
    """exp(-H(q) / scale): the less sure the teacher is, the less it teaches. ``scale`` is in nats.

    With ``direction: up`` 1 - exp(-H(q) / scale). ``level`` takes the mean over a turn or trajectory first, and ``of`` asks another
    teacher.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        scale: In nats.
        direction: ``down``: the more of it, the less a row counts; ``up``: the more it counts.
        level: Of what rows the mean is taken first.
        of: Another teacher to ask than the term's.
    """
    return curve(ask(rows, teacher, "teacher_entropy", level=level, of=of), scale, direction)


_SURPRISAL = {"taken": "teacher_surprisal", "best": "best_surprisal"}


@needs_statistics(lambda settings: _SURPRISAL[settings["token"]])
def teacher_confidence(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    power: NotNegative = 1.0,
    token: Literal["taken", "best"] = "taken",
    level: Level = "token",
    of: TeacherName | None = None,
) -> Reals:
    """q(y)^power: the teacher's probability of the token taken, or of its likeliest one.

    For a turn or a trajectory the geometric mean of q, exp(mean of log q): a likelihood normalised by length. SAGE-OPD (arXiv
    2606.19659) weighs by a teacher's confidence; its formula is not published.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        power: 0 gives weights of one.
        token: ``best`` is known where the teacher gives a top-k.
        level: Over what the mean is taken.
        of: Another teacher to ask than the term's.
    """
    weight: Reals = np.exp(-power * ask(rows, teacher, _SURPRISAL[token], level=level, of=of))
    return weight


@needs_statistics("coverage")
def top_k_coverage(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    power: NotNegative = 1.0,
    level: Level = "token",
    of: TeacherName | None = None,
) -> Reals:
    """c^power, where c is the teacher's mass on the tokens that its block names: 1 for whole distributions, less for a top-k.

    What a top-k leaves out is no part of a divergence over it, so a row of little coverage says little.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        power: 0 gives weights of one.
        level: Of what rows the mean is taken first.
        of: Another teacher to ask than the term's.
    """
    weight: Reals = ask(rows, teacher, "coverage", level=level, of=of) ** power
    return weight


@needs_statistics(EPISTEMIC)
def epistemic(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    scale: Positive = 0.1,
    direction: Direction = "down",
    level: Level = "token",
    of: TeacherName | None = None,
) -> Reals:
    """exp(-I / scale), I = H(mean_e q_e) - mean_e H(q_e) >= 0: the less the members of an ensemble agree, the less they teach.

    I is the information that a token would give of which member is right (BALD, arXiv 1112.5745): large where the members are sure of
    different things, which is where a teacher does not know. It is at most log E nats for E members. Asks a teacher of kind
    ``ensemble``. Settings as in :func:`~agentopd.objective.weights.curves.decay`.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        scale: In nats.
        direction: ``down``: the more of it, the less a row counts; ``up``: the more it counts.
        level: Of what rows the mean is taken first.
        of: Another teacher to ask than the term's.
    """
    return curve(ask(rows, teacher, EPISTEMIC, level=level, of=of).clip(0.0), scale, direction)


@needs_statistics(ALEATORIC)
def aleatoric(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    scale: Positive = 1.0,
    direction: Direction = "down",
    level: Level = "token",
    of: TeacherName | None = None,
) -> Reals:
    """exp(-mean_e H(q_e) / scale): how open the next token is in the eyes of each member of an ensemble.

    Together with :func:`epistemic` it makes up the entropy of the ensemble's mixture. High where many continuations are right, which
    is no fault of the teacher. Asks a teacher of kind ``ensemble``.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        scale: In nats.
        direction: ``down``: the more of it, the less a row counts; ``up``: the more it counts.
        level: Of what rows the mean is taken first.
        of: Another teacher to ask than the term's.
    """
    return curve(ask(rows, teacher, ALEATORIC, level=level, of=of), scale, direction)


@needs_statistics("student_entropy")
@needs_live
def student_entropy(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    scale: Positive = 1.0,
    direction: Direction = "up",
    level: Level = "token",
) -> Reals:
    """1 - exp(-H(p) / scale) of the student as it is now: the less sure it is, the more it learns; ``down`` gives exp(-H(p) / scale).

    TIP (arXiv 2604.14084) finds student entropy a first proxy of what a token can teach.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        scale: In nats.
        direction: ``down``: the more of it, the less a row counts; ``up``: the more it counts.
        level: Of what rows the mean is taken first.
    """
    return curve(ask(rows, teacher, "student_entropy", level=level), scale, direction)


@needs_statistics("disagreement")
@live_if_asked
def disagreement(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    scale: Positive = 1.0,
    direction: Direction = "down",
    level: Level = "token",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """exp(-d / scale), d = abs(log p - log q) of the token taken; ``direction: up`` gives 1 - exp(-d / scale).

    Published methods weigh it both ways: SOD (arXiv 2605.07725) trusts a teacher less where it disagrees, T-DUR (arXiv 2606.27814)
    finds more to learn there.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        scale: In nats.
        direction: ``down``: the more of it, the less a row counts; ``up``: the more it counts.
        level: Of what rows the mean is taken first.
        logprobs: Which log-probability of the student it reads.
        of: Another teacher to ask than the term's.
    """
    return curve(ask(rows, teacher, "disagreement", level=level, of=of, logprobs=logprobs), scale, direction)
