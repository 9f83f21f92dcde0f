"""Environments that change between an episode and its replay. Worker processes import this file, so it is light."""

import os
import time
from typing import Any

import gymnasium

from agentopd.env import TextEnv
from agentopd.tooling import call, tool

CHANGING, UPGRADED = "tests/Changing-v0", "tests/Upgraded-v1"
MOOD = "AGENTOPD_TESTS_MOOD"
"""The variable of this process, and of those forked from it, that says what has changed."""


def mood() -> str:
    return os.environ.get(MOOD, "")


class Changing(TextEnv):
    """Counts to four, from a number that its seed decides."""

    instructions = "Count."
    family = "counting"

    def start(self) -> str:
        _break("start")
        self.far = False
        self.at = int(self.np_random.integers(100))
        return f"It is {self.at}." if mood() != "opening" else "It is late."

    @tool
    def count(self, steps: int) -> str:
        """Counts on.

        Args:
            steps: How far.
        """
        self.at += steps
        self.far = steps == 3
        if self.far:
            self.add_reward(0.5 if mood() != "reward" else 0.25)
        if steps == 4:
            self.finish(reward=1.0, success=mood() != "success")
        return f"Now it is {self.at + (mood() == 'observation')}, {self.np_random.random()}."

    def expert(self) -> str:
        return call("count", steps=1 + (mood() == "advice"))

    def privileged(self) -> dict[str, Any]:
        if self.far:
            _break("step")
        return {"start": [self.at, {"mood": mood() == "privileged"}]}


def _break(when: str) -> None:
    if mood() == f"{when} raises":
        raise RuntimeError("broken since")
    if mood() == f"{when} hangs":
        time.sleep(5.0)
    if mood() == f"{when} dies":
        os._exit(3)


for _id in (CHANGING, UPGRADED):
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=f"{__name__}:Changing", max_episode_steps=8)
