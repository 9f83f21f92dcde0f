"""Prepare: from the rows of a global batch to detached coefficients, before it is cut.

Order: rows and skips; per term the selection, the aggregate's measure, the weights, the rescaling, the coefficient; for score
functions the advantages. Nothing later looks at a statistic of a micro-batch, so how the batch is cut cannot matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentopd.choice import Clock, at
from agentopd.errors import TeacherError
from agentopd.objective.advantages import reward
from agentopd.objective.rows import Reals, Rows
from agentopd.objective.spec import Objective, Term
from agentopd.types import Bools


@dataclass(frozen=True, slots=True)
class PreparedTerm:
    """One term over all rows of the batch; rows it leaves out have coefficient 0."""

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """A global batch, ready to be cut."""

    rows: Rows
    terms: tuple[PreparedTerm, ...]
    metrics: Mapping[str, float]


def prepare(objective: Objective, rows: Rows, clock: Clock) -> Prepared:
    """Computes every coefficient of ``objective`` on ``rows``.

    Raises:
        TeacherError: A term names a teacher that annotated nothing in this batch.
        ValueError: A weight is negative, not finite, or has the wrong length; or a part cannot work on what it was given.
    """
    terms = tuple(_prepare_term(objective, i, rows, clock) for i in range(len(objective.terms)))
    return Prepared(rows, terms, _metrics(objective, terms))


def term_name(objective: Objective, i: int) -> str:
    """The name of term ``i`` in metrics and messages."""
    return objective.terms[i].name or (f"term{i}" if len(objective.terms) > 1 else "loss")


def _prepare_term(objective: Objective, i: int, rows: Rows, clock: Clock) -> PreparedTerm:
    term = objective.terms[i]
    mask_A = _selection(term, rows)
    chosen = rows.select(mask_A)
    measure = objective.aggregate.function(chosen, **objective.aggregate.at(clock))
    weight = _weights(term, chosen, clock)
    scale = _rescaling(measure, weight) if term.rescale else 1.0
    coef_A, weight_A, advantage_A, old_A = (np.zeros(len(rows)) for _ in range(4))
    coef_A[mask_A] = at(term.coefficient, clock) * scale * measure * weight
    weight_A[mask_A] = scale * weight
    if term.scored:
        old_A[mask_A] = _old_logprob(term, chosen)
        advantage_A[mask_A] = _advantages(objective, term, chosen, old_A[mask_A], clock)
    parts = (part.at(clock) for part in (term.support, term.divergence, term.estimator))
    return PreparedTerm(term, coef_A, weight_A, advantage_A, old_A, *parts)


def _selection(term: Term, rows: Rows) -> Bools:
    """Rows the term trains: trainable, selected by ``where``, of episodes that did not fail, and taught by its target."""
    mask_A = rows.trainable_A.copy()
    if not len(rows):
        return mask_A
    intact = np.array([record.trajectory.failure is None for record in rows.records])
    mask_A &= intact[rows.trajectory_A]
    if term.where.actor:
        mask_A &= np.isin(rows.actor_A, term.where.actor)
    if term.where.source:
        mask_A &= np.isin(rows.source_A, term.where.source)
    turns = [term.where.turns(record.trajectory) for record in rows.records]
    starts = np.cumsum([0, *(len(selected) for selected in turns)])
    mask_A &= np.concatenate([*turns, [False]])[starts[rows.trajectory_A] + rows.turn_A].astype(np.bool_)
    return mask_A & _taught(term, rows)


def _taught(term: Term, rows: Rows) -> Bools:
    if term.target.kind == "taken" or term.target.name == "outcome":
        return np.ones(len(rows), np.bool_)
    if term.target.name not in rows.teachers:
        said = ", ".join(rows.teachers) or "no teacher"
        raise TeacherError(
            f"the target {term.target.name!r} annotated nothing in this batch ({said} did); check its where"
        )
    teacher = rows.teachers[term.target.name]
    return teacher.covered_A if term.target.kind == "distribution" else teacher.rewarded_A


def _weights(term: Term, chosen: Rows, clock: Clock) -> Reals:
    """The product of the term's weights."""
    teacher = chosen.teachers[term.target.name] if term.target.kind == "distribution" else None
    product = np.ones(len(chosen))
    for choice in term.weight:
        weight = np.asarray(choice.function(chosen, teacher, **choice.at(clock)), np.float64)
        if weight.shape != product.shape:
            raise ValueError(
                f"weight {choice.kind!r} returned shape {weight.shape} for {len(chosen)} rows; return one number a row"
            )
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError(
                f"weight {choice.kind!r} returned a negative or non-finite number; weights are finite and at least 0"
            )
        product *= weight
    return product


def _rescaling(measure: Reals, weight: Reals) -> float:
    """The factor that preserves the sum of the coefficients over the term's own measure."""
    weighted = float((measure * weight).sum())
    return float(measure.sum()) / weighted if weighted > 0 else 0.0


def _old_logprob(term: Term, chosen: Rows) -> Reals:
    if term.estimator.settings["logprobs"] == "behaviour":
        return chosen.logprob_A
    if chosen.live is None:
        raise ValueError(
            "estimator setting logprobs: recomputed needs the live pass; call prepare on rows.with_live(...)"
        )
    return chosen.live.logprob_A


def _advantages(objective: Objective, term: Term, chosen: Rows, old: Reals, clock: Clock) -> Reals:
    settings = term.estimator.at(clock)
    if term.target.kind == "distribution":
        reward_A = chosen.teachers[term.target.name].taken_A - old
    else:
        reward_A = reward(chosen, term.target.name)
        settings = {**settings, "gamma": _or_one(settings["gamma"]), "turn_gamma": _or_one(settings["turn_gamma"])}
    advantage_A: Reals = term.estimator.function(chosen, reward_A, **settings)
    if term.target.kind == "distribution":
        advantage_A = objective.coupling.function(chosen, advantage_A, **objective.coupling.at(clock))
    return advantage_A


def _or_one(discount: float | None) -> float:
    return 1.0 if discount is None else discount


def _metrics(objective: Objective, terms: tuple[PreparedTerm, ...]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for i, term in enumerate(terms):
        name, on = term_name(objective, i), term.coef_A != 0
        metrics[f"{name}/rows"] = float(on.sum())
        metrics[f"{name}/empty"] = float(not on.any())
        metrics[f"{name}/weight"] = float(term.weight_A[on].mean()) if on.any() else 0.0
        if term.term.scored:
            metrics[f"{name}/advantage"] = float(term.advantage_A[on].mean()) if on.any() else 0.0
            metrics[f"{name}/advantage_std"] = float(term.advantage_A[on].std()) if on.any() else 0.0
    return metrics
