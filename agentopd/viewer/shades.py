"""What tokens can be shaded by: each signal's name, what a person calls it, and how its values are coloured."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.objective.columns import ENSEMBLE
from agentopd.objective.signals import CURRENT_LOGPROB, LOSSES, STUDENT_ENTROPY, WEIGHT

BEHAVIOUR_LOGPROB = "behaviour_logprob"
TEACHER_LOGPROB, TEACHER_ENTROPY, LOG_RATIO = "teacher_logprob", "teacher_entropy", "log_ratio"

SHADED = 95
"""The percentile of a signal that has the full colour."""
SEEN = 64
"""Values of one episode that the percentile looks at."""

_KINDS: tuple[tuple[str, str, str, str], ...] = (
    ("divergence", "loss", "divergence", "how far the student is from the teacher, in nats: the loss before its coefficient"),
    ("nll", "loss", "negative log-likelihood", "of the token that was to be learned, in nats"),
    ("surrogate", "loss", "surrogate loss", "of an estimator of sampled tokens, before its coefficient"),
    (LOG_RATIO, "teacher", "log-ratio", "log-probability of the token by the teacher less that by the student, in nats: below 0 the teacher finds it less likely"),
    *((name, "teacher", f"{name} uncertainty", "of an ensemble of teachers, in nats") for name in ENSEMBLE),
    (TEACHER_ENTROPY, "teacher", "entropy", "of the teacher's distribution, in nats: how unsure it is"),
    (STUDENT_ENTROPY, "student", "student entropy", "of the student's distribution at the optimiser step, in nats"),
    (WEIGHT, "loss", "weight", "how much the token counts: the product of the term's weights"),
    ("advantage", "loss", "advantage", "of a score function"),
    ("coef", "loss", "coefficient", "what multiplies the token's loss; 0 where the term leaves it out"),
    (TEACHER_LOGPROB, "teacher", "log-probability", "of the token by the teacher, in nats"),
    (BEHAVIOUR_LOGPROB, "student", "log-probability when sampled", "of the token in the distribution that it was sampled from, in nats"),
    (CURRENT_LOGPROB, "student", "log-probability when learned from", "of the token by the student at the optimiser step, in nats"),
)  # fmt: skip
"""Kinds of signals in the order in which they are offered: group, what a person calls it, what it says."""

_ORDER = {kind[0]: i for i, kind in enumerate(_KINDS)}


@dataclass(slots=True)
class Shade:
    """What is known of one signal; values are added an episode at a time."""

    name: str
    least: float = 0.0
    most: float = 0.0
    seen: list[NDArray[Any]] = field(default_factory=list)

    def add(self, values: NDArray[Any]) -> None:
        """Takes note of an episode's values, ``nan`` aside."""
        known = values[np.isfinite(values)]
        if len(known):
            self.least, self.most = min(self.least, float(known.min())), max(self.most, float(known.max()))
            self.seen.append(np.abs(known[:: -(-len(known) // SEEN)]).astype(np.float32))

    def plain(self, several: bool) -> dict[str, Any]:
        """The description that the page reads; ``several`` says whether terms have to be told apart."""
        kind, of = kind_of(self.name)
        _, group, label, about = _KINDS[_ORDER[kind]] if kind in _ORDER else ("", "other", self.name, "")
        own = group == "loss"
        if kind in _ORDER and of and (not own or several):
            label = f"{label} · {of}"
        return {
            "name": self.name,
            "label": label,
            "about": about,
            "group": {"loss": "Loss", "teacher": "Teacher", "student": "Student"}.get(group, "Others"),
            "kin": kind,
            "kind": "positive" if self.least >= 0 else "negative" if self.most <= 0 else "signed",
            "scale": self.scale,
        }

    @property
    def scale(self) -> float:
        """The size of a value that has the full colour, above 0."""
        if not self.seen:
            return 1.0
        sizes = np.concatenate(self.seen)
        return float(f"{float(np.percentile(sizes, SHADED)) or float(sizes.max()) or 1.0:.3g}")


def kind_of(name: str) -> tuple[str, str]:
    """The kind of a signal, and the term or teacher that it is of; a name of another form is its own kind."""
    first, _, last = name.partition("/")
    if first in _ORDER:
        return first, last
    term, _, what = name.rpartition("/")
    return (what, term) if what in _ORDER else (name, "")


def ordered(names: Iterable[str]) -> list[str]:
    """Signals in the order in which they are offered; those of one kind as they were met."""
    return sorted(names, key=lambda name: _ORDER.get(kind_of(name)[0], len(_ORDER)))


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the list that is the mean of a signal over an episode's tokens, times ``sign``."""

    signal: str
    label: str
    about: str
    sign: float = 1.0

    def plain(self) -> dict[str, str]:
        """What the page reads."""
        return {"label": self.label, "about": self.about}


_SHORT = {"divergence": "divergence", "nll": "NLL", "surrogate": "surrogate"}


def measure_of_divergence(names: Iterable[str]) -> Measure | None:
    """How far an episode is from what it was to learn: the first term's loss; else an estimate of the KL by what was sampled."""
    known = ordered(names)
    loss = next((name for kind in LOSSES for name in known if kind_of(name)[0] == kind), None)
    if loss is not None:
        return Measure(loss, _SHORT.get(kind_of(loss)[0], "loss"), f"{loss}: mean over the episode's tokens, in nats")
    ratio = next((name for name in known if kind_of(name)[0] == LOG_RATIO), None)
    if ratio is None:
        return None
    of = kind_of(ratio)[1]
    about = f"log-probability by the student less that by {of}, mean over the sampled tokens: estimates KL(student || {of}) in nats"
    return Measure(ratio, "KL estimate", about, -1.0)


def measure_of_uncertainty(names: Iterable[str]) -> Measure | None:
    """How unsure somebody was in an episode: an ensemble, else a teacher, else the student; ``None`` where nothing says it."""
    known = ordered(names)
    wanted = (*ENSEMBLE, TEACHER_ENTROPY, STUDENT_ENTROPY)
    found = next((name for kind in wanted for name in known if kind_of(name)[0] == kind), None)
    return None if found is None else Measure(found, "uncertainty", f"{found}: mean over the episode's tokens, in nats")
