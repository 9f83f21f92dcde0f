"""From a statistic to a weight: a soft curve, a hard gate, a share, a soft-or of two."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal, TypeAlias

import numpy as np

from agentopd.objective.columns import Logprobs, Reals, TeacherColumns
from agentopd.objective.contract import checked_by
from agentopd.objective.naming import TeacherName
from agentopd.objective.rows import Rows
from agentopd.objective.weights.grouping import Level, Within, group, largest, min_max
from agentopd.objective.weights.marks import live_if_asked, needs_statistics
from agentopd.objective.weights.named import SIGNED, Positive, Share, ask

Direction: TypeAlias = Literal["down", "up"]
"""``down``: the more of a statistic, the less a row counts. ``up``: the more it counts."""


def curve(value_A: Reals, scale: float, direction: Direction) -> Reals:
    """exp(-x / scale), or with ``up`` 1 - exp(-x / scale); x is at least 0, so both are in [0, 1].

    Raises:
        ValueError: A value is below 0.
    """
    if (value_A < 0).any():
        raise ValueError(
            f"a statistic is {value_A.min()} at a row, and exp(-x / scale) is for those of at least 0; use gate"
        )
    weight: Reals = np.exp(-value_A / scale)
    return weight if direction == "down" else 1.0 - weight


def either(one_A: Reals, other_A: Reals) -> Reals:
    """The soft-or of two numbers in [0, 1]: 1 - (1 - h)(1 - d) = h + d - h d."""
    return 1.0 - (1.0 - one_A) * (1.0 - other_A)


def _require_not_signed(settings: Mapping[str, Any]) -> None:
    if settings["statistic"] in SIGNED:
        raise ValueError(
            f"statistic={settings['statistic']}: it may be below 0, and exp(-x / scale) is for what is at least 0; use gate or top_share, "
            "or a statistic such as disagreement"
        )


@needs_statistics(itemgetter("statistic"))
@live_if_asked
@checked_by(_require_not_signed)
def decay(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    statistic: str,
    scale: Positive = 1.0,
    direction: Direction = "down",
    level: Level = "token",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """exp(-x / scale) of a named statistic x >= 0, or with ``direction: up`` 1 - exp(-x / scale).

    ``student_entropy``, ``disagreement``, ``epistemic``, ``aleatoric`` and ``teacher_entropy`` are this with their statistic given.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        statistic: Its name: see :mod:`~agentopd.objective.weights.named`.
        scale: In the unit of the statistic, mostly nats.
        direction: ``down``: the more of it, the less a row counts; ``up``: the more it counts.
        level: Of what rows the mean is taken first.
        logprobs: Which log-probability of the student a statistic reads, where it reads one.
        of: Another teacher to ask than the term's.
    """
    return curve(ask(rows, teacher, statistic, level=level, logprobs=logprobs, of=of), scale, direction)


@needs_statistics(itemgetter("statistic"))
@live_if_asked
def gate(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    statistic: str,
    op: Literal[">", ">=", "<", "<="] = ">",
    threshold: float,
    level: Level = "token",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """1 where a named statistic is above ``threshold`` (or whatever ``op`` says), else 0; settings as in :func:`decay`.

    EOPD (arXiv 2603.07079) adds a forward KL where ``teacher_entropy`` is above 0.8 nats.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        statistic: Its name, as for :func:`decay`.
        op: How it is held against the threshold.
        threshold: In the unit of the statistic.
        level: Of what rows the mean is taken first.
        logprobs: Which log-probability of the student it reads.
        of: Another teacher to ask than the term's.
    """
    value_A = ask(rows, teacher, statistic, level=level, logprobs=logprobs, of=of)
    return np.asarray(_OPS[op](value_A, threshold), np.float64)


_OPS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}


@needs_statistics(itemgetter("statistic"))
@live_if_asked
def top_share(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    statistic: str,
    share: Share = 0.5,
    direction: Direction = "up",
    level: Level = "token",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """1 on the share of the batch's rows with the most of a named statistic (with ``down``, the least), else 0.

    floor(share * rows) are kept, at least one, and those that tie with the last of them; other settings as in :func:`decay`.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        statistic: Its name, as for :func:`decay`.
        share: Of the batch's rows.
        direction: ``up`` keeps those with the most of it, ``down`` those with the least.
        level: Of what rows the mean is taken first.
        logprobs: Which log-probability of the student it reads.
        of: Another teacher to ask than the term's.
    """
    value_A = ask(rows, teacher, statistic, level=level, logprobs=logprobs, of=of)
    return largest(value_A if direction == "up" else -value_A, share).astype(np.float64)


@needs_statistics(itemgetter("first"), itemgetter("second"))
@live_if_asked
def soft_or(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    first: str = "student_entropy",
    second: str = "disagreement",
    within: Within = "batch",
    direction: Direction = "up",
    level: Level = "token",
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """u = 1 - (1 - h)(1 - d) of two named statistics, each min-max normalised: high where either is.

    A range below 1e-8 has no high end: there h or d is 0.5. ``direction: down`` gives 1 - u.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        first: The name of h.
        second: The name of d.
        within: Where least and most are looked for.
        direction: ``up`` for u, ``down`` for 1 - u.
        level: Of what rows the mean is taken before.
        logprobs: Which log-probability of the student they read.
        of: Another teacher to ask than the term's.
    """
    group_A = group(rows, within)
    h_A, d_A = (
        min_max(ask(rows, teacher, name, level=level, logprobs=logprobs, of=of), group_A) for name in (first, second)
    )
    union_A = either(h_A, d_A)
    return union_A if direction == "up" else 1.0 - union_A
