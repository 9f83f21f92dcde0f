"""Who plays which task: a per-sample mixture of actors."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from agentopd.acting import WHOLE, Acting
from agentopd.errors import ConfigError
from agentopd.rollout.policy import Assignment
from agentopd.rollout.tasks import TaskStream
from agentopd.types import Key, Task


def assign(
    stream: TaskStream | Sequence[Task],
    indices: Sequence[int],
    source: str,
    actors: Mapping[str, float],
    per_task: int,
    run: str,
    step: int,
    seed: int,
    first: int = 0,
    acting: Acting = WHOLE,
    divided: bool = False,
) -> list[Assignment]:
    """Every task ``per_task`` times, the actor of each sample drawn by share: a pure function of seed, step, source and place.

    Args:
        stream: Where tasks come from.
        indices: Which tasks.
        source: The name, in the method, of what asks for these episodes.
        actors: Shares of who acts, such as ``{"student": 0.75, "teacher": 0.25}``; they need not sum to 1.
        per_task: Episodes of each task, a group.
        run: The name of the run, for keys.
        step: The optimiser step the episodes are for.
        seed: Of the run.
        first: The index of the first key; sources of one step must not overlap.
        acting: Who else acts in each episode, and when.
        divided: Whether a task's episodes are divided among the actors by share instead of drawn: the first go to the first actor.

    Raises:
        ConfigError: No actor has a positive share.
    """
    names, shares = list(actors), np.array(list(actors.values()), np.float64)
    if not names or shares.min() < 0 or shares.sum() == 0:
        raise ConfigError(
            f"source {source!r}: actors={dict(actors)}; shares must not be negative, and one must be positive"
        )
    cumulative = np.cumsum(shares)
    assignments = []
    for place in range(len(indices) * per_task):
        random = np.random.default_rng([seed, step, zlib.crc32(source.encode()), place])
        drawn = random.random()
        share = (place % per_task + 0.5) / per_task if divided else drawn
        chosen = np.searchsorted(cumulative, share * cumulative[-1], side="right")
        task, key = stream[indices[place // per_task]], Key(run, step, first + place)
        assignments.append(Assignment(task, key, names[int(chosen)], int(random.integers(2**63)), source, acting))
    return assignments
