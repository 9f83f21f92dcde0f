"""How many tokens one step has: at most, by the limits of a configuration; or on average, in records."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agentopd import records
from agentopd.config import Config
from agentopd.errors import RecordError
from agentopd.forward import SHORTEST
from agentopd.settings.clock import Clock
from agentopd.types import EXPERT, RECORDED, Ints, Trajectory


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
    common: float = 0.0
    """With which all episodes begin: they are read once a forward pass (``agentopd.forward``)."""

    def shared(self, gpus: int) -> "Step":
        """What one of so many devices has of it; models of several processes read each row by itself."""
        common = self.common if gpus == 1 else 0.0
        return replace(self, episodes=self.episodes / gpus, played=self.played / gpus, common=common)


@dataclass(frozen=True, slots=True)
class Reading:
    """All episodes of a step, read in forward passes under a budget of tokens."""

    passes: float
    tokens: float
    """That go through the model, in all passes."""
    saved: float
    """That do not, since another row of their pass begins with them."""
    pairs: float
    """Tokens, each with every token before it."""


def read(step: Step, max_tokens: int, once: bool = True) -> Reading:
    """The episodes of ``step`` in passes of ``max_tokens``: a longer one is read alone. Unless ``once``, rows do not share their beginning."""
    all_tokens = step.episodes * step.length
    passes = all_tokens / min(max(max_tokens, step.length), all_tokens)
    saved = (step.episodes - passes) * step.common if once else 0.0
    return Reading(passes, all_tokens - saved, saved, (all_tokens * step.length - saved * step.common) / 2)


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
    begins: Ints | None = None
    for trajectory in trajectories:
        if trajectory.failure is not None:
            continue
        begins = _common(begins, trajectory.segments[0].tokens_T)
        found["episodes"] += 1
        found["turns"] += len(trajectory.turns)
        for segment in trajectory.segments:
            places = np.flatnonzero(segment.turn_T >= 0)
            found["length"] += len(segment)
            found["generated"] += len(places)
            found["context"] += int(places.sum())
    if begins is None or not found["generated"]:
        return None
    count = found["episodes"]
    return replace(
        step,
        length=found["length"] / count,
        generated=found["generated"] / count,
        turns=found["turns"] / count,
        context=found["context"] / found["generated"],
        common=len(begins) if len(begins) >= SHORTEST and count > 1 else 0.0,
    )


def _common(begins: Ints | None, tokens_T: Ints) -> Ints:
    """What both begin with."""
    if begins is None:
        return tokens_T
    size = min(len(begins), len(tokens_T))
    differs_T = begins[:size] != tokens_T[:size]
    return begins[: int(differs_T.argmax()) if differs_T.any() else size]
