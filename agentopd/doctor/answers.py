"""What teachers say: whether they answer, whether they say the same twice, and whether a teacher like the student teaches nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

import agentopd.serving.scorer as scorer
from agentopd.chat.tokenizer import special_ids
from agentopd.config.asked import grouped_by
from agentopd.doctor.check import Check, failed
from agentopd.doctor.patient import Patient, UnavailableError
from agentopd.errors import AgentOPDError, describe
from agentopd.forward import hidden_states
from agentopd.models import head_of
from agentopd.objective import Head, Objective, loss
from agentopd.objective.contract import is_own
from agentopd.objective.prepare import IDLE
from agentopd.objective.term import Term
from agentopd.rollout import Rollout
from agentopd.settings.choice import Choice
from agentopd.settings.clock import Clock
from agentopd.teachers import Teacher, annotate, traits_of
from agentopd.teachers.asking import Asking
from agentopd.training.checks.roles import annotators
from agentopd.training.loop.learner import Learner
from agentopd.types import Annotation, Record, Trajectory
from agentopd.where import Where

TEACHERS, TWICE, ITSELF, TEMPERATURE = "teachers", "same answer twice", "teacher = student", "temperature"
SAME = 1e-3
"""Nats by which two answers may differ."""
ROUNDED = scorer.SAME
"""Nats by which they may on average, where the model reads in half precision."""
NOTHING = 1e-3
"""The share of the loss and gradient of the tokens taken, below which those of a divergence are rounding; half precision rounds more."""
COARSE = 5e-2


def teachers(patient: Patient) -> Iterator[Check]:
    """Whether each teacher can be made: its weights are there, its server answers, its key is set."""
    for name, choice in patient.choices.items():
        key = f"teachers.{name}"
        try:
            patient.teacher(name)
        except UnavailableError as error:
            yield Check(TEACHERS, "skip", f"{key}: {error}")
        except AgentOPDError as error:
            yield failed(TEACHERS, error)
        except Exception as error:
            yield Check(TEACHERS, "fail", f"{key}: {describe(error)}", f"look at teachers.{name}")
        else:
            yield Check(TEACHERS, "pass", f"{key}: {_told(choice)}")
    if not patient.choices:
        yield Check(TEACHERS, "skip", "the method asks none")


def _told(choice: Choice) -> str:
    return f"{choice.settings['url']} answers" if "url" in choice.settings else f"there ({choice.kind})"


def twice(patient: Patient) -> Iterator[Check]:
    """Whether each teacher says the same about the same episodes when it is asked again."""
    asked = annotators(patient.config.objective, patient.teachers)
    choices = {name: patient.choices[name] for name in asked}
    asked = {name: _plain_of(asked[name], one) for name, one in choices.items() if not traits_of(one).recorded}
    if not asked:
        yield Check(TWICE, "skip", "there is no teacher to ask")
        return
    played = patient.intact
    limit = patient.config.rollout.max_new_tokens
    first = [list(one.annotations) for one in annotate(asked, played, limit)]
    for teacher in asked.values():
        if isinstance(teacher, Asking):
            teacher.forget()  # or nobody would be asked
    second = [list(one.annotations) for one in annotate(asked, played, limit)]
    for place, (name, teacher) in enumerate(asked.items()):
        one, other = ([said[place] for said in some] for some in (first, second))
        if all(said.skip_S.all() for said in one):
            yield silent(f"teachers.{name}", teacher, choices[name], len(one))
        else:
            yield repeated(f"teachers.{name}", one, other, kept=isinstance(teacher, Asking))


def _plain_of(teacher: Teacher, choice: Choice) -> Teacher:
    """The teacher with its rewards as it gives them: in a group that agrees they would be 0, whatever they are."""
    grouped = choice.settings.get("normalised") == "group" and not is_own(choice)
    return cast(Teacher, replace(cast(Any, teacher), normalised="none")) if grouped else teacher


def silent(key: str, teacher: Teacher, choice: Choice, episodes: int) -> Check:
    """What is to be said of the teacher ``key`` that says nothing of any turn of some episodes."""
    found, warm_up = f"{key} says nothing of any turn of {episodes} episodes", choice.settings.get("warm_up")
    unusable = isinstance(teacher, Asking) and teacher.counted["skipped"]
    if unusable:
        remedy = f"look at what its model answers; raise max_completion_tokens in {key}.options where that is broken off, or change {key}.prompt"
        return Check(TWICE, "warn", f"{found}: no answer of its server's could be used", remedy)
    if traits_of(choice).compares and warm_up:
        return Check(TWICE, "skip", f"{found}: it gives no rewards through its warm_up={warm_up}")
    setting, why, _ = grouped_by(choice) or ("", "", "")
    if why and setting != "normalised=group":
        return Check(TWICE, "skip", f"{found}, as may be among so few ({why})")
    return Check(TWICE, "warn", found, f"look at {key}.where, and at what it can read")


def repeated(key: str, first: Sequence[Annotation], second: Sequence[Annotation], kept: bool = False) -> Check:
    """Two answers of the teacher ``key`` about the same episodes; ``kept`` where a run asks each question once and keeps the answer."""
    off = max((_apart(*pair) for pair in zip(first, second, strict=True)), default=0.0)
    if off > SAME and _is_rounding(first, second):
        return Check(
            TWICE,
            "warn",
            f"{key} answers the same question differently by up to {off:.3g} nats, though hardly on average, as a model does in half "
            "precision beside other requests",
            "nothing need be done where it reads in half precision; else set its temperature or sampling to 0, or switch off dropout",
        )
    how = "in what it teaches" if np.isinf(off) else f"by up to {off:.3g}"
    if off > SAME and kept:
        return Check(
            TWICE,
            "warn",
            f"{key} answers the same question differently, {how}; a run keeps its first answer",
            f"set {key}.options.temperature: 0 where its model takes that",
        )
    if off > SAME:
        return Check(
            TWICE,
            "fail",
            f"{key} answers the same question differently, {how}",
            "set its temperature or sampling to 0, switch off dropout, or serve it without changes of precision between batches",
        )
    return Check(TWICE, "pass", f"{key}: the same to {off:.1g}")


def _is_rounding(first: Sequence[Annotation], second: Sequence[Annotation]) -> bool:
    """Whether they differ in log-probabilities and entropies alone, and hardly on average."""
    if np.isinf(max(map(_apart, first, second))):
        return False
    for name, most in (("reward_S", 0.0), ("taken_logprob_N", ROUNDED), ("entropy_N", ROUNDED)):
        one, other = (np.concatenate([getattr(said, name) for said in some]) for some in (first, second))
        off = np.abs(one - other)[~np.isnan(one)]
        if len(off) and not off.mean() <= most:
            return False
    return True


def _apart(one: Annotation, other: Annotation) -> float:
    """By how much two annotations differ; infinitely where they do in which tokens, turns or actions they are about."""
    if one.corrected_S != other.corrected_S or any(
        not np.array_equal(getattr(one, name), getattr(other, name)) for name in ("segment_N", "index_N", "skip_S")
    ):
        return np.inf
    columns = [(getattr(one, n), getattr(other, n)) for n in ("taken_logprob_N", "entropy_N", "reward_S")]
    if any((np.isnan(a) != np.isnan(b)).any() for a, b in columns):
        return np.inf
    return max((float(np.nanmax(np.abs(a - b))) for a, b in columns if not np.isnan(a).all()), default=0.0)


def itself(patient: Patient) -> Iterator[Check]:
    """Whether the method's divergences, towards a teacher that is the student itself, are zero, and their gradient too."""
    objective = patient.config.objective
    exact = is_uncut(patient.config.rollout)
    pure = [term for term in objective.terms if is_pure(term) or (exact and is_log_ratio(term))]
    if not pure:
        yield Check(ITSELF, "skip", "no term of the method is a plain divergence from one teacher's distribution")
        return
    names = sorted({name for term in pure for name in term.reads.values()})
    mirrors = {name: patient.mirror(name) for name in names}
    played = patient.intact
    records = annotate(mirrors, played)
    heads = {name: head for one in mirrors.values() for name, head in one.heads.items()}
    weighed = _measured(patient, pure, objective, records, heads)
    taken = [Term(target={"kind": "taken"}, where=Where())]
    whole = _measured(patient, taken, objective, records, heads)
    yield vanishing(weighed, whole, patient.student.dtype)


def is_pure(term: Term) -> bool:
    """Whether it is a divergence from a teacher's own distribution, which is zero where that is the student's.

    Not one on a support that makes a distribution of one side's tokens alone: that one is never zero.
    """
    of_support = term.support.settings
    alike = of_support.get("normalise_teacher") == of_support.get("normalise_student")
    return term.target.kind == "distribution" and (term.analytic or term.by_token) and alike


def is_log_ratio(term: Term) -> bool:
    """Whether its advantage is the log-ratio of teacher and student at the token taken, which is zero likewise."""
    return (
        term.target.kind == "distribution"
        and term.estimator.kind == "score_function"
        and term.divergence.kind == "reverse_kl"
    )


def is_uncut(rollout: Rollout) -> bool:
    """Whether tokens are sampled from the whole distribution, so that their log-probabilities are those of the model."""
    return rollout.temperature > 0 and rollout.top_p == 1 and not rollout.top_k


@dataclass(frozen=True, slots=True)
class Measured:
    """A loss, and the norm of its gradient in the student's last hidden states."""

    loss: float
    gradient: float


def _measured(
    patient: Patient, terms: Sequence[Term], like: Objective, records: Sequence[Record], heads: Mapping[str, Head]
) -> Measured:
    """What some terms, unweighted and on all tokens, give on ``records``."""
    plain = tuple(map(_plain, terms))
    objective = like.model_copy(update={"terms": plain, "coupling": Objective().coupling})
    config = patient.config.model_copy(update={"objective": objective})
    learner, student = Learner(config, heads, special_ids(patient.tokenizer)), patient.student
    told = {
        f"objective/{name}/{idle}": 1.0 for name in objective.names for idle in IDLE
    }  # so that nothing is logged of it
    _, batches = learner.prepare(student, records, Clock(0, config.train.steps, told))
    total, square = 0.0, 0.0
    for batch in batches:
        there = batch.to(patient.device)
        with torch.no_grad():
            hidden_B_T_H = hidden_states(student, there.input_ids_B_T, there.position_ids_B_T)
        hidden_A_H = hidden_B_T_H[there.sample_A, there.position_A].requires_grad_()
        found = loss(hidden_A_H, head_of(student), heads, there, config.temperature, config.train.chunk_rows).loss
        [gradient] = torch.autograd.grad(found, hidden_A_H)
        total, square = total + float(found.detach()), square + float(gradient.double().square().sum())
    return Measured(total, square**0.5)


def _plain(term: Term) -> Term:
    """The term on every token, without weights; a score function without what would make something of rounding."""
    estimator = term.estimator
    if is_log_ratio(term):
        estimator = replace(estimator, settings={**estimator.settings, "baseline": "none", "whitened": False})
    return term.model_copy(update={"weight": (), "where": Where(), "rescale": False, "estimator": estimator})


def vanishing(found: Measured, whole: Measured, dtype: torch.dtype) -> Check:
    """Whether ``found`` is nothing beside ``whole``, the loss of the tokens taken."""
    limit = NOTHING if dtype in (torch.float32, torch.float64) else COARSE
    share = max(abs(found.loss) / (abs(whole.loss) or 1.0), found.gradient / (whole.gradient or 1.0))
    told = f"loss {found.loss:.2g}, gradient {found.gradient:.2g} (of the tokens taken: {whole.loss:.2g}, {whole.gradient:.2g})"
    if share <= limit:
        return Check(ITSELF, "pass", told)
    return Check(
        ITSELF,
        "fail",
        f"a teacher that is the student itself would change it: {told}",
        "look at the divergence: it must be 0, and smallest, where both distributions are equal",
    )


def temperature(patient: Patient) -> Iterator[Check]:
    """Whether what was sampled is as probable as the learner, and the teachers, take it to be."""
    rollout = patient.config.rollout
    if rollout.temperature == 0:
        yield Check(
            TEMPERATURE,
            "warn",
            "rollout.temperature=0: the student always does the same, and is compared with its teachers at 1",
            "set rollout.temperature: 1.0, so that training meets what the student might do",
        )
        return
    if not is_uncut(rollout):
        cut = f"rollout.top_p={rollout.top_p:g}" if rollout.top_p < 1 else f"rollout.top_k={rollout.top_k}"
        yield Check(
            TEMPERATURE,
            "warn",
            f"{cut} samples from fewer tokens than student and teachers are compared on",
            "set rollout.top_p: 1.0 and rollout.top_k: 0, unless the model breaks down without them",
        )
        return
    played = patient.intact
    said = patient.mirror("student").annotate(played)
    yield parity(played, said, rollout.temperature, patient.student.dtype)


def parity(played: Sequence[Trajectory], said: Sequence[Annotation], temperature: float, dtype: torch.dtype) -> Check:
    """The log-probabilities with which tokens were sampled beside those that the learner computes of them."""
    off = np.concatenate(
        [
            np.abs(one.taken_logprob_N[of_s] - segment.logprob_T[one.index_N[of_s]])
            for trajectory, one in zip(played, said, strict=True)
            for s, segment in enumerate(trajectory.segments)
            for of_s in [one.segment_N == s]
        ]
        or [np.zeros(0)]
    )
    worst = float(off.max(initial=0.0))
    limit = 1e-2 if dtype in (torch.float32, torch.float64) else 0.5
    told = f"rollout, student and teachers at {temperature:g}; log-probabilities of {len(off)} sampled tokens agree to {worst:.1g}"
    if worst <= limit:
        return Check(TEMPERATURE, "pass", told)
    return Check(
        TEMPERATURE,
        "fail",
        f"what was sampled at temperature {temperature:g} is as probable as the learner takes it to be only up to {worst:.2g} nats",
        "set student.dtype: float32 or student.attention: eager, and look again; an engine of your own must sample at rollout.temperature",
    )
