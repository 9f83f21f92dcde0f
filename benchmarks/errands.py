"""Errands: at some turns several actions are right, at all others one is, and a tool may fail."""

import gymnasium

from agentopd.env import TextEnv
from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import call, tool

ID = "benchmarks.errands:benchmarks/Errands-v0"
PLACES = ("bank", "baker", "library", "market", "pharmacy", "post", "school", "tailor")
COLOURS = ("black", "blue", "brown", "green", "grey", "orange", "red", "white", "yellow")
UNAVAILABLE = "unavailable"
"""The kind of error that a tool which fails is counted as."""


class Errands(TextEnv):
    """Asks to run some errands in any order: go to a place, ask at the counter that is named there, go home when none is left.

    Reward 1 for going home then, which ends the episode. It takes ``2 * errands + 1`` turns if no tool fails. What was begun must be
    finished first, so that exactly one action is right wherever no place is to be chosen.

    Args:
        errands: How many, 1 to 8.
        failure_rate: The probability that a place or a counter is closed for now and must be tried again.
    """

    instructions = "Go to each place, ask at its counter, go home when nothing is left."

    def __init__(self, errands: int = 3, failure_rate: float = 0.0):
        if not 1 <= errands <= len(PLACES):
            raise ConfigError(f"errands={errands} must be from 1 to {len(PLACES)}")
        if not 0 <= failure_rate < 1:
            raise ConfigError(f"failure_rate={failure_rate} must be at least 0 and below 1")
        self.errands, self.failure_rate = errands, failure_rate

    def start(self) -> str:
        """Draws the places, their counters, and the order in which the expert happens to run the errands."""
        names = [str(name) for name in self.np_random.choice(PLACES, self.errands, replace=False)]
        colours = [str(colour) for colour in self.np_random.choice(COLOURS, self.errands)]
        self.counters = dict(zip(names, colours, strict=True))
        self.order = [str(name) for name in self.np_random.permutation(names)]
        self.left = names
        self.at: str | None = None
        self.inside = False
        return self._left()

    @tool
    def go(self, place: str) -> str:
        """Go to a place.

        Args:
            place: One that is left.
        """
        self._expect(place in self.left and self.at in (None, place) and not self.inside)
        self.at = place
        self._may_fail()
        self.inside = True
        return f"Ask at the {self.counters[place]} counter."

    @tool
    def ask(self, counter: str) -> str:
        """Ask at a counter.

        Args:
            counter: Its colour.
        """
        self._expect(self.inside and self.at is not None and counter == self.counters[self.at])
        self._may_fail()
        self.left = [name for name in self.left if name != self.at]
        self.at, self.inside = None, False
        return self._left()

    @tool
    def home(self) -> str:
        """Go home."""
        self._expect(not self.left)
        self.finish(reward=1.0)
        return "Welcome."

    def expert(self) -> str:
        """The next of the errands that are left, in the order that was drawn; what was begun is finished first."""
        if self.inside and self.at is not None:
            return call("ask", counter=self.counters[self.at])
        if not self.left:
            return call("home")
        return call("go", place=self.at or next(name for name in self.order if name in self.left))

    @property
    def choosing(self) -> bool:
        """Whether several actions are right: any of the places that are left."""
        return self.at is None and len(self.left) > 1

    def _left(self) -> str:
        return f"Left: {', '.join(self.left) or 'nothing'}."

    def _expect(self, right: bool) -> None:
        if not right:
            raise ToolError("This is not the next step.")

    def _may_fail(self) -> None:
        if self.np_random.random() < self.failure_rate:
            raise ToolError("Closed for now, try again.", kind=UNAVAILABLE)


gymnasium.register("benchmarks/Errands-v0", entry_point="benchmarks.errands:Errands", max_episode_steps=16)
