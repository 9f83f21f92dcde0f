"""Environments that do what no actor likes."""

import os
import time

import gymnasium

from agentopd.env import TextEnv


class Moody(TextEnv):
    """Says what it was told; ``pid`` where it lives, ``sleep`` nothing for long, ``exit`` nothing ever."""

    instructions = "Say something."

    def start(self) -> str:
        return f"Begin with {self.np_random.integers(1000)}."

    def respond(self, text: str) -> str:
        if text == "sleep":
            time.sleep(600)
        if text == "exit":
            os._exit(1)
        return f"{text} {os.getpid() if text == 'pid' else self.np_random.integers(1000)}"


gymnasium.register("tests/Moody-v0", "cluster_envs:Moody")
