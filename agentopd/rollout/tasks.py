"""Tasks: which environment, started how. A stream of them is a pure function of the index."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from agentopd.env.splits import SEEDS_PER_SPLIT, SPLITS
from agentopd.errors import ConfigError
from agentopd.rollout.data import HELD, Data, Places, Table, opened
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
    data: Data | None = None
    """Rows of a file or a data set, each a task: its columns are further options of ``reset``."""

    @model_validator(mode="after")
    def _options_once(self) -> "EnvConfig":
        twice = [name for name in self.options or {} if self.data is not None and name in self.data.columns]
        if twice:
            raise ValueError(f"options.{twice[0]} is given, and by data.columns too; leave one of them out")
        return self


def pinned(envs: Sequence[EnvConfig]) -> tuple[EnvConfig, ...]:
    """``envs`` with the fingerprint of all data that they have, every row of which is looked at.

    Raises:
        ConfigError: A row is wrong, or the rows are not those of a fingerprint that is there.
    """
    return tuple(
        env
        if env.data is None
        else env.model_copy(update={"data": env.data.model_copy(update={"fingerprint": _table(envs, i).fingerprint})})
        for i, env in enumerate(envs)
    )


def _table(envs: Sequence[EnvConfig], place: int) -> Table:
    data = envs[place].data
    assert data is not None
    at = "env" if len(envs) == 1 else f"envs.{place}"
    try:
        table = opened(data)
    except ConfigError as error:
        raise ConfigError(f"{at}.data: {error}") from error
    for name in envs[place].options or {}:
        if name in table.names:
            raise ConfigError(
                f"{at}.options.{name} is given, and by a column of the rows too; leave it out, or name the columns to take in {at}.data.columns"
            )
    return table


class TaskStream:
    """``stream[i]`` is the i-th task, whatever was asked before, on any process.

    An environment with data plays each row of the split once before any for a second time, in an order of its own each time.
    """

    def __init__(self, envs: Sequence[EnvConfig], seed: int, split: str) -> None:
        """Tasks drawn from ``envs`` by weight, their seeds from the range of ``split``.

        Raises:
            ConfigError: ``envs`` is empty, or there is no such split, or data that are wrong, or have no row in it.
        """
        if not envs:
            raise ConfigError("envs is empty: give at least one environment, such as env: {id: agentopd/Calculator-v0}")
        if split not in SPLITS:
            raise ConfigError(f"no split is called {split!r}{nearest(split, SPLITS)}; there are: {', '.join(SPLITS)}")
        self._envs = tuple(envs)
        self._split = split
        self._seed = seed
        self._cumulative = np.cumsum([env.weight for env in envs])
        self._tables = {i: _table(envs, i) for i, env in enumerate(envs) if env.data is not None}
        self._place_of: list[int] = []
        self._drawn: Counter[int] = Counter()
        self._order = lru_cache(maxsize=4)(self._ordered)
        for i, table in self._tables.items():
            if not table.count(split):
                self._refuse(i, "hold out no row")

    def __getitem__(self, index: int) -> Task:
        chosen, seed = self._draw(index)
        env, options = self._envs[chosen], self._envs[chosen].options
        if chosen in self._tables:
            turn, place = divmod(self._place(index), self._tables[chosen].count(self._split))
            row = self._tables[chosen].options(self._split, int(self._order(chosen, turn)[place]))
            options = {**(options or {}), **row}
        return Task(env.id, seed, env.kwargs, options, self._split, env.tags)

    def require_once(self, count: int, key: str) -> None:
        """Raises ConfigError where a row would be played twice among the first ``count`` tasks, which ``key`` asks for."""
        drawn = Counter(self._draw(index)[0] for index in range(count) if self._tables)
        for i, table in self._tables.items():
            if drawn[i] > (held := table.count(self._split)):
                self._refuse(
                    i, f"hold out {held} rows, and {key}={count} plays {drawn[i]} of them", f", or lower {key}"
                )

    def _refuse(self, place: int, found: str, or_else: str = "") -> None:
        data, name = self._envs[place].data, HELD.get(self._split)
        at = f"{'env' if len(self._envs) == 1 else f'envs.{place}'}.data"
        if name is None:
            raise ConfigError(f"{at}: all rows are held out; lower {', '.join(HELD.values())}")
        raise ConfigError(
            f"{at}.{name}={getattr(data, name)!r}: these {found}; raise it, give a larger file or data set{or_else}"
        )

    def _draw(self, index: int) -> tuple[int, int]:
        """Which environment a task is of, and its seed."""
        random = np.random.default_rng([self._seed, SPLITS[self._split], index])
        chosen = np.searchsorted(self._cumulative, random.random() * self._cumulative[-1], side="right")
        return int(chosen), SPLITS[self._split] * SEEDS_PER_SPLIT + int(random.integers(SEEDS_PER_SPLIT))

    def _place(self, index: int) -> int:
        """How many tasks before this one are of the same environment."""
        if len(self._envs) == 1:
            return index
        while len(self._place_of) <= index:
            chosen, _ = self._draw(len(self._place_of))
            self._place_of.append(self._drawn[chosen])
            self._drawn[chosen] += 1
        return self._place_of[index]

    def _ordered(self, place: int, turn: int) -> Places:
        """The order of an environment's rows when they are played for the ``turn``-th time, counted from 0."""
        random = np.random.default_rng([self._seed, SPLITS[self._split], place, turn, 0])
        return random.permutation(self._tables[place].count(self._split))
