"""Scoring: the advantages of a score-function term, formed on whole episodes."""

import numpy as np
import torch

from agentopd.errors import ConfigError
from agentopd.objective.advantages import Scored, teacher_of
from agentopd.objective.columns import Reals
from agentopd.objective.contract import call, column
from agentopd.objective.rows import Rows
from agentopd.objective.selection import Selection
from agentopd.objective.spec import Objective
from agentopd.objective.targets import of_taken
from agentopd.settings.choice import Clock
from agentopd.types import Bools


def advantages(objective: Objective, i: int, rows: Rows, selection: Selection, old_A: Reals, clock: Clock) -> Reals:
    """Advantages [A] of term ``i``; rows that ``where`` leaves out still count in the returns of others.

    Args:
        objective: The method.
        i: Which of its terms.
        rows: The global batch.
        selection: The term's rows.
        old_A: The student's log-probability of the token taken, which a log-ratio is formed against.
        clock: Evaluates schedules.
    """
    term = objective.terms[i]
    scored = _scored(objective, i, rows, selection, old_A, clock)
    key = f"{objective.key(i)}.estimator"
    given = call(key, term.estimator, term.estimator.at(clock), scored)
    advantage = column(key, term.estimator, given, len(scored.rows), "estimator")
    if term.distributional:
        key, coupling = "objective.coupling", objective.coupling
        given = call(key, coupling, coupling.at(clock), scored, advantage)
        advantage = column(key, coupling, given, len(scored.rows), "coupling")
    advantage_A = np.zeros(len(rows))
    advantage_A[selection.played_A] = advantage
    return advantage_A


def old_logprob(objective: Objective, i: int, rows: Rows) -> Reals:
    """The student's log-probability [A] that term ``i`` compares with: the one it acted with, or one recomputed."""
    if objective.terms[i].estimator.settings.get("logprobs", "behaviour") == "behaviour":
        return rows.logprob_A
    if rows.recomputed is None:
        raise ConfigError(
            f"{objective.key(i)}.estimator.logprobs: recomputed needs the live pass; call prepare on rows.with_live(...)"
        )
    return rows.live.logprob_A


def _scored(objective: Objective, i: int, rows: Rows, selection: Selection, old_A: Reals, clock: Clock) -> Scored:
    """The episodes played, with the reward that term ``i`` names: of a teacher or the outcome, or the log-ratio to a distribution."""
    term, played_A = objective.terms[i], selection.played_A
    episodes, learns, acted = rows.select(played_A), selection.learns_A[played_A], selection.acted_A[played_A]
    if term.reward is not None:
        return Scored.by(episodes, learns, acted, term.reward)
    taken_A, given_A = _taken(objective, i, episodes, acted, old_A[played_A], clock)
    ratio_A = np.where(given_A, taken_A - old_A[played_A], 0.0)
    if not np.isfinite(ratio_A).all():
        raise ConfigError(
            f"a score function needs finite log-probabilities of the taken tokens from teacher {term.teacher!r} and the student; "
            f"{int((~np.isfinite(ratio_A)).sum())} of {int(given_A.sum())} rows have none"
        )
    return Scored(episodes, learns, acted, ratio_A, given_A, gamma=0.0)


def _taken(objective: Objective, i: int, rows: Rows, acted_A: Bools, old_A: Reals, clock: Clock) -> tuple[Reals, Bools]:
    """The target's log-probability of the tokens taken by the term's actors, and the rows where all its teachers give one."""
    term = objective.terms[i]
    teachers = {setting: teacher_of(rows, name) for setting, name in term.reads.items()}
    given_A: Bools = np.all([acted_A, *(teacher.covered_A for teacher in teachers.values())], axis=0)
    named = {setting: torch.from_numpy(teacher.taken_logprob_A) for setting, teacher in teachers.items()}
    key = f"{objective.key(i)}.target"
    taken_A = of_taken(key, term.target, term.target.at(clock), torch.from_numpy(old_A), named).numpy()
    return taken_A, given_A
