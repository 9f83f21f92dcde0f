"""A real vLLM server beside a local teacher of the same weights: run by ``make test-vllm``, which installs both."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from vllm_cases import vllm_server

from agentopd.chat import Chat
from agentopd.config import load_config
from agentopd.models import ModelConfig, NewModel, load_model, load_tokenizer, new_model
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.teachers import TeacherContext
from agentopd.teachers.local import local
from agentopd.teachers.served import ServedTeacher, served
from agentopd.types import EXPERT, Sparse, Trajectory

VLLM = os.environ.get("AGENTOPD_VLLM", "")
pytestmark = [
    pytest.mark.skipif(not VLLM, reason="make test-vllm installs vLLM, and says where in AGENTOPD_VLLM"),
    pytest.mark.slow,
]
EPISODES = 64


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedModel:
    return load_model(ModelConfig(model=str(load_config("configs/smollm2.yaml").student.model)))


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(load_tokenizer(str(load_config("configs/smollm2.yaml").student.model)))


@pytest.fixture(scope="module")
def url(smollm2: PreTrainedModel, chat: Chat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("smollm2")
    smollm2.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    arguments = ["--max-logprobs", "64"]
    with vllm_server(VLLM, folder, free_port(), folder / "vllm.log", arguments) as address:
        yield address


@pytest.fixture(scope="module")
def played(chat: Chat) -> list[Trajectory]:
    """Episodes with tool calls, as the environments' expert plays them."""
    stream = TaskStream([EnvConfig(id="agentopd/Checkout-v0", kwargs={"failure_rate": 0.2})], 3, "train")
    assignments = assign(stream, range(EPISODES), "fresh", {EXPERT: 1.0}, 1, "run", 0, 3)
    settings = Rollout(max_length=1024, max_new_tokens=64)
    trajectories = collect(assignments, {}, chat, settings)
    assert all(one.failure is None for one in trajectories)
    assert sum(bool(turn.calls) for one in trajectories for turn in one.turns) > EPISODES
    return trajectories


def of_server(url: str, chat: Chat, temperature: float = 1.0, top_k: int = 64) -> ServedTeacher:
    context = TeacherContext("teacher", chat, lambda _: pytest.fail("it loads nothing"), temperature)
    made = served(context, url=url, top_k=top_k, in_flight=8)
    assert isinstance(made, ServedTeacher)
    return made


def test_a_served_teacher_says_what_a_local_one_says(
    url: str, smollm2: PreTrainedModel, chat: Chat, played: list[Trajectory]
) -> None:
    here = local(TeacherContext("teacher", chat, lambda _: smollm2, 1.0), model="smollm2")
    for own, other in zip(of_server(url, chat).annotate(played), here.annotate(played), strict=True):
        np.testing.assert_array_equal(own.index_N, other.index_N)
        np.testing.assert_allclose(own.taken_logprob_N, other.taken_logprob_N, atol=1e-3)
        logq_N_V = torch.log_softmax(here.heads["teacher"].logits(other.block.hidden_N_H), -1)  # type: ignore[union-attr]
        assert isinstance(own.block, Sparse)
        assert own.block.ids_N_K.shape[1] == 64
        at_N_K = logq_N_V.gather(1, torch.from_numpy(own.block.ids_N_K).long())
        np.testing.assert_allclose(own.block.logprob_N_K, at_N_K.numpy(), atol=1e-3)
        np.testing.assert_allclose(own.block.logprob_N_K, logq_N_V.topk(64).values.numpy(), atol=1e-3)
