"""What of vLLM in this process needs no vLLM: settings, and the thread, around an engine that is none. The real one: ``tests/training/test_vllm_in_process.py``."""

import os
import random
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from model_cases import model_of
from peft import LoraConfig

from agentopd.adapters import adapted
from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.rollout import Request, Rollout
from agentopd.rollout.engines import VllmInProcessEngine
from agentopd.rollout.vllm import in_process
from agentopd.rollout.vllm import server as servers
from agentopd.rollout.vllm.stepping import EngineThread, undisturbed
from agentopd.rollout.vllm.weights import checkpoint_of, write_config
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.ranks import Ranks

HERE = "rollout.engine=vllm_in_process"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """This interpreter has a vLLM, as far as anybody looks."""
    monkeypatch.setattr(in_process, "find_spec", lambda name: name)


def test_an_interpreter_without_vllm_is_told_before_anything_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "find_spec", lambda name: None)
    told = r"^rollout\.engine\.kind=vllm_in_process: this interpreter has no vLLM; install it by pip install 'agentopd\[vllm\]', or"
    with pytest.raises(ConfigError, match=told):
        arguments(load_config("quickstart", [HERE]), None)
    policy = Rollout(engine={"kind": "vllm_in_process"}, max_length=64).policy(model_of("llama", torch.float32), [3])
    with pytest.raises(ConfigError, match=told):
        policy.act([Request(0, [4, 5], 0, 2)])
    assert not servers._servers


@pytest.mark.usefixtures("installed")
def test_what_would_share_torch_distributed_with_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments(load_config("quickstart", [HERE]), None)
    actors = load_config("quickstart", [HERE, "cluster.rollout={actors: 2}"])
    with pytest.raises(
        ConfigError, match=r"kind=vllm_in_process: the actors of cluster\.rollout would each hold an engine"
    ):
        arguments(actors, None)
    with monkeypatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # as torchrun sets it, also of one process
        with pytest.raises(
            ConfigError, match=r"^rollout\.engine\.kind=vllm_in_process: torch\.distributed .* without a launcher"
        ):
            arguments(load_config("quickstart", [HERE]), None)
    monkeypatch.setattr("agentopd.training.loop.arguments.joined", lambda: Ranks(0, 2))
    with pytest.raises(
        ConfigError, match=r"kind=vllm_in_process: 2 processes would each hold .* choose kind: vllm, which"
    ):
        arguments(load_config("quickstart", [HERE]), None)


def test_it_is_told_what_the_settings_say_last_and_sleeps_on_a_card_alone() -> None:
    engine = VllmInProcessEngine(arguments=("--gpu-memory-utilization=0.3",), sleep=True)
    for device, sleeps in (("cuda", ["--enable-sleep-mode"]), ("cpu", [])):
        model: Any = SimpleNamespace(device=torch.device(device))
        assert engine.told(model, ["--dtype", "float32"]) == [
            "--dtype",
            "float32",
            *sleeps,
            "--gpu-memory-utilization=0.3",
        ]
    assert engine.rest is not None
    assert VllmInProcessEngine().rest is None


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_given_as_they_are(tied: bool, tmp_path: Any) -> None:
    model = model_of("llama", torch.float32, tie_word_embeddings=tied)
    plain = dict(model.named_parameters(remove_duplicate=False))
    student = adapted(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"), 0)
    given = checkpoint_of(student)
    assert given.keys() == {name.replace(".base_layer", "") for name in plain}
    for name, one in plain.items():
        same = given[name].data_ptr() == one.data_ptr()
        assert torch.equal(given[name], one)
        assert same is not (tied and name == "lm_head.weight")  # a CPU's head is one of its own
        assert not given[name].requires_grad
    write_config(student, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@dataclass
class Steps:
    """An engine that is none: a turn ends after as many steps as its name's first asks for."""

    left: dict[str, int] = field(default_factory=dict)
    together: list[int] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    fails: bool = False

    @property
    def engine_core(self) -> Any:
        """What ends it."""
        return SimpleNamespace(shutdown=self.ended.set)

    def step(self) -> list[Any]:
        """One for all."""
        assert self.go.wait(10)
        if self.fails:
            raise RuntimeError("no room here")
        self.together.append(len(self.left))
        self.left = {name: count - 1 for name, count in self.left.items()}
        over = [name for name, count in self.left.items() if count == 0]
        outputs = [SimpleNamespace(request_id=name, finished=name in over) for name in self.left]
        self.left = {name: count for name, count in self.left.items() if count > 0}
        return outputs

    def abort_request(self, names: list[str]) -> None:
        """Lets go of turns."""
        self.aborted += names
        self.left = {name: count for name, count in self.left.items() if name not in names}


def turn(thread: EngineThread, steps: int) -> "tuple[str, Future[Any]]":
    return thread.turn(lambda engine, name: engine.left.update({name: steps}))


@pytest.fixture
def engine() -> Steps:
    return Steps()


@pytest.fixture
def thread(engine: Steps) -> Any:
    made = EngineThread(lambda: engine)
    yield made
    engine.go.set()
    made.stop(10)
    assert engine.ended.is_set()


def test_turns_join_those_that_are_under_way(thread: EngineThread, engine: Steps) -> None:
    asked = [turn(thread, steps) for steps in (1, 3, 2)]
    read = thread.call(lambda engine: len(engine.left))
    engine.go.set()
    assert [future.result(10).request_id for _, future in asked] == [name for name, _ in asked]
    assert read.result(10) in (1, 2, 3)
    assert max(engine.together) <= 3
    assert sum(engine.together) == 6


def test_what_breaks_the_engine_ends_all_turns(thread: EngineThread, engine: Steps) -> None:
    engine.fails = True
    asked = [turn(thread, 1)[1] for _ in range(3)]
    engine.go.set()
    for future in asked:
        with pytest.raises(RuntimeError, match="no room here"):
            future.result(10)
    assert isinstance(thread.failure, RuntimeError)


def test_a_request_that_is_refused_ends_itself_alone(thread: EngineThread, engine: Steps) -> None:
    def refused(engine: Any, name: str) -> None:
        raise ValueError("too long")

    kept = turn(thread, 1)[1]
    engine.go.set()
    with pytest.raises(ValueError, match="too long"):
        thread.turn(refused)[1].result(10)
    kept.result(10)
    assert thread.failure is None
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda engine: 1 / 0).result(10)
    assert isinstance(thread.failure, ZeroDivisionError)


def test_a_turn_that_nobody_waits_for_is_aborted(thread: EngineThread, engine: Steps) -> None:
    name, never = turn(thread, 10**9)
    thread.abandon(name)
    engine.go.set()
    turn(thread, 1)[1].result(10)
    assert engine.aborted == [name]
    assert not never.done()


def test_who_stops_it_ends_the_turns_under_way(thread: EngineThread, engine: Steps) -> None:
    _, never = turn(thread, 10**9)
    engine.go.set()
    thread.stop(10)
    with pytest.raises(RuntimeError, match="was stopped"):
        never.result(10)
    assert engine.ended.is_set()
    assert thread.call(lambda engine: None).cancelled()


def test_an_engine_that_is_not_made_says_why() -> None:
    thread = EngineThread(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        thread.begun.result(10)
    assert isinstance(thread.failure, ZeroDivisionError)


def test_what_is_changed_of_the_process_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOPD_HERE", "1")
    environment, hook, setter, threads = (
        dict(os.environ),
        sys.excepthook,
        torch.set_num_threads,
        torch.get_num_threads(),
    )
    drawn = [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]
    with undisturbed():
        os.environ |= {"AGENTOPD_HERE": "2", "AGENTOPD_THERE": "1"}
        torch.set_num_threads(threads + 1)
        torch.set_num_threads = lambda nthreads: None
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        torch.set_default_dtype(torch.float64)
        sys.excepthook = lambda *told: None
    assert dict(os.environ) == environment
    assert (sys.excepthook, torch.set_num_threads, torch.get_num_threads()) == (hook, setter, threads)
    assert [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())] == drawn
    assert torch.get_default_dtype() == torch.float32
