"""Prepare: from the rows of a global batch to detached coefficients, before it is cut.

For each term, in this order: the selection; the aggregate's measure; the weights; the rescaling; the coefficient; for score
functions the advantages. Nothing later looks at a statistic of a micro-batch, so how the batch is cut cannot matter.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentopd.errors import ConfigError
from agentopd.objective.advantages import teacher_of
from agentopd.objective.columns import Reals, TeacherColumns
from agentopd.objective.contract import call, checked_column
from agentopd.objective.numbers import settings_at
from agentopd.objective.rows import Rows
from agentopd.objective.scoring import advantages, old_logprob, taken_logq
from agentopd.objective.selection import Selection
from agentopd.objective.signals import WEIGHT
from agentopd.objective.spec import Objective
from agentopd.objective.term import NOT_NEGATIVE, Term
from agentopd.settings.choice import at
from agentopd.settings.clock import Clock
from agentopd.types import Bools

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedTerm:
    """One term over all rows of the batch; rows it leaves out have coefficient 0."""

    name: str
    key: str
    """Where the term stands in a configuration, for messages."""
    term: Term
    coefficient: float
    """The term's own, at this step."""
    learns_A: Bools
    """Rows that the term learns from, should their weights allow it."""
    coef_A: Reals
    """What multiplies each row's loss: the term's coefficient, its weight, unless a coupling applies that, and the aggregate's measure."""
    weight_A: Reals
    """The product of its weights, rescaled where it says so."""
    advantage_A: Reals
    """Of a score function; 0 of any other."""
    old_A: Reals
    """Of a score function: the student's log-probability, behaviour or recomputed, that an importance ratio divides by; 0 of any other."""
    logq_A: Reals
    """The teacher's log-probability of the token taken, for an estimator that makes the loss of it; 0 for any other."""
    temperature: float
    """Divides the logits of student and teachers, on top of the temperature that was sampled at."""
    settings: Mapping[str, Mapping[str, Any]]
    """Of its target, support, divergence and estimator at this step; a value may be one number a row, [A]."""

    @property
    def reads(self) -> frozenset[str]:
        """The teachers whose whole distributions its loss is formed of."""
        return frozenset(self.term.reads.values() if self.term.reads_distribution else ())

    @property
    def wanted(self) -> bool:
        """Whether it should train something at this step."""
        return self.coefficient > 0

    @property
    def idle(self) -> str | None:
        """Why it trains nothing though it is wanted: a key of :data:`IDLE`; ``None`` where it trains something."""
        if not self.wanted:
            return None
        if not self.learns_A.any():
            return "empty"
        if not (on := self.coef_A != 0).any():
            return "zero_weight"
        return "zero_advantage" if self.term.scored and not self.advantage_A[on].any() else None


IDLE: Mapping[str, str] = {
    "empty": "it has no row to learn from; look at {key}.where, at who acts in the sources, and at what its target covers",
    "zero_weight": "each of its {rows} rows has weight 0; look at {key}.weight and objective.aggregate",
    "zero_advantage": "each of its {rows} rows has advantage 0, as where all episodes of a group end alike; look at {key}.target, "
    "objective.coupling and how hard the tasks are",
}
"""Metrics of a term that are 1 at a step where it is wanted and trains nothing, with what the log says."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A global batch, ready to be cut."""

    rows: Rows
    terms: tuple[PreparedTerm, ...]
    metrics: Mapping[str, float]

    @property
    def trains_nothing(self) -> str | None:
        """Why nothing at all is trained at this step, a reason for each term that is wanted; ``None`` where something is, or none is wanted."""
        wanted = [term for term in self.terms if term.wanted]
        reasons = [f"term {term.name!r}: {_reason(term, term.idle)}" for term in wanted if term.idle]
        return "; ".join(reasons) if wanted and len(reasons) == len(wanted) else None

    @property
    def signals(self) -> dict[str, Reals]:
        """What is known of each row before its loss, [A] each; named as in ``signals.py``."""
        found: dict[str, Reals] = {}
        for term in self.terms:
            found |= {f"{term.name}/coef": term.coef_A, f"{term.name}/{WEIGHT}": term.weight_A}
            if term.term.scored:
                found[f"{term.name}/advantage"] = term.advantage_A
        return found


def prepare(objective: Objective, rows: Rows, clock: Clock) -> Prepared:
    """Computes every coefficient of ``objective`` on ``rows``.

    A term that finds no row, whose weights are 0 on every row, or whose advantages are, has loss and gradient 0: its metric of
    :data:`IDLE` is 1, and the log says so unless the step before was like it. A term whose own coefficient is 0 at this step wants no
    rows, so it is none of these.

    Raises:
        TeacherError: A term names a teacher that annotated nothing in this batch.
        ConfigError: A part raised, returned something else than its contract says, or cannot work on what it was given; or a
            schedule of one's own gives a coefficient below 0.
    """
    terms = tuple(_prepare_term(objective, i, rows, clock) for i in range(len(objective.terms)))
    for term in terms:
        _tell(term, clock)
    return Prepared(rows, terms, _metrics(terms))


def _prepare_term(objective: Objective, i: int, rows: Rows, clock: Clock) -> PreparedTerm:
    key, term = objective.key(i), objective.terms[i]
    selection, coefficient = Selection.of(term, rows), _coefficient(key, term, clock)
    coef_A, weight_A, advantage_A, old_A, logq_A = (np.zeros(len(rows)) for _ in range(5))
    chosen = rows.select(selection.learns_A)
    settings = _settings(key, term, rows, selection, clock)
    if selection.learns_A.any():
        measure = _measure(objective, chosen, clock)
        weight = _weight(key, term, chosen, clock)
        scale = _rescaling(measure, weight) if term.rescale else 1.0
        weight_A = selection.spread(scale * weight)
        on_row = 1.0 if objective.weighs_distillation(term) else scale * weight  # else in the advantage already
        coef_A = selection.spread(coefficient * measure * on_row)
        if term.scored:
            old = old_logprob(key, term, rows)
            advantage = advantages(objective, i, rows, selection, old, weight_A, settings, clock)
            advantage_A, old_A = (selection.spread(one[selection.learns_A]) for one in (advantage, old))
        if term.by_token:
            logq_A = selection.spread(taken_logq(key, term, chosen))
    return PreparedTerm(
        name=objective.names[i],
        key=key,
        term=term,
        coefficient=coefficient,
        learns_A=selection.learns_A,
        coef_A=coef_A,
        weight_A=weight_A,
        advantage_A=advantage_A,
        old_A=old_A,
        logq_A=logq_A,
        temperature=_temperature(key, term, clock),
        settings=settings,
    )


def _settings(key: str, term: Term, rows: Rows, selection: Selection, clock: Clock) -> dict[str, dict[str, Any]]:
    """The settings, at this step, of the parts that a term's loss is made of.

    The target and the divergence of a score function make its rewards. Where their settings are a number a row, they are that on every
    row whose reward counts, since the returns of the rows that the term trains add up rewards of others too.
    """
    learns_A = selection.learns_A
    rewarded_A = selection.counts_A if term.scored and learns_A.any() else learns_A
    found = {}
    for part, on_A in (
        ("target", rewarded_A), ("support", learns_A), ("divergence", rewarded_A), ("estimator", learns_A),
    ):  # fmt: skip
        chosen = rows.select(on_A)
        found[part] = settings_at(f"{key}.{part}", getattr(term, part), clock, chosen, _teacher(term, chosen), on_A)
    return found


def _teacher(term: Term, chosen: Rows) -> TeacherColumns | None:
    """What the term's teacher said of the rows that it trains; ``None`` where its target is no distribution, or there are none."""
    return teacher_of(chosen, term.teacher) if term.teacher is not None and len(chosen) else None


def _coefficient(key: str, term: Term, clock: Clock) -> float:
    """The term's coefficient at this step. Only a schedule of one's own can be below 0: others are checked when the configuration is read."""
    coefficient = float(at(term.coefficient, clock, f"{key}.coefficient"))
    if coefficient < 0.0:
        raise ConfigError(f"{key}.coefficient: the schedule gives {coefficient} at step {clock.step}; {NOT_NEGATIVE}")
    return coefficient


def _temperature(key: str, term: Term, clock: Clock) -> float:
    """The term's temperature at this step, checked as its coefficient is."""
    temperature = float(at(term.temperature, clock, f"{key}.temperature"))
    if temperature <= 0.0:
        raise ConfigError(f"{key}.temperature: the schedule gives {temperature} at step {clock.step}; give more than 0")
    return temperature


def _measure(objective: Objective, chosen: Rows, clock: Clock) -> Reals:
    """How the aggregate averages the rows that a term trains: a number each, whose sum is 1 where the loss is a mean."""
    aggregate = objective.aggregate
    given = call("objective.aggregate", aggregate, aggregate.at(clock), chosen)
    return checked_column("objective.aggregate", aggregate, given, len(chosen), "aggregate")


def _weight(key: str, term: Term, chosen: Rows, clock: Clock) -> Reals:
    """The product of the weights of a term on the rows that it trains."""
    teacher = _teacher(term, chosen)
    product = np.ones(len(chosen))
    for place, choice in term.weights_at(key):
        given = call(place, choice, choice.at(clock), chosen, teacher)
        product *= checked_column(place, choice, given, len(chosen), "weight")
    return product


def _rescaling(measure: Reals, weight: Reals) -> float:
    """The factor that preserves the sum of the coefficients over the term's own measure."""
    weighted = float((measure * weight).sum())
    return float(measure.sum()) / weighted if weighted > 0 else 0.0


def _tell(term: PreparedTerm, clock: Clock) -> None:
    """Logs that a term trains nothing, at the first of the steps in a row at which that is so."""
    if term.idle and not clock.metrics.get(f"objective/{term.name}/{term.idle}"):
        _log.warning("term %r trains nothing from step %d on: %s", term.name, clock.step, _reason(term, term.idle))


def _reason(term: PreparedTerm, idle: str) -> str:
    return IDLE[idle].format(key=term.key, rows=term.learns_A.sum())


def metric_names(term: Term) -> tuple[str, ...]:
    """What :func:`prepare` measures of a term, behind its name."""
    return ("rows", *IDLE, WEIGHT, *(("advantage", "advantage_std") if term.scored else ()))


def _metrics(terms: tuple[PreparedTerm, ...]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for term in terms:
        on = term.coef_A != 0
        weight, advantage = (column[on] if on.any() else np.zeros(1) for column in (term.weight_A, term.advantage_A))
        scored = (advantage.mean(), advantage.std()) if term.term.scored else ()
        values = (on.sum(), *(term.idle == idle for idle in IDLE), weight.mean(), *scored)
        named = zip(metric_names(term.term), values, strict=True)
        metrics |= {f"{term.name}/{what}": float(value) for what, value in named}
    return metrics
