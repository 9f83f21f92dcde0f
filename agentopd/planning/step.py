"""How many tokens one step has: at most, by the limits of a configuration; or on average, in records."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agentopd import records
from agentopd.config import Config
from agentopd.errors import RecordError
from agentopd.settings.clock import Clock
from agentopd.types import EXPERT, RECORDED, Trajectory


@dataclass(frozen=True, slots=True)
class Step:
    """The episodes of one step, each as long as the others."""

    episodes: float
    """All that the step learns from."""
    played: float
    """Those of them that models play in it."""
    length: float
    """Tokens of one episode."""
    generated: float
    """Those of them that a model drew, in all turns."""
    turns: float
    context: float
    """How many tokens stand before a drawn one, on average."""

    def shared(self, gpus: int) -> "Step":
        """What one of so many devices has of it."""
        return replace(self, episodes=self.episodes / gpus, played=self.played / gpus)


def by_limits(config: Config) -> Step:
    """The most that a step may have, at its first step: every episode fills ``rollout.max_length``."""
    rollout, sources = config.rollout, config.objective.sources
    tasks = config.tasks_at(Clock(0, config.train.steps))
    played = {name for name, one in sources.items() if one.plays and set(one.actors) - {EXPERT, RECORDED}}
    length = rollout.max_length
    drawn = min(rollout.max_turns * rollout.max_new_tokens, rollout.max_episode_tokens or length, length)
    return Step(
        episodes=sum(count * sources[name].per_task for name, count in tasks.items()),
        played=sum(count * sources[name].per_task for name, count in tasks.items() if name in played),
        length=length,
        generated=drawn,
        turns=rollout.max_turns,
        context=length - drawn / 2,  # the prompt comes first
    )


def by_records(config: Config, path: Path) -> Step:
    """What steps of this configuration have where episodes are like the recorded ones.

    Raises:
        RecordError: There are no records, or none of an episode with an action.
    """
    found = like(by_limits(config), (record.trajectory for record in records.open(path)))
    if found is None:
        raise RecordError(f"{path} holds no episode with an action, so no lengths are known; give another run")
    return found


def like(step: Step, trajectories: Iterable[Trajectory]) -> Step | None:
    """As many episodes, as long as ``trajectories`` are on average; ``None`` where nobody acts in them. Failed ones are left out."""
    found: Counter[str] = Counter()
    for trajectory in trajectories:
        if trajectory.failure is not None:
            continue
        found["episodes"] += 1
        found["turns"] += len(trajectory.turns)
        for segment in trajectory.segments:
            places = np.flatnonzero(segment.turn_T >= 0)
            found["length"] += len(segment)
            found["generated"] += len(places)
            found["context"] += int(places.sum())
    if not found["generated"]:
        return None
    count = found["episodes"]
    return replace(
        step,
        length=found["length"] / count,
        generated=found["generated"] / count,
        turns=found["turns"] / count,
        context=found["context"] / found["generated"],
    )
