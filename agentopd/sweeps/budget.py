"""What each run of a sweep may take: the same for all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.settings.amounts import amount_of
from agentopd.settings.choice import Choice
from agentopd.settings.clock import Clock
from agentopd.sweeps.arms import override

Unit: TypeAlias = Literal["episodes", "tokens", "seconds"]
BOUNDS = ("train.steps", "train.budget")
"""The settings that bound a run."""


@dataclass(frozen=True, slots=True)
class Budget:
    """So much of one thing."""

    unit: Unit
    amount: float

    @property
    def cost(self) -> str:
        """Its name among what a run takes (``training.loop.spent``)."""
        return "student_tokens" if self.unit == "tokens" else self.unit

    def overrides(self, config: Config) -> list[str]:
        """The settings that hold a run of ``config`` to it.

        Episodes decide the number of steps, so that schedules end with the run, and nothing else bounds it. Tokens and seconds end a run
        after the step with which they are spent, and ``train.steps`` stays what schedules go by.

        Raises:
            ConfigError: How many episodes a step has is not known.
        """
        if self.unit == "episodes":
            steps = math.ceil(self.amount / episodes_a_step(config))
            return [override("train.steps", steps), override("train.budget", None)]
        return [override("train.budget", {self.unit: int(self.amount) if self.unit == "tokens" else self.amount})]


def read(text: str) -> Budget:
    """A budget as it is given on the command line, such as ``episodes=4800``.

    Raises:
        ConfigError: It is none.
    """
    unit, amount = amount_of(text, "--budget", get_args(Unit), least=1)
    return Budget(cast(Unit, unit), amount)


def episodes_a_step(config: Config) -> int:
    """The episodes that each step learns from, those drawn again among them.

    Raises:
        ConfigError: A source's share changes over the run.
    """
    sources = config.objective.sources
    moving = [name for name, source in sources.items() if isinstance(source.share, Choice)]
    if moving and len({source.per_task for source in sources.values()}) > 1:
        raise ConfigError(
            f"objective.sources.{moving[0]}.share is a schedule, so that steps differ in episodes; give a --budget in tokens or seconds"
        )
    if moving:
        return config.train.tasks_per_step * next(iter(sources.values())).per_task
    tasks = config.tasks_at(Clock(0, config.train.steps))
    return sum(count * sources[name].per_task for name, count in tasks.items())


def require_equal(configs: Mapping[str, Config], asked: Sequence[str], budget: Budget | None) -> None:
    """Raises ConfigError where arms would take different numbers of episodes and nobody asked for that."""
    bounding = [key for key in asked if key.startswith(BOUNDS)]
    if budget is not None and bounding:
        raise ConfigError(
            f"{bounding[0]} differs from arm to arm, and --budget gives each of them the same; leave one of them out"
        )
    if budget is not None or bounding or len({_bounds(config) for config in configs.values()}) == 1:
        return
    told = ", ".join(f"{name} {config.train.steps * episodes_a_step(config)}" for name, config in configs.items())
    raise ConfigError(
        f"arms would learn from different numbers of episodes ({told}); give all of them the same by --budget episodes=N, or name train.steps among "
        "what differs"
    )


def _bounds(config: Config) -> object:
    """What a run takes; where its episodes are not known, all that they depend on."""
    budget = config.train.budget
    bound = None if budget is None else (budget.tokens, budget.seconds)
    try:
        return bound, config.train.steps * episodes_a_step(config)
    except ConfigError:
        return bound, config.train.steps, config.train.tasks_per_step, repr(config.objective.sources)
