"""What the sources of a method give to a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentopd.acting import ROUNDING
from agentopd.errors import ConfigError
from agentopd.objective.source import Source
from agentopd.rollout import Rollout
from agentopd.rollout.stream import Lot
from agentopd.settings.choice import at
from agentopd.settings.clock import Clock
from agentopd.types import STUDENT, Trajectory


@dataclass(frozen=True, slots=True)
class Part:
    """What one source gives to a step."""

    name: str
    source: Source
    given: list[Trajectory] = field(default_factory=list)
    lot: Lot | None = None
    """Episodes to be played, where there are any."""

    def __len__(self) -> int:
        return len(self.given) if self.lot is None else len(self.lot.assignments)


def staleness(fresh: Sequence[Trajectory], step: int) -> dict[str, float]:
    """By how many optimiser steps the weights that wrote the student's turns are older than those of ``step``: mean and maximum."""
    old = [step - turn.policy_version for one in fresh for turn in one.turns if turn.actor == STUDENT]
    return {"rollout/staleness": sum(old) / len(old), "rollout/staleness_max": float(max(old))} if old else {}


def capped(rollout: Rollout, source: Source, clock: Clock, key: str) -> Rollout:
    """The rollout with the caps of ``source``, whose key is ``key``, at ``clock``.

    Raises:
        ConfigError: A schedule of one's own gives a cap below 1.
    """
    caps = {}
    for name in ("max_turns", "max_new_tokens", "max_episode_tokens"):
        given = getattr(source, name)
        if given is None:
            continue
        cap = math.floor(at(given, clock, f"{key}.{name}") + ROUNDING)
        if cap < 1:
            raise ConfigError(f"{key}.{name}: {cap} at step {clock.step}; a schedule gives 1 or more")
        limit = getattr(rollout, name)
        caps[name] = cap if limit is None else min(cap, limit)
    return rollout.model_copy(update=caps)
