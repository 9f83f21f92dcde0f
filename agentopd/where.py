"""Which turns and tokens something concerns: one type, shared by the terms of a method and by teachers."""

from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from agentopd.settings.base import Settings
from agentopd.types import Bools, Trajectory


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One name or a list of names; empty means any."""


class Where(Settings):
    """A selection of turns. Every setting that is given must hold; an empty selection is every turn."""

    actor: Names = ()
    """Who acted: ``student``, ``expert``, a teacher's name."""
    source: Names = ()
    """The source that the tokens came from, by its name in the method, or ``corrected``."""
    success: bool | None = None
    """Only episodes that succeeded (true) or did not (false)."""
    env: Names = ()
    """Only turns in one of these environments."""
    tag: Names = ()
    """Only turns in an environment with one of these tags."""
    tool: Names = ()
    """Only turns that called one of these tools."""
    min_turn: int = Field(0, ge=0)
    """The first turn selected, counted from 0."""
    max_turn: int | None = Field(None, ge=0)
    """The last turn selected; ``null`` for all that follow."""
    every: int = Field(1, ge=1)
    """Every n-th turn, from ``min_turn`` on."""

    @model_validator(mode="after")
    def _selects_something(self) -> "Where":
        if self.max_turn is not None and self.max_turn < self.min_turn:
            raise ValueError(f"max_turn {self.max_turn} is before min_turn {self.min_turn}, so no turn is selected")
        return self

    def may_select(self, source: str, actor: str) -> bool:
        """Whether tokens of ``actor`` in ``source`` may be selected."""
        return (not self.source or source in self.source) and (not self.actor or actor in self.actor)

    def episode(self, env_id: str, tags: Iterable[str], success: bool) -> bool:
        """Whether anything of an episode may be selected."""
        return (
            (not self.env or env_id in self.env)
            and (not self.tag or not set(self.tag).isdisjoint(tags))
            and (self.success is None or success == self.success)
        )

    def depth(self, turn: NDArray[np.int64]) -> Bools:
        """Whether each of some turns, counted from 0, is deep enough, not too deep, and one of every n-th."""
        selected: Bools = (turn >= self.min_turn) & ((turn - self.min_turn) % self.every == 0)
        return selected if self.max_turn is None else selected & (turn <= self.max_turn)

    def called(self, tools: Iterable[str]) -> bool:
        """Whether a turn that called ``tools`` may be selected."""
        return not self.tool or not set(self.tool).isdisjoint(tools)

    def turns(self, trajectory: Trajectory) -> Bools:
        """Selected turns, [S], leaving out actor and source, which belong to tokens."""
        task = trajectory.task
        selected = self.episode(task.env_id, task.tags, trajectory.outcome.success)
        called_S = [selected and self.called(call.name for call in turn.calls) for turn in trajectory.turns]
        return np.array(called_S, np.bool_) & self.depth(np.arange(len(called_S)))
