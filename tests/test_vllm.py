"""A real vLLM server beside a local teacher of the same weights: run by ``make test-vllm``, which installs both."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from vllm_cases import DOUBLING, MARKS, VLLM, free_port, of_server, played

from agentopd.chat import Chat
from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, NewModel, load_model, load_tokenizer, new_model
from agentopd.objective import Objective, Rows, cut, prepare
from agentopd.settings.clock import Clock
from agentopd.teachers import TeacherContext, annotate
from agentopd.teachers.local import local
from agentopd.teachers.openai import openai
from agentopd.teachers.served import served
from agentopd.training.loop.learner import Learner
from agentopd.training.run.stages import tokenizer_of
from agentopd.types import CONTEXT, Key, Message, Outcome, Segment, Sparse, Task, Trajectory, Turn, Whose
from benchmarks.vllm_server import vllm_server

pytestmark = MARKS
EPISODES = 64


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedModel:
    return load_model(ModelConfig(model=str(load_config("configs/smollm2.yaml").student.model)))


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(load_tokenizer(str(load_config("configs/smollm2.yaml").student.model)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    """Of the quickstart's tokenizer, of 512 tokens."""
    cache = tmp_path_factory.mktemp("cache")
    return Chat(tokenizer_of(load_config("quickstart", [f"stages.cache={cache}"]), lambda _: None))


@pytest.fixture(scope="module")
def tiny(small: Chat) -> PreTrainedModel:
    return tiny_model(small, seed=1)


def tiny_model(small: Chat, seed: int) -> PreTrainedModel:
    shape = NewModel(hidden_size=128, layers=2, heads=4, intermediate_size=256, max_positions=1024, vocab_size=512)
    return new_model(shape, small.tokenizer, seed)


@pytest.fixture(scope="module")
def urls(
    smollm2: PreTrainedModel, chat: Chat, tiny: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """Of a server of SmolLM2 and of one of the small model. Both start at the same time, for most of that is done on one core."""
    folder, other = tmp_path_factory.mktemp("smollm2"), tmp_path_factory.mktemp("tiny")
    smollm2.save_pretrained(folder)
    chat.tokenizer.save_pretrained(folder)
    tiny.save_pretrained(other)
    tools = ["--enable-scale-out", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    servers = [
        vllm_server(VLLM, folder, free_port(), folder / "vllm.log", ["--max-logprobs", "64", *tools]),
        vllm_server(VLLM, other, free_port(), other / "vllm.log", ["--max-logprobs", "-1", "--skip-tokenizer-init"]),
    ]
    with ExitStack() as running, ThreadPoolExecutor() as pool:
        yield list(pool.map(running.enter_context, servers))


@pytest.fixture(scope="module")
def url(urls: list[str]) -> str:
    return urls[0]


def test_a_served_teacher_says_what_a_local_one_says(url: str, smollm2: PreTrainedModel, chat: Chat) -> None:
    trajectories = played(chat, EPISODES, DOUBLING)
    here = local(TeacherContext("teacher", chat, lambda _: smollm2, 1.0), model="smollm2")
    for own, other in zip(of_server(url, chat).annotate(trajectories), here.annotate(trajectories), strict=True):
        np.testing.assert_array_equal(own.index_N, other.index_N)
        np.testing.assert_allclose(own.taken_logprob_N, other.taken_logprob_N, atol=1e-3)
        logq_N_V = torch.log_softmax(here.heads["teacher"].logits(other.block.hidden_N_H), -1)  # type: ignore[union-attr]
        assert isinstance(own.block, Sparse)
        assert own.block.ids_N_K.shape[1] == 64
        at_N_K = logq_N_V.gather(1, torch.from_numpy(own.block.ids_N_K).long())
        np.testing.assert_allclose(own.block.logprob_N_K, at_N_K.numpy(), atol=1e-3)
        np.testing.assert_allclose(own.block.logprob_N_K, logq_N_V.topk(64).values.numpy(), atol=1e-3)


@pytest.mark.parametrize("of", ["student", "union"])
def test_a_server_without_the_v2_model_runner_says_so(
    url: str, chat: Chat, smollm2: PreTrainedModel, of: Whose
) -> None:
    """vLLM's CPU build reads the question, and refuses it; one on a GPU would answer."""
    context = TeacherContext("teacher", chat, lambda _: pytest.fail("it loads nothing"), 1.0, student=lambda: smollm2)
    with pytest.raises(
        ConfigError,
        match=rf"^teachers\.teacher\.ids={of}: .*/inference/v1/generate refused with 400: .*requires the V2 model runner.*, or set ids: teacher$",
    ):
        served(context, url=url, top_k=8, ids=of)


def asked(url: str, chat: Chat, folder: Path, **settings: Any) -> Any:
    """A teacher that the server's chat completions answer."""
    context = TeacherContext("teacher", chat, lambda _: pytest.fail("it loads nothing"), 1.0, folder=folder)
    settings = {"options": {"temperature": 0, "max_completion_tokens": 32}, "in_flight": 8, **settings}
    return openai(context, url=f"{url}/v1", **settings)


def spoken(chat: Chat, question: str, said: str = "I do not know.") -> Trajectory:
    """An episode of one turn, without tools."""
    opening: tuple[Message, ...] = ({"role": "user", "content": question},)
    prompt, action = chat.prompt(opening), chat.write(opening, said)
    turn_T = np.array([CONTEXT] * len(prompt) + [0] * len(action), np.int32)
    tokens_T = np.array([*prompt, *action], np.int32)
    segment = Segment(tokens_T, turn_T, turn_T, turn_T >= 0, np.zeros(len(turn_T), np.float32))
    turn = Turn(0, "student", 0, len(prompt), len(turn_T), said, said)
    ended = Outcome(0.0, False, "terminated")
    return Trajectory(Key("run", 0, 0), Task("talk", 0), ("student",), (segment,), (turn,), ended, opening=opening)


def test_a_soft_correction_by_chat_is_what_a_local_model_says(
    url: str, smollm2: PreTrainedModel, chat: Chat, tmp_path: Path
) -> None:
    trajectory = spoken(chat, "What is the capital of France?")
    teacher = asked(url, chat, tmp_path, top_logprobs=8)
    (record,) = annotate({"teacher": teacher}, [trajectory])
    (said,) = record.annotations
    assert "Paris" in str(said.corrected_S[0])
    (segment,) = said.segments
    assert len(said.index_N) in (int((segment.turn_T >= 0).sum()), int((segment.turn_T >= 0).sum()) - 1)
    with torch.no_grad():
        logq_T_V = torch.log_softmax(smollm2(torch.from_numpy(segment.tokens_T[None]).long()).logits[0], -1)
    logq_N_V = logq_T_V[torch.from_numpy(said.index_N).long() - 1]
    assert isinstance(said.block, Sparse)
    known_N_K = said.block.ids_N_K >= 0
    assert known_N_K.sum() >= 7 * len(said.index_N)
    at_N_K = logq_N_V.gather(1, torch.from_numpy(said.block.ids_N_K.clip(min=0)).long()).numpy()
    np.testing.assert_allclose(said.block.logprob_N_K[known_N_K], at_N_K[known_N_K], atol=1e-3)
    taken_N = logq_N_V[torch.arange(len(logq_N_V)), torch.from_numpy(segment.tokens_T[said.index_N]).long()].numpy()
    np.testing.assert_allclose(said.taken_logprob_N, taken_N, atol=1e-3)
    assert teacher.metrics()["completion_tokens"] >= len(said.index_N)


def test_corrections_by_chat_follow_conversations_with_tools(url: str, chat: Chat, tmp_path: Path) -> None:
    trajectories = played(chat, 3)
    teacher = asked(url, chat, tmp_path)
    records = annotate({"teacher": teacher}, trajectories)
    turns = sum(len(one.turns) for one in trajectories)
    told = teacher.metrics()
    assert 0 < told["requests"] <= turns
    assert told["prompt_tokens"] > 50 * told["requests"]
    skipped = sum(int(record.annotations[0].skip_S.sum()) for record in records)
    assert skipped == told["skipped"]
    Rows.of(records)
    again = asked(url, chat, tmp_path)
    assert annotate({"teacher": again}, trajectories) == records
    assert again.metrics()["requests"] == 0


def test_a_score_by_chat_is_the_mean_of_the_models_own_distribution(
    url: str, smollm2: PreTrainedModel, chat: Chat, tmp_path: Path
) -> None:
    prompt = "Repeat this number and nothing else: {action}"
    teacher = asked(url, chat, tmp_path, ask="score", best=9, rescale=False, prompt=prompt, top_logprobs=20)
    (said,) = teacher.annotate([spoken(chat, "Hello.", "7")])
    ids = chat.prompt([{"role": "user", "content": prompt.format(action="7")}])
    with torch.no_grad():
        best = torch.softmax(smollm2(torch.tensor([ids])).logits[0, -1], -1).topk(20)
    spelt = [str(chat.tokenizer.decode([i])).strip() for i in best.indices.tolist()]
    digits = [(int(one), p) for one, p in zip(spelt, best.values.tolist(), strict=True) if one in [*"0123456789"]]
    mean = sum(score * p for score, p in digits) / sum(p for _, p in digits)
    assert said.reward_S[0] == pytest.approx(mean, abs=1e-2)
    assert teacher.metrics()["spread"] > 0


def test_losses_and_gradients_agree_on_all_of_a_small_vocabulary(
    urls: list[str], small: Chat, tiny: PreTrainedModel
) -> None:
    """At the temperature 0.7, to which vLLM's own log-probabilities are put."""
    trajectories = played(small, 4)
    here = local(TeacherContext("teacher", small, lambda _: tiny, 0.7), model="teacher")
    there = of_server(urls[1], small, temperature=0.7, top_k=-1)
    records = [annotate({"teacher": one}, trajectories) for one in (here, there)]
    student = tiny_model(small, seed=2)
    learner = Learner(load_config("quickstart", ["rollout.temperature=0.7"]), here.heads, special=())
    found = []
    for some in records:
        student.zero_grad()
        [batch] = cut(prepare(Objective.model_validate({"where": {}}), Rows.of(some), Clock(0, 1)), max_tokens=100_000)
        value = learner.loss(student, batch).loss
        torch.autograd.backward(value)
        found.append((value.detach(), [p.grad.clone() for p in student.parameters() if p.grad is not None]))
    (loss_here, grads_here), (loss_there, grads_there) = found
    torch.testing.assert_close(loss_there, loss_here, rtol=1e-3, atol=1e-3)
    for one, other in zip(grads_there, grads_here, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
