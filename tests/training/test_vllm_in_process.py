"""A real vLLM in this process as the student's engine: run by ``make test-vllm``, by the interpreter that has vLLM.

An engine's start is what takes most, so tests that one can serve follow each other: those of all weights, then those of an adapter.
"""

import gc
import os
import random
import sys
import weakref
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases
from peft import LoraConfig
from torch import distributed
from transformers import PreTrainedModel
from vllm_cases import CPU, Weights, follows, written_by_their_versions

from agentopd import records
from agentopd.adapters import adapted
from agentopd.chat.budget import Budget
from agentopd.errors import ConfigError, PolicyError
from agentopd.models import NewModel, new_model
from agentopd.rollout import Request, Rollout, TransformersPolicy
from agentopd.rollout.vllm import server as servers
from agentopd.rollout.vllm.in_process import InProcessServer
from agentopd.rollout.vllm.server import stop_servers
from agentopd.training.loop.folder import RunFolder
from agentopd.types import ENGINE

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="make test-vllm has an interpreter with vLLM"),
    pytest.mark.slow,
    pytest.mark.usefixtures("cpu"),
]
ENGINE_HERE = {"kind": "vllm_in_process"}
END = 3
LONG = list(range(10, 30)) * 10
"""More than a block of the prefix cache, of 128 tokens."""
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module", autouse=True)
def cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CPU.items():
            patch.setenv(name, value)
        yield
        stop_servers()


def _model(seed: int = 0) -> PreTrainedModel:
    """The attention of vLLM's CPU build takes heads of 32 numbers, and none smaller."""
    shape = NewModel(hidden_size=64, layers=1, heads=2, intermediate_size=96, max_positions=1024)
    return new_model(shape, cases.tokenizer(), seed)


@pytest.fixture(scope="module")
def student() -> PreTrainedModel:
    return _model()


def rollout(temperature: float = 0.7, **settings: Any) -> Rollout:
    return Rollout(engine=ENGINE_HERE, temperature=temperature, max_length=640, max_new_tokens=12, **settings)


def request(episode: int = 0, tokens: list[int] = LONG, **settings: Any) -> Request:
    return Request(episode, tokens, 3 + episode, 12, **settings)


def changed(model: Any, size: float = 0.1) -> None:
    """Adds noise to what is trained."""
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one += size * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel()))


def state_of_the_process() -> dict[str, Any]:
    """What others rely on; of the environment without what torch's compiler notes there."""
    return {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("_TORCHINDUCTOR_")},
        "threads": torch.get_num_threads(),
        "who sets them": torch.set_num_threads,
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "excepthook": sys.excepthook,
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
    }


def test_an_argument_that_vllm_does_not_know_is_told(student: PreTrainedModel) -> None:
    engine = ENGINE_HERE | {"arguments": ["--no-such-thing"]}
    with pytest.raises(ConfigError, match=r"^rollout\.engine\.arguments: .*--no-such-thing.*vllm serve"):
        Rollout(engine=engine, max_length=640).policy(student, [END]).act([request()])
    assert not servers._servers
    assert not distributed.is_initialized()


def test_the_process_is_left_as_it_was_and_draws_nothing_for_the_engine(student: PreTrainedModel) -> None:
    before = state_of_the_process()
    policy: Any = rollout().policy(student, [END])
    policy.settle()
    assert state_of_the_process() == before
    policy.act([request(episode) for episode in range(4)])
    assert state_of_the_process() == before
    assert all(one.requires_grad for one in student.parameters())


def test_turns_are_written_together_and_each_by_its_own_seed(student: PreTrainedModel) -> None:
    policy = rollout().policy(student, [END])
    several = [request(episode) for episode in range(8)]
    together = policy.act(several)
    assert [one.tokens for one in policy.act(several)] == [one.tokens for one in together]
    assert len({tuple(one.tokens) for one in together}) > 1
    assert all(len(one.tokens) == len(one.logprobs) <= 12 for one in together)
    alone = policy.submit(several[5]).result()  # type: ignore[attr-defined]
    assert alone.tokens == together[5].tokens


def test_greedy_turns_and_thoughts_are_those_of_the_transformers_engine(student: PreTrainedModel) -> None:
    budget = Budget(5, (7, 8), True, lambda tokens: "<think>")
    for wanted in (request(), request(budget=budget)):
        (here,) = TransformersPolicy(student, [END], rollout(0.0)).act([wanted])
        (there,) = rollout(0.0).policy(student, [END]).act([wanted])
        assert (there.tokens, there.forced) == (here.tokens, here.forced)
    assert there.forced is not None
    assert np.flatnonzero(there.forced).tolist() == [5, 6]


def test_a_turn_ends_with_a_stop_token_which_it_has(student: PreTrainedModel) -> None:
    (said,) = rollout(0.0).policy(student, []).act([request()])
    (stopped,) = rollout(0.0).policy(student, [said.tokens[3]]).act([request()])
    assert stopped.tokens == said.tokens[: said.tokens.index(said.tokens[3]) + 1]


def test_it_follows_all_weights_and_finds_a_context_again_until_they_change(student: PreTrainedModel) -> None:
    settings = rollout()
    policy: Any = settings.policy(student, [END])
    follows(policy, student, request(), settings)
    assert follows(policy, student, request(), settings) == len(LONG) - 128
    changed(student)
    policy.update(student, 1)
    policy.settle()
    assert follows(policy, student, request(), settings) == len(LONG)
    (server,) = servers._servers.values()
    server.rest()
    assert follows(policy, student, request(), settings) == len(LONG)  # and is awake, without caches


def test_what_vllm_raises_is_told_and_what_broke_it_makes_a_new_one(
    student: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = rollout()
    policy: Any = settings.policy(student, [END])
    follows(policy, student, request(), settings)
    (server,) = servers._servers.values()
    assert isinstance(server, InProcessServer)
    with pytest.raises(
        PolicyError, match=r"the student's vLLM could not write a turn: .*maximum context length is 640"
    ):
        server.generate([5] * 700, {})
    follows(policy, student, request(), settings)
    assert [*servers._servers.values()] == [server]
    held = freed_of(server)

    def fails(self: Any) -> Any:
        raise RuntimeError("no room here")

    with monkeypatch.context() as patch:
        patch.setattr("vllm.v1.engine.llm_engine.LLMEngine.step", fails)
        with pytest.raises(PolicyError, match=r"the student's vLLM could not write a turn: RuntimeError: no room here"):
            policy.act([request(0), request(1)])
    assert not server.alive
    folder = server.folder
    follows(policy, student, request(), settings)
    assert [*servers._servers.values()] != [server]
    del server
    gc.collect()
    assert [one() for one in held] == [None, None]
    assert not folder.exists()


def freed_of(server: InProcessServer) -> list[weakref.ref[Any]]:
    """The engine's model and the first of its caches, by references that do not keep them."""
    assert server._thread is not None
    runner = server._thread.call(lambda engine: engine.model_executor.driver_worker.worker.model_runner).result()
    return [weakref.ref(runner.model), weakref.ref(runner)]


@pytest.mark.parametrize(
    ("mode", "train"), [("sync", {}), ("async", {}), ("async", {"lora": {"r": 4}})], ids=["sync", "async", "adapter"]
)
def test_a_run_has_each_turn_written_by_the_weights_of_its_version(
    mode: str, train: dict[str, Any], tmp_path: Path
) -> None:
    """The runs follow each other in one process: of the second the engine is a new one, of the third it is one for adapters."""
    if mode == "async":
        before = state_of_the_process()
        stop_servers()
        assert state_of_the_process() == before
        assert not distributed.is_initialized()
    short = "rollout.max_turns=2", "rollout.max_new_tokens=8", f"rollout.mode={mode}"
    config = cases.tiny("rollout.engine=vllm_in_process", *short, **{"steps": 3, "eval_every": 2, **train})
    run = cases.trainer(config, tmp_path, model=_model(0), teacher_model=_model(1), folder=RunFolder(tmp_path))
    weights = Weights(run.student)
    run.add_callback(weights)
    run.train()
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert any(not torch.equal(one, weights.by_version[3][name]) for name, one in weights.by_version[0].items())
    played = [record.trajectory for record in records.open(tmp_path)]
    assert {one.versions[ENGINE] for one in played} == {"vllm_in_process"}
    assert {turn.policy_version for one in played for turn in one.turns} >= {0, 1}
    written_by_their_versions(run.student, weights.by_version, played, config.rollout)


def test_it_wears_each_adapter() -> None:
    student, settings = adapted(_model(), LORA, 0), rollout()
    policy: Any = settings.policy(student, [END])
    worn = []
    for version in range(1, 4):
        follows(policy, student, request(), settings)
        (server,) = servers._servers.values()
        worn.append(server.worn)
        changed(student)
        policy.update(student, version)
    assert len(set(worn)) == 3
    assert [path.name for path in server.folder.glob("student-*")] == [worn[-1]]
    stop_servers()
    assert not distributed.is_initialized()


def test_torch_distributed_that_is_taken_is_left_alone(student: PreTrainedModel, tmp_path: Path) -> None:
    stop_servers()
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match=r"^rollout\.engine\.kind=vllm_in_process: torch\.distributed of this"):
            rollout().policy(student, [END]).act([request()])
        assert distributed.is_initialized()
    finally:
        distributed.destroy_process_group()
