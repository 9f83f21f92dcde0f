"""Divergences between two distributions given as log-probabilities on a common support.

Each function takes the student's ``logp`` and the teacher's ``logq``, [..., V], each normalised over the last axis, and returns
[...] in nats, differentiable in the student. ``p`` is the student, ``q`` the teacher. Entries of probability zero are allowed.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import hardshrink, pad

from agentopd.objective.alpha_beta import alpha, alpha_beta, chi_square, power
from agentopd.objective.contract import call, row_values
from agentopd.objective.distributions import log_softmax, mixture
from agentopd.objective.floor import FLOOR, column, floored
from agentopd.objective.generators import f
from agentopd.settings.choice import Choice
from agentopd.settings.parts import OneOf
from agentopd.settings.signature import Registry

Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Clip = Annotated[float, Field(gt=0.0)] | None
"""The most, in nats, that one vocabulary entry contributes: what lies above is cut off before the sum, and has no gradient (OPSD,
arXiv 2601.18734, in its code). Contributions below 0 remain, so a clipped KL may be negative; a clipped JSD is not."""


def forward_kl(logp: Tensor, logq: Tensor, *, clip: Clip = None) -> Tensor:
    """KL(q || p) = sum q log(q / p): mode covering. Gradient in the student's logits: p - q.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        clip: The most, in nats, that one vocabulary entry contributes; ``null`` for no bound.
    """
    logp, logq = floored(logp, logq)
    return _summed(logq.exp() * (logq - logp), clip)


def reverse_kl(logp: Tensor, logq: Tensor, *, clip: Clip = None) -> Tensor:
    """KL(p || q) = sum p log(p / q): mode seeking (MiniLLM, arXiv 2306.08543).

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        clip: The most, in nats, that one vocabulary entry contributes; ``null`` for no bound.
    """
    return forward_kl(logq, logp, clip=clip)


def jsd(logp: Tensor, logq: Tensor, *, beta: Share = 0.5, clip: Clip = None) -> Tensor:
    """Generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649, eq. 1), unscaled.

    m = beta q + (1 - beta) p;  beta KL(q || m) + (1 - beta) KL(p || m). Divided by beta it tends to the forward KL as beta
    goes to 0, divided by 1 - beta to the reverse KL as beta goes to 1; itself it tends to 0 at both ends. ``clip`` bounds an
    entry's part of the whole, not of each KL.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        beta: The teacher's share of m.
        clip: The most, in nats, that one vocabulary entry contributes; ``null`` for no bound.
    """
    logp, logq = floored(logp, logq)
    logm, share = _between(logq, logp, beta), column(beta)
    theirs, ours = logq.exp() * (logq - logm), logp.exp() * (logp - logm)
    return _summed(share * theirs + (1.0 - share) * ours, clip)


def skew_forward_kl(logp: Tensor, logq: Tensor, *, alpha: Share = 0.1, clip: Clip = None) -> Tensor:
    """KL(q || alpha q + (1 - alpha) p) (DistiLLM, arXiv 2402.03898, eq. 4).

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        alpha: The teacher's share of the mixture.
        clip: The most, in nats, that one vocabulary entry contributes; ``null`` for no bound.
    """
    return forward_kl(_between(logq, logp, alpha), logq, clip=clip)


def skew_reverse_kl(logp: Tensor, logq: Tensor, *, alpha: Share = 0.1, clip: Clip = None) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) (DistiLLM, arXiv 2402.03898, eq. 5).

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        alpha: The student's share of the mixture.
        clip: The most, in nats, that one vocabulary entry contributes; ``null`` for no bound.
    """
    return forward_kl(_between(logp, logq, alpha), logp, clip=clip)


def adaptive_kl(logp: Tensor, logq: Tensor, *, mass: Share = 0.5) -> Tensor:
    """w KL(q || p) + (1 - w) KL(p || q), w detached (AKL, arXiv 2404.02657).

    w is the share of sum |q - p| that lies in the teacher's head: the fewest of its most likely tokens that hold at least
    ``mass``, and all that are as likely as the last of them. Where p = q that share is 0/0, and w is 1/2: value and gradient
    are 0 there whatever it is.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        mass: The least probability that the teacher's head holds.
    """
    share = head_share(logp, logq, column(mass))
    return share * forward_kl(logp, logq) + (1.0 - share) * reverse_kl(logp, logq)


SLACK = 1e-6
"""Of a sum of probabilities in float32."""


@torch.no_grad()
def head_share(logp: Tensor, logq: Tensor, mass: float | Tensor) -> Tensor:
    """The share [...] of sum |q - p| that lies in the teacher's head, ``mass`` a number or a column; 1/2 where p = q."""
    ordered = logq.sort(-1, descending=True).values
    likely = ordered.exp()
    held = likely.cumsum(-1) - likely + SLACK  # so that what holds ``mass`` but for rounding holds it
    size = (held < mass).sum(-1, keepdim=True)
    head = logq >= ordered.gather(-1, (size - 1).clamp_min(0))
    gap = (logq.exp() - logp.exp()).abs()
    whole = gap.sum(-1)
    return ((gap * head).sum(-1) / whole).where(whole != 0, 0.5)


def todi(logp: Tensor, logq: Tensor) -> Tensor:
    """sum_v w_v q log(q / p) + (1 - w_v) p log(p / q), w = sigmoid(log q - log p) detached (ToDi, arXiv 2505.16297).

    Its value is that of :func:`jeffreys`, since w = q / (p + q); its gradient is not.
    """
    logp, logq = floored(logp, logq)
    ratio = logq - logp
    weight = ratio.detach().sigmoid()
    return (ratio * (weight * logq.exp() - (1.0 - weight) * logp.exp())).sum(-1)


def jeffreys(logp: Tensor, logq: Tensor) -> Tensor:
    """KL(q || p) + KL(p || q) = sum (q - p) log(q / p) (Jeffreys, 1946)."""
    logp, logq = floored(logp, logq)
    return ((logq.exp() - logp.exp()) * (logq - logp)).sum(-1)


def total_variation(logp: Tensor, logq: Tensor) -> Tensor:
    """sum |q - p| / 2, at most 1 (of language models: f-distill, arXiv 2307.15190).

    Its gradient is that of a sign, so log-probabilities that differ by rounding (``rounding``) count as equal: else a student
    that is the teacher would be pushed about.
    """
    ratio = torch.sub(*floored(logq.detach(), logp.detach()))
    return 0.5 * ((logq.exp() - logp.exp()) * hardshrink(ratio, rounding(ratio.dtype)).sign()).sum(-1)


def uld(logp: Tensor, logq: Tensor) -> Tensor:
    """sum_i |p_(i) - q_(i)|, p_(i) the i-th largest probability (ULD, arXiv 2402.12030: the Wasserstein distance between the
    two where every two tokens are equally far apart): at most 2.

    It does not ask which token has a probability, so the two may stand over vocabularies of different sizes: the smaller is filled
    up with zeros. It is 0 also where the student gives the teacher's probabilities to other tokens. As in :func:`total_variation`
    what differs by rounding counts as equal.
    """
    logp, logq = (one.sort(-1, descending=True).values for one in floored(logp, logq.detach()))
    size = max(logp.shape[-1], logq.shape[-1])
    logp, logq = (pad(one, (0, size - one.shape[-1]), value=FLOOR) for one in (logp, logq))
    sign = hardshrink((logp - logq).detach(), rounding(logp.dtype)).sign()
    return ((logp.exp() - logq.exp()) * sign).sum(-1)


Inner: TypeAlias = Literal["jsd", "forward_kl", "reverse_kl"]
NotNegative = Annotated[float, Field(ge=0.0)]


def gold(
    logp: Tensor,
    logq: Tensor,
    *,
    by: Inner = "jsd",
    beta: Share = 0.5,
    matched: NotNegative = 1.0,
    unmatched: NotNegative = 1.0,
) -> Tensor:
    """The hybrid of GOLD (TRL, 2025): ``by`` on the tokens that both vocabularies have, :func:`uld` on the others.

        matched m D(p | M, q | M)  +  unmatched sum_i |p_(i) - q_(i)| over the tokens outside of M

    M are the tokens of the same bytes, m the teacher's mass on them, D is ``by``, of the two distributions given that the token
    is in M; ``beta`` is that of ``jsd``. Over one vocabulary, as here, M is everything: it is matched D(p, q). What tokens of
    different lengths mean, and where this differs from TRL's code, is said in ``apart.py``.

    Args:
        logp: The student's log-probabilities, [..., V].
        logq: The teacher's, likewise.
        by: The divergence on matched tokens.
        beta: That of ``jsd``.
        matched: The weight of matched tokens.
        unmatched: The weight of the others.
    """
    value: Tensor = matched * DIVERGENCES[by](logp, logq, **inner_settings(by, beta))
    return value


def inner_settings(by: Inner, beta: float | Tensor) -> dict[str, Any]:
    """The settings of the divergence that :func:`gold` takes on matched tokens."""
    return {"beta": beta} if by == "jsd" else {}


def rounding(dtype: torch.dtype) -> float:
    """How much two computations of one log-probability may differ by."""
    return 128.0 * torch.finfo(dtype).eps


def _summed(contribution: Tensor, clip: float | Tensor | None) -> Tensor:
    """The sum over the vocabulary, each entry at most ``clip``."""
    return contribution.sum(-1) if clip is None else contribution.clamp_max(column(clip)).sum(-1)


def _between(loga: Tensor, logb: Tensor, share: float | Tensor) -> Tensor:
    """log(share a + (1 - share) b), with a gradient also where one is 0."""
    loga, logb = floored(loga, logb)
    return mixture(((share, loga), (1.0 - share, logb)))


DIVERGENCES: Registry = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "adaptive_kl": adaptive_kl,
    "todi": todi,
    "jeffreys": jeffreys,
    "total_variation": total_variation,
    "chi_square": chi_square,
    "alpha": alpha,
    "alpha_beta": alpha_beta,
    "power": power,
    "f": f,
    "uld": uld,
    "gold": gold,
}


def divergence(
    kind: str, student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, **parameters: Any
) -> Tensor:
    """The divergence ``kind`` between the softmax of two sets of logits, in float32 or better.

    Args:
        kind: A key of ``DIVERGENCES`` or an import path ``package.module:name``.
        student_logits: [..., V]; gradients flow into these.
        teacher_logits: [..., V]; detached.
        temperature: Both are divided by it.
        **parameters: The divergence's own, such as ``beta``.

    Returns:
        [...] in nats.

    Raises:
        ValueError: The kind or a parameter does not exist; the shapes differ; a number is out of range; or one's own divergence
            returns no number a row, or lets no gradient through though gradients are enabled.
    """
    check_tensors(student_logits=student_logits, teacher_logits=teacher_logits)
    if student_logits.shape != teacher_logits.shape or not student_logits.ndim or not student_logits.shape[-1]:
        raise ValueError(
            f"student_logits {tuple(student_logits.shape)} and teacher_logits {tuple(teacher_logits.shape)} differ in shape or "
            "have no entries; give [..., V] each, over one vocabulary (cut padding columns from the larger)"
        )
    check_temperature(temperature)
    choice = choose(kind, parameters)
    logp = log_softmax(student_logits, temperature)
    logq = log_softmax(teacher_logits.detach(), temperature)
    return row_values("", choice, call("", choice, choice.settings, logp, logq), logp)


def choose(kind: str, parameters: Mapping[str, Any]) -> Choice:
    """A divergence and its settings, checked outside of a run: schedules have no clock there."""
    choice = OneOf("divergence", DIVERGENCES).validate({"kind": kind, **parameters})
    for name, value in choice.settings.items():
        if isinstance(value, Choice):
            raise ValueError(f"divergence {kind!r}: {name} is a schedule, which only a run can follow; give a number")
    return choice


def check_tensors(**given: Any) -> None:
    """Refuses arrays and lists; ``None`` is for what may be left out."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}; give a torch tensor")


def check_temperature(temperature: float) -> None:
    """Refuses a temperature that makes no distribution."""
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
