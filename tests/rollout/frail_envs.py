"""Environments that break in ways no thread survives. Worker processes import this file, so it is light."""

import ctypes
import os
import re
import subprocess
import sys
import time
from typing import Any

import gymnasium

from agentopd.env import TextEnv
from agentopd.tooling import call, tool

FRAIL, HALF = "tests/Frail-v0", "frail_envs:tests/Frail-v0"
GO = call("go", steps=1)


class Frail(TextEnv):
    """A walk of four to eight steps, on which something may happen at the second."""

    instructions = "Walk."

    def __init__(self, trouble: str = "", note: Any = None) -> None:
        self.trouble, self.note = trouble, note

    def start(self) -> str:
        self.at, self.end = 0, int(self.np_random.integers(4, 9))
        _break(self.trouble, "start ")
        return f"It is {self.end} steps, {self.np_random.random():.17f} metres each."

    @tool
    def go(self, steps: int) -> str:
        """Walks on.

        Args:
            steps: How many.
        """
        self.at += steps
        if self.at == 2:
            _break(self.trouble)
        if self.at >= self.end:
            self.finish(reward=self.np_random.random())
        return f"You are at {self.at}."

    def expert(self) -> str:
        return GO

    def privileged(self) -> dict[str, Any]:
        return {"end": self.end, "by": {1: 0.1, "two": [None, True]}, "pid": 0}

    def here(self) -> list[Any]:
        """Where it runs, and whether torch is there."""
        return [os.getpid(), "torch" in sys.modules or "transformers" in sys.modules]

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        _break(self.trouble, "close ")


def _break(trouble: str, when: str = "") -> None:
    """What ``trouble`` names, where it says ``when``."""
    if not trouble.startswith(when):
        return
    trouble = trouble.removeprefix(when)
    if trouble == "segfault":
        ctypes.string_at(0)
    elif trouble == "exit":
        os._exit(3)
    elif trouble == "killed":
        os.kill(os.getpid(), 9)
    elif trouble == "loop":
        while True:
            pass
    elif trouble == "regex":  # never lets go of the interpreter
        re.match(r"(a+)+$", "a" * 40 + "b")
    elif trouble == "child":
        subprocess.Popen(["sleep", "97531"])
        os._exit(0)
    elif trouble == "raise":
        raise RuntimeError("no way")


if FRAIL not in gymnasium.registry:
    gymnasium.register(FRAIL, entry_point=f"{__name__}:Frail", max_episode_steps=20)
