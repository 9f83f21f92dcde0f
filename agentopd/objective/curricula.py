"""Curricula: numbers a row by how far the student is, named in a configuration as ``agentopd.objective.curricula:<name>``."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentopd.objective.columns import Reals, TeacherColumns, codes
from agentopd.objective.numbers import per_row
from agentopd.objective.rows import Rows
from agentopd.objective.weights import needs_live

Share = Annotated[float, Field(gt=0.0, lt=1.0)]


@per_row
@needs_live
def by_sequence(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    base: Share = 0.1,
    least: Share = 0.01,
    ahead: Literal["teacher", "student"] = "teacher",
    anchor: Annotated[float, Field(gt=0.0)] | None = None,
) -> Reals:
    """The skew of an episode by how well the student already does it (DistiLLM-2, arXiv 2503.07067).

    alpha = 1 - (1 - base) c / (q - p + 1e-5), between ``least`` and ``base``, with q and p the exponentials of the mean
    log-probabilities of the episode's rows under teacher and student. Where the two are as far apart as c or farther the skew is
    ``base``; where they are nearer, it falls towards the unskewed divergence; where the other is ahead, it is ``base`` again.

    Args:
        rows: The rows of the term.
        teacher: What its teacher said of them.
        base: The skew where the gap is large.
        least: The skew where there is hardly a gap.
        ahead: Whose probability is the greater: the teacher's on its own episodes (q - p), the student's on its own (p - q).
        anchor: c, the gap at which the skew would be ``base``; left out, the mean gap of this batch's episodes.
    """
    if teacher is None or not teacher.covered_A.all():
        raise ValueError(
            "by_sequence compares the student with a teacher on every row; set target: {kind: distribution}"
        )
    episode_A = codes(rows.trajectory_A)
    size = np.bincount(episode_A)
    q, p = (
        np.exp(np.bincount(episode_A, weights=column) / size)
        for column in (teacher.taken_logprob_A, rows.live.logprob_A)
    )
    gap = q - p if ahead == "teacher" else p - q
    middle = max(float(gap.mean()), 0.0) if anchor is None else anchor
    skew = 1.0 - (1.0 - base) * middle / np.where(gap > 0.0, gap + 1e-5, -1.0)
    alpha: Reals = np.clip(skew, least, base)[episode_A]
    return alpha
