"""Weights of whole trajectories, against those of the same task."""

from typing import Literal

import numpy as np

from agentopd.objective.columns import Logprobs, Reals, TeacherColumns, codes
from agentopd.objective.naming import TeacherName
from agentopd.objective.rows import Rows
from agentopd.objective.weights.grouping import among_siblings, mean_over
from agentopd.objective.weights.marks import live_if_asked, needs_group, needs_statistics
from agentopd.objective.weights.named import NotNegative, Positive, ask


@needs_group
def pass_rate(rows: Rows, teacher: TeacherColumns | None, *, a: NotNegative = 1.0, b: NotNegative = 1.0) -> Reals:
    """p^a (1 - p)^b, p the share of the task's episodes that succeed (PACED, arXiv 2603.11178).

    Tasks that always succeed or always fail count nothing, those in between most. p is over all episodes of the task in the batch that
    did not fail, whoever acted in them and whichever of them the term trains; so it is known to 1 / ``per_task`` only.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        a: How much a task that often fails is left out.
        b: How much one that often succeeds is.
    """
    episodes = rows.episodes
    task_B, intact_B = codes(episodes.task_B), ~episodes.failed_B
    known_G, won_G = (np.bincount(task_B, weights=of_B) for of_B in (intact_B, intact_B & episodes.success_B))
    p_A = (won_G / np.maximum(known_G, 1.0))[task_B][rows.trajectory_A]
    weight: Reals = p_A**a * (1.0 - p_A) ** b
    return weight


@needs_group
def reward_softmax(rows: Rows, teacher: TeacherColumns | None, *, beta: Positive = 1.0) -> Reals:
    """n * softmax(R / beta) among the n episodes of a task that the term trains, R their total reward: their mean is 1.

    Args:
        rows: The rows of the term.
        teacher: What the term's teacher said.
        beta: The temperature: small, and the best episode has all of it.
    """
    return among_siblings(rows, rows.episodes.reward_B / beta)


_SURPRISAL = {"teacher": "teacher_surprisal", "student": "surprisal"}


@needs_statistics(lambda settings: _SURPRISAL[settings["by"]])
@needs_group
@live_if_asked
def scope(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    by: Literal["teacher", "student"] = "teacher",
    favour: Literal["paper", "sure", "unsure"] = "paper",
    tau: Positive = 1.0,
    logprobs: Logprobs = "behaviour",
    of: TeacherName | None = None,
) -> Reals:
    """n * softmax(s m / tau) among the n episodes of a task that the term trains: their mean is 1 (SCOPE, arXiv 2604.10688).

    m is the mean log-probability of an episode's rows, so exp(m) = 1 / perplexity, and s is 1 or -1. The paper has two paths, each a
    term here: successes learn from themselves, weighed by the student's perplexity to the power of 1 / tau (s = -1: what it found against
    the odds counts more), and failures from the teacher, weighed by the teacher's to the power of -1 / tau (s = 1: what it knows counts
    more). Those signs are ``favour: paper``. The authors' released settings have s = 1 on both paths, which is ``favour: sure``. The
    paper's weights sum to 1 in a group; its code's, and these, to n.

    Args:
        rows: The rows of the term; choose the path by ``where: {success: ...}``.
        teacher: What the term's teacher said.
        by: Whose log-probabilities m is made of.
        favour: ``sure`` is s = 1, ``unsure`` s = -1; ``paper`` is the first for the teacher and the second for the student.
        tau: The temperature.
        logprobs: Which of the student's.
        of: Another teacher to ask than the term's.
    """
    sure = by == "teacher" if favour == "paper" else favour == "sure"
    surprisal_A = mean_over(rows, ask(rows, teacher, _SURPRISAL[by], logprobs=logprobs, of=of), "trajectory")
    score_B = np.zeros(len(rows.episodes))
    score_B[rows.trajectory_A] = surprisal_A * ((-1.0 if sure else 1.0) / tau)
    return among_siblings(rows, score_B)
