"""How rollout and learning share their time: one class a kind, its fields the settings."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from agentopd.settings.signature import Registry


@dataclass(frozen=True, kw_only=True)
class Mode(ABC):
    """Says how far rollout may be ahead of learning."""

    @property
    @abstractmethod
    def ahead(self) -> int | None:
        """The optimiser steps, at most, from the weights that a turn is written with to the step that learns from it; ``None`` where
        the two take turns."""

    @property
    def restarts(self) -> bool:
        """Whether an episode that is being played when weights change begins anew."""
        return False


@dataclass(frozen=True, kw_only=True)
class Sync(Mode):
    """A step's episodes are played, annotated and learned from, and then the next step's. A resumed run repeats them bit by bit."""

    @property
    def ahead(self) -> None:
        """They take turns."""


@dataclass(frozen=True, kw_only=True)
class Async(Mode):
    """The episodes of steps to come are played, and annotated, while a step is learned from.

    Which tasks a step learns from is the same as in turns, so a step waits for its slowest episode: to take what is over first would
    prefer short episodes. An episode may begin once the student is at most ``max_staleness`` optimiser steps before the step that learns
    from it; 0 waits for the weights of its own step.
    """

    max_staleness: Annotated[int, Field(ge=0)] = 1
    """Optimiser steps by which the weights that wrote a turn may be older than those that learn from it."""
    on_update: Literal["continue", "restart"] = "continue"
    """What becomes of an episode that is being played when weights change: it goes on with the new ones, each turn with the version that
    wrote it, or begins anew."""

    @property
    def ahead(self) -> int:
        """As many steps."""
        return self.max_staleness

    @property
    def restarts(self) -> bool:
        """Where that is chosen."""
        return self.on_update == "restart"


MODES: Registry = {"sync": Sync, "async": Async}
"""Classes ``(*, settings...) -> Mode``, read by ``Kinds("mode", MODES)``."""
