"""An environment that breaks when it is told to."""

import os
import time

import gymnasium

from agentopd.env import TextEnv
from agentopd.errors import ToolError

ODD = "tests/Odd-v0"


class Odd(TextEnv):
    """Ends after ``turns`` actions; says numbers that its seed decides."""

    def __init__(self, turns: int = 3, last: int = 99) -> None:
        self.turns, self.last = turns, last

    def start(self) -> str:
        self.taken = 0
        return f"{self.np_random.random()}"

    def respond(self, text: str) -> str:
        if text == "exit":
            os._exit(4)
        if text == "sleep":
            time.sleep(1.5)
        if text == "raise":
            raise RuntimeError("no")
        if text == "bad":
            raise ToolError("bad", kind="bad")
        self.taken += 1
        if self.taken == self.turns:
            self.finish(reward=self.np_random.random())
        return f"{text} {self.np_random.random()}"

    def privileged(self) -> dict[str, object]:
        return {"mixed": 1 if self.taken == 1 else "one", "number": 0.5, "deep": {"taken": self.taken}}


if ODD not in gymnasium.registry:
    gymnasium.register(ODD, entry_point=f"{__name__}:Odd", max_episode_steps=50)
