"""What each weight asks: the named statistics that it reads, known before there is a row."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from agentopd.objective.contract import is_own
from agentopd.objective.weights.named import STATISTICS
from agentopd.settings.choice import Choice

Asks: TypeAlias = Callable[[Mapping[str, Any]], tuple[str, ...]]

OF_STUDENT = frozenset({"student_entropy", "surprisal", "depth"})
"""Statistics that take no teacher."""
OF_PLAYED = frozenset({"surprisal", "disagreement", "log_ratio", "drift"})
"""Statistics of the student's log-probability of the token taken: unless recomputed, of the one that it acted with."""


def _fixed(*names: str) -> Asks:
    return lambda settings: names


def _chosen(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(settings[name] for name in ("statistic", "first", "second") if name in settings)


ASKS: Mapping[str, Asks] = {
    "uniform": _fixed(),
    "teacher_entropy": _fixed("teacher_entropy"),
    "teacher_confidence": lambda s: ("teacher_surprisal" if s["token"] == "taken" else "best_surprisal",),
    "top_k_coverage": _fixed("coverage"),
    "epistemic": _fixed("epistemic"),
    "aleatoric": _fixed("aleatoric"),
    "student_entropy": _fixed("student_entropy"),
    "disagreement": _fixed("disagreement"),
    "decay": _chosen,
    "gate": _chosen,
    "top_share": _chosen,
    "soft_or": _chosen,
    "tip": _fixed("student_entropy", "disagreement"),
    "shape": _fixed("surprisal"),
    "importance": _fixed("surprisal"),
    "without_tokens": _fixed(),
    "sod": _fixed("disagreement"),
    "t_dur": _fixed("disagreement", "surprisal"),
    "iw_opd": _fixed("disagreement"),
    "reliability": _fixed("reliability"),
    "until_mistake": _fixed("teacher_surprisal"),
    "pass_rate": _fixed(),
    "reward_softmax": _fixed(),
    "scope": lambda s: ("teacher_surprisal" if s["by"] == "teacher" else "surprisal",),
}


def asks(weight: Choice) -> tuple[str, ...]:
    """The statistics that a weight with its settings reads; of one's own those that its settings name."""
    if is_own(weight):
        return tuple(v for v in weight.settings.values() if isinstance(v, str) and v in STATISTICS)
    return ASKS[weight.kind](weight.settings)


def reads_played(weight: Choice) -> bool:
    """Whether it takes the log-probability that a token was sampled with for the student's; ``importance`` divides by it and does not."""
    read = weight.settings.get("logprobs", "behaviour" if is_own(weight) else "recomputed")
    return read == "behaviour" and not OF_PLAYED.isdisjoint(asks(weight))
