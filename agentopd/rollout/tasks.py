"""Tasks: which environment, started how. A stream of them is a pure function of the index."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from agentopd.env.splits import SEEDS_PER_SPLIT, SPLITS
from agentopd.errors import ConfigError
from agentopd.settings.base import Settings
from agentopd.settings.problems import nearest
from agentopd.types import Task


class EnvConfig(Settings):
    """One environment of a weighted list."""

    id: str
    """A Gymnasium id; ``module:namespace/Name-v0`` imports the module first."""
    kwargs: dict[str, Any] = {}
    """For the environment's constructor; every instance gets a copy."""
    weight: float = Field(1.0, gt=0.0)
    """How often it is drawn, relative to the others."""
    tags: tuple[str, ...] = ()
    """Names that ``where`` can select by."""
    options: dict[str, Any] | None = None
    """For every ``reset``, which gets a copy."""


class TaskStream:
    """``stream[i]`` is the i-th task, whatever was asked before, on any process."""

    def __init__(self, envs: Sequence[EnvConfig], seed: int, split: str) -> None:
        """Tasks drawn from ``envs`` by weight, their seeds from the range of ``split``.

        Raises:
            ConfigError: ``envs`` is empty, or there is no such split.
        """
        if not envs:
            raise ConfigError("envs is empty: give at least one environment, such as env: {id: agentopd/Calculator-v0}")
        if split not in SPLITS:
            raise ConfigError(f"no split is called {split!r}{nearest(split, SPLITS)}; there are: {', '.join(SPLITS)}")
        self._envs = tuple(envs)
        self._split = split
        self._seed = seed
        self._cumulative = np.cumsum([env.weight for env in envs])

    def __getitem__(self, index: int) -> Task:
        random = np.random.default_rng([self._seed, SPLITS[self._split], index])
        chosen = np.searchsorted(self._cumulative, random.random() * self._cumulative[-1], side="right")
        env = self._envs[int(chosen)]
        seed = SPLITS[self._split] * SEEDS_PER_SPLIT + int(random.integers(SEEDS_PER_SPLIT))
        return Task(env.id, seed, env.kwargs, env.options, self._split, env.tags)
