"""What tests of a real vLLM server share: episodes that are asked about, and who asks."""

import os
import socket

import gymnasium
import pytest

from agentopd.chat import Chat
from agentopd.env import TextEnv
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.teachers import TeacherContext
from agentopd.teachers.served import ServedTeacher, served
from agentopd.tooling import call, tool
from agentopd.types import EXPERT, Trajectory

VLLM = os.environ.get("AGENTOPD_VLLM", "")
MARKS = [
    pytest.mark.skipif(not VLLM, reason="make test-vllm installs vLLM, and says where in AGENTOPD_VLLM"),
    pytest.mark.slow,
]
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""What vLLM's CPU build is told by its environment."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


CHECKOUT = EnvConfig(id="agentopd/Checkout-v0", kwargs={"failure_rate": 0.2})


class Doubling(TextEnv):
    """Episodes as short as two turns with tool calls can be: a server on two cores reads all tokens of many of them."""

    def start(self) -> str:
        """Draws a number."""
        self.last = int(self.np_random.integers(10, 10_000))
        self.goal = 4 * self.last
        return f"Double {self.last} twice."

    @tool
    def double(self, x: int) -> str:
        """Double it."""
        self.last = 2 * x
        if self.last == self.goal:
            self.finish(reward=1.0)
        return str(self.last)

    def expert(self) -> str:
        """The number, then what came of it."""
        return call("double", x=self.last)


gymnasium.register("vllm/Doubling-v0", Doubling, max_episode_steps=2)
DOUBLING = EnvConfig(id="vllm/Doubling-v0")


def played(chat: Chat, episodes: int, env: EnvConfig = CHECKOUT) -> list[Trajectory]:
    """Episodes with tool calls, as the environment's expert plays them."""
    stream = TaskStream([env], 3, "train")
    assignments = assign(stream, range(episodes), "fresh", {EXPERT: 1.0}, 1, "run", 0, 3)
    trajectories = collect(assignments, {}, chat, Rollout(max_length=1024, max_new_tokens=64))
    assert all(one.failure is None for one in trajectories)
    assert sum(bool(turn.calls) for one in trajectories for turn in one.turns) > episodes
    return trajectories


def of_server(url: str, chat: Chat, temperature: float = 1.0, top_k: int = 64) -> ServedTeacher:
    context = TeacherContext("teacher", chat, lambda _: pytest.fail("it loads nothing"), temperature)
    made = served(context, url=url, top_k=top_k, in_flight=8)
    assert isinstance(made, ServedTeacher)
    return made
