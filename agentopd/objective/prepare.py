"""Prepare: from the rows of a global batch to detached coefficients, before it is cut.

Order: rows and skips; per term the selection, the aggregate's measure, the weights, the rescaling, the coefficient; for score
functions the advantages. Nothing later looks at a statistic of a micro-batch, so how the batch is cut cannot matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentopd.choice import Clock, at
from agentopd.objective.advantages import OUTCOME, Scored, teacher_of
from agentopd.objective.rows import Reals, Rows
from agentopd.objective.spec import Objective, Term
from agentopd.types import Bools


@dataclass(frozen=True, slots=True)
class PreparedTerm:
    """One term over all rows of the batch; rows it leaves out have coefficient 0."""

    name: str
    term: Term
    coef_A: Reals
    weight_A: Reals
    advantage_A: Reals
    old_A: Reals
    """The student's log-probability that an importance ratio divides by."""
    support: Mapping[str, Any]
    divergence: Mapping[str, Any]
    estimator: Mapping[str, Any]
    """Settings of the parts at this step; a value may be one number a row, [A]."""

    @property
    def reads_distribution(self) -> bool:
        """Whether its loss is a divergence from a teacher's distribution."""
        return self.term.target.kind == "distribution" and not self.term.scored


@dataclass(frozen=True, slots=True)
class Prepared:
    """A global batch, ready to be cut."""

    rows: Rows
    terms: tuple[PreparedTerm, ...]
    metrics: Mapping[str, float]


def prepare(objective: Objective, rows: Rows, clock: Clock) -> Prepared:
    """Computes every coefficient of ``objective`` on ``rows``.

    A term that no row takes part in has coefficients 0, hence loss 0, and its metric ``<term>/empty`` is 1.

    Raises:
        TeacherError: A term names a teacher that annotated nothing in this batch.
        ValueError: An aggregate or a weight is negative, not finite, or has the wrong length; or a part cannot work on what
            it was given.
    """
    terms = tuple(_prepare_term(objective, i, rows, clock) for i in range(len(objective.terms)))
    return Prepared(rows, terms, _metrics(terms))


def term_name(objective: Objective, i: int) -> str:
    """The name of term ``i`` in metrics and messages."""
    return objective.terms[i].name or (f"term{i}" if len(objective.terms) > 1 else "loss")


def _prepare_term(objective: Objective, i: int, rows: Rows, clock: Clock) -> PreparedTerm:
    term = objective.terms[i]
    acted_A = _acted(term, rows)
    learns_A = acted_A & _selected(term, rows) & _taught(term, rows)
    chosen = rows.select(learns_A)
    coef_A, weight_A, old_A, advantage_A = (np.zeros(len(rows)) for _ in range(4))
    if learns_A.any():
        coef_A[learns_A], weight_A[learns_A] = _coefficients(objective, term, chosen, clock)
    if term.scored and learns_A.any():
        old = _old_logprob(term, rows)
        old_A[learns_A] = old[learns_A]
        advantage_A[learns_A] = _advantages(objective, term, rows, acted_A, learns_A, old, clock)[learns_A]
    parts = (part.at(clock) for part in (term.support, term.divergence, term.estimator))
    return PreparedTerm(term_name(objective, i), term, coef_A, weight_A, advantage_A, old_A, *parts)


def _acted(term: Term, rows: Rows) -> Bools:
    """Rows of the term's actors and sources: trainable, and of episodes that did not fail."""
    mask_A = rows.trainable_A & _intact(rows)
    if term.scored:
        mask_A &= ~rows.corrected_A
    if term.where.actor:
        mask_A &= np.isin(rows.actor_A, term.where.actor)
    if term.where.source:
        mask_A &= np.isin(rows.source_A, term.where.source)
    return mask_A


def _intact(rows: Rows) -> Bools:
    intact_B = np.array([record.trajectory.failure is None for record in rows.records], np.bool_)
    return intact_B[rows.trajectory_A]


def _selected(term: Term, rows: Rows) -> Bools:
    """Rows of the episodes and turns that ``where`` selects."""
    turns = [term.where.turns(record.trajectory) for record in rows.records]
    starts = np.cumsum([0, *(len(selected) for selected in turns)])
    flags = np.concatenate([np.zeros(0, np.bool_), *turns])
    return flags[starts[rows.trajectory_A] + rows.turn_A]


def _taught(term: Term, rows: Rows) -> Bools:
    """Rows that the target says something of; turns that its teacher skips are not among them."""
    if term.target.kind == "taken" or term.target.name == OUTCOME:
        return np.ones(len(rows), np.bool_)
    if not rows.records:
        return np.zeros(0, np.bool_)
    teacher = teacher_of(rows, term.target.name)
    return teacher.covered_A if term.target.kind == "distribution" else teacher.rewarded_A


def _coefficients(objective: Objective, term: Term, chosen: Rows, clock: Clock) -> tuple[Reals, Reals]:
    """Coefficients and weights of the rows that a term trains, rescaled if it asks for that."""
    aggregate = objective.aggregate
    measure = _column("aggregate", aggregate.kind, aggregate.function(chosen, **aggregate.at(clock)), len(chosen))
    weight = _weights(term, chosen, clock)
    scale = _rescaling(measure, weight) if term.rescale else 1.0
    return at(term.coefficient, clock) * scale * measure * weight, scale * weight


def _weights(term: Term, chosen: Rows, clock: Clock) -> Reals:
    """The product of the term's weights."""
    teacher = teacher_of(chosen, term.target.name) if term.target.kind == "distribution" else None
    product = np.ones(len(chosen))
    for choice in term.weight:
        product *= _column("weight", choice.kind, choice.function(chosen, teacher, **choice.at(clock)), len(chosen))
    return product


def _column(part: str, kind: str, given: Any, size: int) -> Reals:
    """What a part returned, checked: parts may be a user's own."""
    column = np.asarray(given, np.float64)
    if column.shape != (size,):
        raise ValueError(f"{part} {kind!r} returned shape {column.shape} for {size} rows; return one number a row")
    if not np.isfinite(column).all() or (column < 0).any():
        raise ValueError(
            f"{part} {kind!r} returned a negative or non-finite number; every number must be finite and at least 0"
        )
    return column


def _rescaling(measure: Reals, weight: Reals) -> float:
    """The factor that preserves the sum of the coefficients over the term's own measure."""
    weighted = float((measure * weight).sum())
    return float(measure.sum()) / weighted if weighted > 0 else 0.0


def _old_logprob(term: Term, rows: Rows) -> Reals:
    if term.estimator.settings.get("logprobs", "behaviour") == "behaviour":
        return rows.logprob_A
    if rows.live is None:
        raise ValueError(
            "estimator setting logprobs: recomputed needs the live pass; call prepare on rows.with_live(...)"
        )
    return rows.live.logprob_A


def _advantages(
    objective: Objective, term: Term, rows: Rows, acted_A: Bools, learns_A: Bools, old_A: Reals, clock: Clock
) -> Reals:
    """Advantages of all rows, formed on whole episodes; rows that ``where`` leaves out still count in the returns of others."""
    advantage_A = np.zeros(len(rows))
    whole_A = _intact(rows) & ~rows.corrected_A
    episodes, acted, learns = rows.select(whole_A), acted_A[whole_A], learns_A[whole_A]
    if term.target.kind == "reward":
        scored = Scored.by(episodes, learns, acted, term.target.name)
        advantage_A[whole_A] = term.estimator.function(scored, **term.estimator.at(clock))
        return advantage_A
    scored = Scored(episodes, learns, acted, *_log_ratio(episodes, acted, term.target.name, old_A[whole_A]), gamma=0.0)
    advantage = term.estimator.function(scored, **term.estimator.at(clock))
    advantage_A[whole_A] = objective.coupling.function(scored, advantage, **objective.coupling.at(clock))
    return advantage_A


def _log_ratio(rows: Rows, acted_A: Bools, name: str, old_A: Reals) -> tuple[Reals, Bools]:
    """The reward log q(y) - log p(y) where the teacher covers the term's actors, nothing elsewhere; and where that is."""
    teacher = teacher_of(rows, name)
    given_A = teacher.covered_A & acted_A
    ratio_A = np.where(given_A, teacher.taken_A - old_A, 0.0)
    if not np.isfinite(ratio_A).all():
        raise ValueError(
            f"a score function needs finite log-probabilities of the taken tokens from teacher {name!r} and the student; "
            f"{int((~np.isfinite(ratio_A)).sum())} of {int(given_A.sum())} rows have none"
        )
    return ratio_A, given_A


def _metrics(terms: tuple[PreparedTerm, ...]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for term in terms:
        on = term.coef_A != 0
        metrics[f"{term.name}/rows"] = float(on.sum())
        metrics[f"{term.name}/empty"] = float(not on.any())
        metrics[f"{term.name}/weight"] = float(term.weight_A[on].mean()) if on.any() else 0.0
        if term.term.scored:
            metrics[f"{term.name}/advantage"] = float(term.advantage_A[on].mean()) if on.any() else 0.0
            metrics[f"{term.name}/advantage_std"] = float(term.advantage_A[on].std()) if on.any() else 0.0
    return metrics
