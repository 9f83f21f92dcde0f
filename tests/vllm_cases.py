"""What tests of a real vLLM share: episodes that are asked about, who asks, and whether it has the student's weights."""

import os
import socket
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from agentopd.chat import Chat
from agentopd.env import TextEnv
from agentopd.rollout import EnvConfig, Request, Rollout, TaskStream, assign, collect
from agentopd.rollout.sampling import processed
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


class Weights(TrainerCallback):
    """What is trained of the student, by version."""

    def __init__(self, student: Any) -> None:
        self.by_version = [self._of(student)]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keeps those of the next version."""
        self.by_version.append(self._of(kwargs["model"]))

    def _of(self, student: Any) -> dict[str, Tensor]:
        return {name: one.detach().clone() for name, one in student.named_parameters() if one.requires_grad}


def logits_of(model: Any, tokens_T: Any) -> Tensor:
    with torch.no_grad():
        logits_T_V: Tensor = model(torch.as_tensor(tokens_T)[None].long()).logits[0].float()
    return logits_T_V


def follows(policy: Any, model: Any, request: Request, settings: Rollout) -> int:
    """The engine's log-probabilities are those of the weights of now; how many tokens were read for it."""
    (said,) = policy.act([request])
    tokens_T = np.array([*request.tokens, *said.tokens])
    logprob_N_V = processed(logits_of(model, tokens_T)[len(request.tokens) - 1 : -1], settings)
    own_N = logprob_N_V.gather(1, torch.tensor(said.tokens)[:, None])[:, 0]
    np.testing.assert_allclose(said.logprobs, own_N.numpy(), atol=1e-3)
    read: int = said.prefilled
    return read


def written_by_their_versions(
    student: Any, by_version: Sequence[dict[str, Tensor]], trajectories: Sequence[Trajectory], settings: Rollout
) -> None:
    """Each turn's log-probabilities are those that the weights of its version give, to 1e-3."""
    for version, weights in enumerate(by_version):
        assert not student.load_state_dict(weights, strict=False).unexpected_keys
        turns = [(one, turn) for one in trajectories for turn in one.turns if turn.policy_version == version]
        for trajectory, turn in turns:
            segment, here = trajectory.segments[turn.segment], slice(turn.start, turn.stop)
            logprob_T_V = processed(logits_of(student, segment.tokens_T)[turn.start - 1 : turn.stop - 1], settings)
            own_T = logprob_T_V.gather(1, torch.from_numpy(segment.tokens_T[here]).long()[:, None])[:, 0]
            np.testing.assert_allclose(segment.logprob_T[here], own_T.numpy(), rtol=0, atol=1e-3)


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
