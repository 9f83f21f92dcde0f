"""What each weight asks: the named statistics that it reads, known before there is a row."""

from agentopd.objective.contract import is_own
from agentopd.objective.weights.marks import Asked
from agentopd.objective.weights.named import STATISTICS
from agentopd.settings.choice import Choice

OF_STUDENT = frozenset({"student_entropy", "surprisal", "depth"})
"""Statistics that take no teacher."""
OF_PLAYED = frozenset({"surprisal", "disagreement", "log_ratio", "drift"})
"""Statistics of the student's log-probability of the token taken: unless recomputed, of the one that it acted with."""


def asks(weight: Choice) -> tuple[str, ...]:
    """The statistics that a weight with its settings reads, as it is marked; of one's own those that its settings name."""
    if is_own(weight):
        return tuple(v for v in weight.settings.values() if isinstance(v, str) and v in STATISTICS)
    marked: tuple[Asked, ...] = getattr(weight.function, "statistics", ())
    return tuple(one if isinstance(one, str) else one(weight.settings) for one in marked)


def reads_played(weight: Choice) -> bool:
    """Whether it takes the log-probability that a token was sampled with for the student's; ``importance`` divides by it and does not."""
    read = weight.settings.get("logprobs", "behaviour" if is_own(weight) else "recomputed")
    return read == "behaviour" and not OF_PLAYED.isdisjoint(asks(weight))
