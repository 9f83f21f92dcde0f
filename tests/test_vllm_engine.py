"""A real vLLM server as the student's engine, beside the transformers engine: run by ``make test-vllm``, which installs both.

A start is what takes most, so tests that one server can serve follow each other: those of all weights, then those of an adapter.
"""

import copy
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import PreTrainedModel
from vllm_cases import CPU, MARKS, VLLM, Weights, follows, logits_of, written_by_their_versions

from agentopd import records
from agentopd.adapters import adapted
from agentopd.chat import Chat
from agentopd.chat.budget import Budget
from agentopd.config import load_config
from agentopd.env import TextEnv
from agentopd.errors import PolicyError
from agentopd.models import ModelConfig, load_model, load_tokenizer
from agentopd.rollout import EnvConfig, Request, Rollout, TaskStream, TransformersPolicy, assign, collect
from agentopd.rollout.sampling import processed
from agentopd.rollout.vllm import server as servers
from agentopd.rollout.vllm.server import stop_servers
from agentopd.rollout.vllm.started import StartedServer
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.types import ENGINE, STUDENT, Trajectory

pytestmark = [*MARKS, pytest.mark.usefixtures("cpu")]
ENGINE_HERE = {"kind": "vllm", "python": VLLM}
EPISODES = 32


class Questions(TextEnv):
    """Three turns, whatever is answered."""

    def start(self) -> str:
        """A first question."""
        self.asked = 0
        return f"Name a word that begins with {chr(ord('a') + int(self.np_random.integers(26)))}, and nothing else."

    def respond(self, text: str) -> str:
        """Another question."""
        self.asked += 1
        if self.asked == 3:
            self.finish(reward=1.0)
        return f"Now another one, as long as {int(self.np_random.integers(3, 9))} letters."


gymnasium.register("vllm/Questions-v0", Questions, max_episode_steps=3)


@pytest.fixture(scope="module", autouse=True)
def cpu() -> Iterator[None]:
    """What a server is told by its environment; none outlives the module."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CPU.items():
            patch.setenv(name, value)
        yield
        stop_servers()


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat(load_tokenizer(str(load_config("configs/smollm2.yaml").student.model)))


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedModel:
    return load_model(ModelConfig(model=str(load_config("configs/smollm2.yaml").student.model)))


def rollout(temperature: float = 0.0, **settings: Any) -> Rollout:
    common = {"max_new_tokens": 12, "max_length": 512, "concurrency": EPISODES, "temperature": temperature}
    return Rollout(**{**common, **settings})


def played(model: PreTrainedModel, chat: Chat, settings: Rollout, episodes: int = EPISODES) -> list[Trajectory]:
    envs = (EnvConfig(id="vllm/Questions-v0"),)
    stream = TaskStream(envs, 0, "train")
    assignments = assign(stream, range(episodes), "fresh", {STUDENT: 1.0}, 1, "run", 0, 0)
    return collect(assignments, {STUDENT: settings.policy(model, chat.ends_of_turn)}, chat, settings)


def logprobs_at(model: Any, trajectory: Trajectory, settings: Rollout) -> tuple[np.ndarray[Any, Any], ...]:
    """Of an episode's only segment: what the engine said of the tokens acted, and what the model says of them."""
    (segment,) = trajectory.segments
    at_N = np.flatnonzero(segment.turn_T >= 0)
    logprob_N_V = processed(logits_of(model, segment.tokens_T)[at_N - 1], settings)
    own_N = logprob_N_V[torch.arange(len(at_N)), torch.from_numpy(segment.tokens_T[at_N]).long()]
    return segment.logprob_T[at_N], own_N.numpy()


def test_greedy_turns_are_those_of_the_transformers_engine(smollm2: PreTrainedModel, chat: Chat) -> None:
    here = played(smollm2, chat, rollout())
    there = played(smollm2, chat, rollout(engine=ENGINE_HERE))
    for own, other in zip(here, there, strict=True):
        assert len(other.turns) == 3
        assert (own.versions[ENGINE], other.versions[ENGINE]) == ("transformers", "vllm")
        (mine,), (theirs,) = own.segments, other.segments
        length = min(len(mine.tokens_T), len(theirs.tokens_T))
        differ = np.flatnonzero(mine.tokens_T[:length] != theirs.tokens_T[:length])
        if len(differ):  # only where the model itself is undecided
            best_2 = logits_of(smollm2, mine.tokens_T)[differ[0] - 1].topk(2).values
            assert best_2[0] - best_2[1] < 1e-3
        else:
            assert len(mine.tokens_T) == len(theirs.tokens_T)


def test_log_probabilities_are_those_of_the_distribution_that_was_sampled_from(
    smollm2: PreTrainedModel, chat: Chat
) -> None:
    settings = rollout(0.7, engine=ENGINE_HERE)
    first, again = (played(smollm2, chat, settings, 8) for _ in range(2))
    drawn = set()
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.segments[0].tokens_T, other.segments[0].tokens_T)
        said_N, own_N = logprobs_at(smollm2, one, settings)
        np.testing.assert_allclose(said_N, own_N, atol=1e-3)
        drawn.add(one.turns[0].text)
    assert len(drawn) > 1


def test_a_thought_is_closed_where_the_transformers_engine_closes_it(smollm2: PreTrainedModel, chat: Chat) -> None:
    close = tuple(chat.tokenizer.encode("</think>\n", add_special_tokens=False))
    budget = Budget(5, close, True, lambda tokens: str(chat.tokenizer.decode(list(tokens))))
    prompt = chat.prompt([{"role": "user", "content": "Say why the sky is blue."}], ())
    request = Request(0, prompt, 1, 24, budget=budget)
    here = TransformersPolicy(smollm2, chat.ends_of_turn, rollout()).act([request])[0]
    there = rollout(engine=ENGINE_HERE).policy(smollm2, chat.ends_of_turn).act([request])[0]
    assert there.tokens == here.tokens
    assert there.forced == here.forced
    assert there.forced is not None
    assert np.flatnonzero(there.forced).tolist() == list(range(5, 5 + len(close)))


def changed(model: Any, size: float) -> None:
    """Adds noise to what is trained."""
    torch.manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one += size * torch.randn_like(one)


def test_the_server_follows_all_weights_its_death_is_told_and_the_next_has_them(
    smollm2: PreTrainedModel, chat: Chat
) -> None:
    settings = rollout(0.7, engine=ENGINE_HERE)
    policy = settings.policy(smollm2, chat.ends_of_turn)
    request = Request(0, chat.prompt([{"role": "user", "content": "Who are you?"}], ()), 3, 16)
    before = {name: one.clone() for name, one in smollm2.state_dict().items()}
    follows(policy, smollm2, request, settings)
    sleeps()
    follows(policy, smollm2, request, settings)  # and is awake
    sleeps()
    changed(smollm2, 0.003)
    policy.update(smollm2, 1)
    follows(policy, smollm2, request, settings)
    smollm2.load_state_dict(before)
    policy.update(smollm2, 2)
    (server,) = servers._servers.values()
    assert isinstance(server, StartedServer)
    assert server.pid is not None
    threading.Timer(1.0, os.killpg, (server.pid, signal.SIGKILL)).start()
    with pytest.raises(
        PolicyError, match=r"did not answer .* has ended with status -9; all that it said stands in .*vllm\.log$"
    ):
        act_for_ever(policy, request)
    assert server.log.exists()
    follows(policy, smollm2, request, settings)  # of a new one


def sleeps() -> None:
    """The server gives back what it has; a CPU's only says so, and writes nothing until it is woken."""
    (server,) = servers._servers.values()
    server.rest()
    assert isinstance(server, StartedServer)
    assert server.ask("/is_sleeping", method="GET") == {"is_sleeping": True}


def act_for_ever(policy: Any, request: Request) -> None:
    while True:
        policy.act([request])


@pytest.mark.parametrize("trained", ["train.lora=null", "train.lora={r: 4}"])
def test_a_run_ahead_of_learning_has_each_turn_written_by_the_weights_of_its_version(
    trained: str, smollm2: PreTrainedModel, chat: Chat, tmp_path: Path
) -> None:
    engine = f"rollout.engine={{kind: vllm, python: {VLLM}}}"
    steps = [
        "train.steps=3",
        "train.tasks_per_step=2",
        "train.learning_rate=0.001",
        "train.eval_every=2",
        "train.save_every=0",
    ]
    short = [
        "rollout.max_turns=2",
        "rollout.max_new_tokens=8",
        "rollout.max_length=512",
        "evaluation.during=2",
        "rollout.top_p=1",
    ]
    own = ["env.id=vllm/Questions-v0", "teachers={}", "stages={}", "method=grpo", "objective.sampler.per_task=2"]
    config = load_config("configs/smollm2.yaml", [engine, "rollout.mode=async", *steps, *short, trained, *own])
    run = AgentOPDTrainer(copy.deepcopy(smollm2), arguments(config, None), chat.tokenizer, folder=RunFolder(tmp_path))
    weights = Weights(run.student)
    run.add_callback(weights)
    run.train()
    played = [record.trajectory for record in records.open(tmp_path)]
    written_by_their_versions(run.student, weights.by_version, played, config.rollout)
    versions = {(one.key.step, turn.policy_version) for one in played for turn in one.turns}
    assert {step - version for step, version in versions} == {0, 1}


def test_the_server_wears_each_adapter(smollm2: PreTrainedModel, chat: Chat) -> None:
    student = adapted(smollm2, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"), 0)
    settings = rollout(0.7, engine=ENGINE_HERE)
    policy = settings.policy(student, chat.ends_of_turn)
    request = Request(0, chat.prompt([{"role": "user", "content": "Who are you?"}], ()), 3, 16)
    worn = []
    for version in range(1, 4):
        follows(policy, student, request, settings)
        (server,) = servers._servers.values()
        worn.append(server.worn)
        sleeps()
        changed(student, 0.02)
        policy.update(student, version)
    assert len(set(worn)) == 3
    assert [path.name for path in server.folder.glob("student-*")] == [worn[-1]]
