"""Which turns and tokens something concerns: one type, shared by the terms of a method and by teachers."""

from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from agentopd.settings.choice import Settings
from agentopd.types import Bools, Trajectory, Turn


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
    tag: Names = ()
    tool: Names = ()
    """Only turns that called one of these tools."""
    min_turn: int = Field(0, ge=0)
    max_turn: int | None = Field(None, ge=0)
    """The first and the last turn selected, counted from 0."""
    every: int = Field(1, ge=1)
    """Every n-th turn, from ``min_turn`` on."""

    @model_validator(mode="after")
    def _selects_something(self) -> "Where":
        if self.max_turn is not None and self.max_turn < self.min_turn:
            raise ValueError(f"max_turn {self.max_turn} is before min_turn {self.min_turn}, so no turn is selected")
        return self

    def episode(self, trajectory: Trajectory) -> bool:
        """Whether anything of ``trajectory`` may be selected."""
        return (
            (not self.env or trajectory.task.env_id in self.env)
            and (not self.tag or bool(set(self.tag) & set(trajectory.task.tags)))
            and (self.success is None or trajectory.outcome.success == self.success)
        )

    def turn(self, turn: Turn) -> bool:
        """Whether the turn's depth and tools are selected."""
        last = turn.index if self.max_turn is None else self.max_turn
        return (
            self.min_turn <= turn.index <= last
            and (turn.index - self.min_turn) % self.every == 0
            and (not self.tool or any(call.name in self.tool for call in turn.calls))
        )

    def turns(self, trajectory: Trajectory) -> Bools:
        """Selected turns, [S], leaving out actor and source, which belong to tokens."""
        episode = self.episode(trajectory)
        return np.array([episode and self.turn(turn) for turn in trajectory.turns], dtype=np.bool_)
