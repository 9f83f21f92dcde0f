"""Targets: towards what a term is trained.

``taken`` is the token itself, ``reward`` a number for each turn. Every other target is a distribution: one that a teacher gives, or
one that is made of some by a function of log-probabilities. ``p`` is the student, detached; ``q`` and ``r`` are teachers.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from agentopd.objective.advantages import OUTCOME
from agentopd.objective.contract import call, targeted
from agentopd.objective.floor import FLOOR, columns
from agentopd.objective.naming import Distribution, TeacherName
from agentopd.settings.choice import Choice
from agentopd.settings.signature import F, Registry

TEACHER: Any = "teacher"
REFERENCE: Any = "reference"


def pointwise(target: F) -> F:
    """Marks a target whose value at a token depends on the log-probabilities of that token alone, so that a score function may use it."""
    target.pointwise = True  # type: ignore[attr-defined]
    return target


def taken() -> None:
    """The token that was taken: supervised learning."""


def reward(*, name: TeacherName = OUTCOME) -> None:
    """A reward, of the teacher ``name`` or, as ``outcome``, the episode's own, for a score function.

    Args:
        name: The teacher that rewards, or ``outcome``.
    """


@pointwise
def distribution(logp: Tensor, *, name: Distribution = TEACHER) -> Tensor:
    """The distribution of the teacher ``name`` itself.

    Args:
        logp: The student's log-probabilities.
        name: The teacher.
    """
    return name


@pointwise
def extrapolate(
    logp: Tensor, *, name: Distribution = TEACHER, reference: Distribution = REFERENCE, by: float = 1.25
) -> Tensor:
    """q^by r^(1 - by), normalised: ``by`` 1 is the teacher, more goes past it, away from the reference.

    G-OPD, ExOPD (arXiv 2602.12125): the reward by (log q - log r) - (log p - log r), whose expected gradient is that of the reverse
    KL to this target. A probability of 0 counts as e^``FLOOR``, of teacher and reference alike: a token of probability 0 under q
    has 0, and where ``by`` is above 1 tokens of probability 0 under r alone have all of it, as the limit is.

    Args:
        logp: The student's log-probabilities.
        name: The teacher q.
        reference: The teacher r.
        by: How far towards q, from r; 1 is q itself.
    """
    return extrapolated(name, reference, by)


def extrapolated(logq: Tensor, logr: Tensor, by: float | Tensor) -> Tensor:
    """The logarithm of q^by r^(1 - by) up to a number a row, of logits or log-probabilities; ``by`` a number or a column."""
    return by * logq + (1.0 - by) * logr


@pointwise
def geometric(
    logp: Tensor, *, name: Distribution = TEACHER, beta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
) -> Tensor:
    """q p^beta, normalised (Veto, arXiv 2601.07155): near the student where it is sure. Fixed point p = q^(1 / (1 - beta)).

    Args:
        logp: The student's log-probabilities.
        name: The teacher q.
        beta: The power of the student's own distribution.
    """
    return name + beta * logp


@pointwise
def interpolate(
    logp: Tensor, *, name: Distribution = TEACHER, share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
) -> Tensor:
    """softmax((1 - share) logits of p + share logits of q) (TAID, arXiv 2501.16937, eq. 4).

    Args:
        logp: The student's log-probabilities.
        name: The teacher q.
        share: The teacher's share of the logits.
    """
    return (1.0 - share) * logp + share * name


@pointwise
def sharpened(
    logp: Tensor, *, name: Distribution = TEACHER, temperature: Annotated[float, Field(ge=1e-3)] = 0.5
) -> Tensor:
    """q^(1 / temperature), normalised: a surer teacher below 1, a less sure one above. At 0.001 it is its likeliest token, or all but.

    Args:
        logp: The student's log-probabilities.
        name: The teacher q.
        temperature: What its log-probabilities are divided by.
    """
    return name / temperature


def aligned(
    logp: Tensor,
    *,
    name: Distribution = TEACHER,
    reference: Distribution = REFERENCE,
    scale: Annotated[float, Field(gt=0.0)] = 1.0,
    least: Annotated[float, Field(gt=0.0)] = 1e-3,
) -> tuple[Tensor, Tensor]:
    """softmax(z_q + w (z_q - z_r)), the loss divided by w = scale * sum |q - r| + least (AlignDistil, arXiv 2503.02832).

    The further a preferred model is from its reference at a token, the further past it the target lies.

    Args:
        logp: The student's log-probabilities.
        name: The teacher q, a model that was preferred.
        reference: The teacher r, which it was made of.
        scale: How far w follows the distance of the two.
        least: The w where they agree.
    """
    w_N_1 = scale * (name.exp() - reference.exp()).abs().sum(-1, keepdim=True) + least
    return name + w_N_1 * (name - reference), (1.0 / w_N_1).squeeze(-1)


TARGETS: Registry = {
    "distribution": distribution,
    "taken": taken,
    "reward": reward,
    "extrapolate": extrapolate,
    "geometric": geometric,
    "interpolate": interpolate,
    "sharpened": sharpened,
    "aligned": aligned,
}
NO_DISTRIBUTION = {"taken", "reward"}


def is_pointwise(target: Choice) -> bool:
    """Whether a score function may use a target."""
    return bool(getattr(target.function, "pointwise", False))


@torch.no_grad()
def whole(
    key: str, target: Choice, settings: Mapping[str, Any], logp_N_V: Tensor, named: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The target's log-probabilities [N, V], and what each row's loss is multiplied by, [N], or ``None``.

    Args:
        key: Where the target stands in a configuration.
        target: It.
        settings: Its settings at this step, a number or one a row.
        logp_N_V: The student's log-probabilities.
        named: Those of the teachers, by the settings that name them.
    """
    if target.kind == "distribution":
        return named["name"], None
    floored = {name: logq_N_V.clamp_min(FLOOR) for name, logq_N_V in named.items()}
    given = call(key, target, columns(settings) | floored, logp_N_V.clamp_min(FLOOR))
    log_N_V, factor_N = targeted(key, target, given, logp_N_V)
    return log_N_V.log_softmax(-1), factor_N


@torch.no_grad()
def of_taken(
    key: str, target: Choice, settings: Mapping[str, Any], logp_A: Tensor, named: Mapping[str, Tensor]
) -> Tensor:
    """Its log-probability [A] of the tokens taken, not normalised: the number that is left out depends on the state alone.

    So the expected gradient does not see it where gamma is 0 and nothing is clipped. In a return the number of a later state counts
    for the tokens before it, which is not the gradient of a divergence from the normalised target.
    """
    return call(key, target, {**settings, **named}, logp_A)  # type: ignore[no-any-return]
