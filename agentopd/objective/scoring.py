"""Scoring: the advantages of a score-function term, formed on whole episodes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agentopd.errors import ConfigError
from agentopd.objective.advantages import Scored, teacher_of
from agentopd.objective.columns import Reals
from agentopd.objective.contract import call, checked_column
from agentopd.objective.numbers import picked, tensors
from agentopd.objective.rewards import REWARDS
from agentopd.objective.rows import Rows
from agentopd.objective.selection import Selection
from agentopd.objective.spec import Objective
from agentopd.objective.targets import of_taken
from agentopd.objective.term import Term
from agentopd.settings.clock import Clock
from agentopd.types import Bools


def advantages(
    objective: Objective,
    i: int,
    rows: Rows,
    selection: Selection,
    old_A: Reals,
    weight_A: Reals,
    settings: Mapping[str, Mapping[str, Any]],
    clock: Clock,
) -> Reals:
    """Advantages [A] of term ``i``; rows that ``where`` leaves out still count in the returns of others.

    Args:
        objective: The method.
        i: Which of its terms.
        rows: The global batch.
        selection: The term's rows.
        old_A: The student's log-probability of the token taken, which a log-ratio is formed against.
        weight_A: The term's weights, for a coupling.
        settings: Of its estimator and its divergence at this step; a value may be one number a row, [A].
        clock: Evaluates schedules.
    """
    key, term = objective.key(i), objective.terms[i]
    here = {part: picked(given, selection.played_A) for part, given in settings.items()}
    scored = _scored(key, term, rows, selection, old_A, here)
    given = call(f"{key}.estimator", term.estimator, here["estimator"], scored)
    advantage = checked_column(f"{key}.estimator", term.estimator, given, len(scored.rows), "estimator")
    if term.distributional:
        place, coupling = "objective.coupling", objective.coupling
        scored = replace(scored, weight_A=weight_A[selection.played_A])
        given = call(place, coupling, coupling.at(clock), scored, advantage)
        advantage = checked_column(place, coupling, given, len(scored.rows), "coupling")
    advantage_A = np.zeros(len(rows))
    advantage_A[selection.played_A] = advantage
    return advantage_A


def old_logprob(key: str, term: Term, rows: Rows) -> Reals:
    """The student's log-probability [A] that the term at ``key`` compares with: the one it acted with, or one recomputed."""
    if term.estimator.settings.get("logprobs", "behaviour") == "behaviour":
        return rows.logprob_A
    if rows.recomputed is None:
        raise ConfigError(
            f"{key}.estimator.logprobs: recomputed needs the live pass; call prepare on rows.with_live(...)"
        )
    return rows.live.logprob_A


def taken_logq(key: str, term: Term, rows: Rows) -> Reals:
    """The log-probability [A] of the token taken under the teacher of the term at ``key``, finite.

    Raises:
        ConfigError: It is not, on some row.
    """
    logq_A = teacher_of(rows, str(term.teacher)).taken_logprob_A
    every_A = np.ones(len(rows), np.bool_)
    _require_finite(_key(key, term), logq_A, every_A, {f"teacher {term.teacher!r}": logq_A})
    return logq_A


def _scored(
    key: str,
    term: Term,
    rows: Rows,
    selection: Selection,
    old_A: Reals,
    settings: Mapping[str, Mapping[str, Any]],
) -> Scored:
    """The episodes played, with the reward that the term names: of a teacher or the outcome, or one by a distribution."""
    played_A = selection.played_A
    episodes, learns, acted = rows.select(played_A), selection.learns_A[played_A], selection.acted_A[played_A]
    if term.reward is not None:
        return Scored.by(episodes, learns, acted, term.reward)
    taken_A, given_A = _taken(key, term, episodes, acted, old_A[played_A], settings["target"])
    logp_A, logq_A = (torch.from_numpy(np.where(given_A, of, 0.0)) for of in (old_A[played_A], taken_A))
    reward_A: Reals = REWARDS[term.divergence.kind](logp_A, logq_A, **tensors(settings["divergence"])).numpy()
    told = {f"teacher {name!r}": teacher_of(episodes, name).taken_logprob_A for name in term.reads.values()}
    _require_finite(_key(key, term), reward_A, given_A, told | {"the student": old_A[played_A]})
    return Scored(episodes, learns, acted, reward_A, given_A, gamma=0.0)


def _taken(
    key: str, term: Term, rows: Rows, acted_A: Bools, old_A: Reals, settings: Mapping[str, Any]
) -> tuple[Reals, Bools]:
    """The target's log-probability of the tokens taken by the term's actors, and the rows where all its teachers give one."""
    teachers = {setting: teacher_of(rows, name) for setting, name in term.reads.items()}
    given_A: Bools = np.all([acted_A, *(teacher.covered_A for teacher in teachers.values())], axis=0)
    named = {setting: torch.from_numpy(teacher.taken_logprob_A) for setting, teacher in teachers.items()}
    logp_A = torch.from_numpy(old_A)
    return of_taken(f"{key}.target", term.target, tensors(settings), logp_A, named).numpy(), given_A


def _key(key: str, term: Term) -> str:
    return f"{key}.estimator.kind={term.estimator.kind}"


def _require_finite(key: str, number_A: Reals, of_A: Bools, told: Mapping[str, Reals]) -> None:
    """Refuses a number that is none on the rows ``of_A``; ``told`` has the log-probabilities that it is made of, by who gave them."""
    bad_A = ~np.isfinite(number_A) & of_A
    if bad_A.any():
        blamed = [name for name, logprob_A in told.items() if not np.isfinite(logprob_A[bad_A]).all()]
        raise ConfigError(
            f"{key}: it needs finite log-probabilities of the taken tokens from {' and '.join(blamed or told)}; {int(bad_A.sum())} of "
            f"{int(of_A.sum())} rows have none; leave such rows out with where, or use estimator: {{kind: analytic}}"
        )
