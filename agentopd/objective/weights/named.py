"""Named statistics of rows, one number a row: what gates, curves and soft-ors are made of.

=====================  ================================================================================================
``teacher_entropy``    H(q), in nats
``student_entropy``    H(p) of the student as it is now, in nats; costs the pass without gradient
``surprisal``          -log p of the token taken
``teacher_surprisal``  -log q of the token taken
``disagreement``       abs(log p - log q) of the token taken
``log_ratio``          log q - log p of the token taken: above 0 where the teacher likes it better than the student does
``drift``              the sum of log p - log q over the tokens before this one, at least 0: how far the history left the teacher
``depth``              the turn, from 0
``staleness``          the steps, so the student's versions, since the episode was played; not known of one that another run played
``reliability``        how likely the teacher found what was done before this turn, from 0 to 1; see :func:`reliability_of`
``coverage``           the teacher's mass on the tokens that its block names: 1 for whole distributions, less for a top-k
``best_surprisal``     -log q of the teacher's likeliest token; known of sparse blocks that are sure to name it
=====================  ================================================================================================

Any other name is that of a statistic that the teacher itself gives, ``teacher.statistics[name]``: an ensemble gives
``aleatoric`` and ``epistemic``, in nats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
from pydantic import Field

from agentopd.objective.columns import ENSEMBLE, Logprobs, Reals, TeacherColumns, codes
from agentopd.objective.rows import Rows
from agentopd.objective.weights.grouping import Level, first_in, mean_over

Positive: TypeAlias = Annotated[float, Field(gt=0.0)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0.0)]
Share: TypeAlias = Annotated[float, Field(gt=0.0, le=1.0)]

AN_ENSEMBLE = "teachers.<name>: {kind: ensemble, members: [...]}, as the term's target or by of: <name>"
"""Who gives the statistics of :data:`~agentopd.objective.columns.ENSEMBLE`, for messages."""
LIMIT = 1e6
"""In nats: stands for infinity, as where a teacher gives a token no probability at all."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a statistic is made of: rows, one teacher's word on them, and one of the student's log-probabilities."""

    rows: Rows
    given: TeacherColumns | None
    """The term's own teacher."""
    of: str | None
    """Another one, by name."""
    logprobs: Logprobs
    asked: str
    """What asks, for messages."""

    @property
    def teacher(self) -> TeacherColumns:
        """The teacher.

        Raises:
            ValueError: There is none.
        """
        if self.of is None:
            return taught(self.given, self.asked)
        if self.of not in self.rows.teachers:
            said = ", ".join(self.rows.teachers) or "no teacher"
            raise ValueError(
                f"of={self.of}: this teacher annotated nothing in this batch ({said} did); check its where"
            )
        return self.rows.teachers[self.of]

    @property
    def logprob_A(self) -> Reals:
        """The student's log-probability of the token taken: the one it acted with, or the one it has now."""
        return self.rows.logprob_A if self.logprobs == "behaviour" else self.rows.live.logprob_A


def taught(teacher: TeacherColumns | None, asked: str) -> TeacherColumns:
    """The teacher of a term, where it has one.

    Raises:
        ValueError: Its target is no teacher's distribution.
    """
    if teacher is None:
        raise ValueError(
            f"{asked} needs a term whose target is a teacher's distribution or, where it has the setting of, the name of a teacher there"
        )
    return teacher


def reliability_of(evidence: Evidence) -> Reals:
    """exp of the mean of log q over the tokens taken in the turns before this one, those that the term trains; 1 in the first."""
    rows, own_A = evidence.rows, ~evidence.rows.corrected_A
    shape = (len(rows.episodes), int(rows.turn_A.max(initial=0)) + 1)
    size = shape[0] * shape[1]
    logq_A = np.where(own_A, evidence.teacher.taken_logprob_A.clip(-LIMIT), 0.0)
    sum_B_S, count_B_S = (
        np.bincount(rows.turn_id_A, weights=column_A, minlength=size).reshape(shape) for column_A in (logq_A, own_A)
    )
    before_B_S = (sum_B_S.cumsum(1) - sum_B_S) / np.maximum(count_B_S.cumsum(1) - count_B_S, 1.0)
    return np.exp(before_B_S)[rows.trajectory_A, rows.turn_A]


def drift_of(evidence: Evidence) -> Reals:
    """The sum over an episode's earlier rows, those that the term trains, of log p - log q of the token taken; 0 where it is below 0."""
    rows, own_A = evidence.rows, ~evidence.rows.corrected_A
    ratio_A = np.where(own_A, (evidence.logprob_A - evidence.teacher.taken_logprob_A).clip(-LIMIT, LIMIT), 0.0)
    before_A = np.cumsum(ratio_A) - ratio_A
    drift_A: Reals = np.maximum(before_A - first_in(before_A, codes(rows.trajectory_A)), 0.0)
    return drift_A


STATISTICS: Mapping[str, Callable[[Evidence], Reals]] = {
    "teacher_entropy": lambda one: one.teacher.entropy_A,
    "student_entropy": lambda one: one.rows.live.entropy_A,
    "surprisal": lambda one: -one.logprob_A,
    "teacher_surprisal": lambda one: -one.teacher.taken_logprob_A,
    "disagreement": lambda one: np.abs(one.logprob_A - one.teacher.taken_logprob_A),
    "log_ratio": lambda one: one.teacher.taken_logprob_A - one.logprob_A,
    "drift": drift_of,
    "depth": lambda one: one.rows.turn_A.astype(np.float64),
    "staleness": lambda one: one.rows.episodes.staleness_B[one.rows.trajectory_A],
    "reliability": reliability_of,
}
SIGNED = frozenset({"log_ratio"})
"""Those that may be below 0."""
OF_STUDENT = frozenset({"student_entropy", "surprisal", "depth", "staleness"})
"""Those that take no teacher."""
OF_PLAYED = frozenset({"surprisal", "disagreement", "log_ratio", "drift"})
"""Those of the student's log-probability of the token taken: unless recomputed, of the one that it acted with."""
LIVE = frozenset({"student_entropy"})
"""Those that only the pass without gradient gives."""
WHAT: Mapping[str, str] = {"teacher_entropy": "the teacher's entropy"}
"""What a statistic is called in messages, where not by its name."""


def ask(
    rows: Rows,
    teacher: TeacherColumns | None,
    name: str,
    *,
    level: Level = "token",
    of: str | None = None,
    logprobs: Logprobs = "behaviour",
) -> Reals:
    """The statistic ``name`` of each row, [A], finite.

    Args:
        rows: The rows of a term.
        teacher: What the term's teacher said of them.
        name: One of :data:`STATISTICS`, or a statistic of the teacher's own.
        level: ``turn`` and ``trajectory`` give each row the mean over its turn's or trajectory's rows.
        of: Another teacher to ask than the term's.
        logprobs: The student's log-probability of the token taken: the one it acted with, or, for one more pass, recomputed.

    Raises:
        ValueError: Nobody tells it, or not on every row.
    """
    evidence = Evidence(rows, teacher, of, logprobs, repr(name))
    value_A = STATISTICS[name](evidence) if name in STATISTICS else _further(evidence, name)
    unknown = int(np.isnan(value_A).sum())
    if unknown:
        raise ValueError(
            f"{name!r} needs {WHAT.get(name, name)} on every row; it is unknown on {unknown} of {len(rows)}, as this teacher does not "
            "give it there; leave such rows out with where, or ask a teacher that reads them by of: <name>"
        )
    return mean_over(rows, value_A.clip(-LIMIT, LIMIT), level)


def _further(evidence: Evidence, name: str) -> Reals:
    """A statistic of the teacher's own."""
    told = evidence.teacher.statistics
    if name not in told:
        remedy = (
            f"an ensemble gives it: {AN_ENSEMBLE}"
            if name in ENSEMBLE
            else f"there are: {', '.join([*STATISTICS, *told])}"
        )
        raise ValueError(f"{name!r} is no statistic that this teacher gives; {remedy}")
    return told[name]
