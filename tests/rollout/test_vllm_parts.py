"""What of the vLLM engine needs no vLLM: settings, the files of weights, a server that is none. The rest: ``tests/test_vllm_engine.py``."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import torch
from model_cases import model_of
from peft import LoraConfig
from safetensors.torch import load_file
from torch import distributed
from transformers import AutoConfig, PreTrainedModel

from agentopd.adapters import adapted
from agentopd.config import load_config
from agentopd.errors import ConfigError, PolicyError
from agentopd.rollout import Request, Rollout, TransformersPolicy
from agentopd.rollout.engines import VllmEngine
from agentopd.rollout.vllm import server as servers
from agentopd.rollout.vllm.environment import CARDS, environment
from agentopd.rollout.vllm.http_server import HttpServer, client
from agentopd.rollout.vllm.weights import lora_arguments, shape_of, write_weights


def llama(tied: bool = True) -> PreTrainedModel:
    return model_of("llama", torch.float32, tie_word_embeddings=tied)


def rollout(**engine: Any) -> Rollout:
    return Rollout(engine={"kind": "vllm", **engine}, max_length=64, max_new_tokens=4)


def test_the_engine_is_chosen_by_its_kind() -> None:
    assert isinstance(Rollout().policy(llama(), [3]), TransformersPolicy)
    with pytest.raises(
        ConfigError, match=r"engine: no engine is called 'vlm' \(did you mean 'vllm'\?\); there are: transformers, vllm"
    ):
        load_config("quickstart", ["rollout.engine=vlm"])
    with pytest.raises(ConfigError, match=r"in_flight"):
        load_config("quickstart", ["rollout.engine={kind: vllm, in_flight: 0}"])


def test_two_models_that_write_a_turn_together_take_logits() -> None:
    source = "objective.sampler.acting={kind: tokens, alpha: 0.5, by: teacher}"
    load_config("quickstart", [source])
    with pytest.raises(
        ConfigError, match=r"takes the logits of two models, which rollout.engine.kind=vllm does not give"
    ):
        load_config("quickstart", [source, "rollout.engine=vllm"])


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_written_with_a_head_of_their_own(tied: bool, tmp_path: Path) -> None:
    model = llama(tied)
    shape = shape_of(model)
    write_weights(model, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    for name, one in model.named_parameters(remove_duplicate=False):
        assert torch.equal(written[name], one)
    assert not AutoConfig.from_pretrained(tmp_path).tie_word_embeddings
    assert model.config.tie_word_embeddings == tied
    model.config.use_cache = False  # as the Trainer has it
    assert shape_of(model) == shape


def test_other_weights_are_other_everywhere(tmp_path: Path) -> None:
    model = llama()
    write_weights(model, tmp_path, others=True)
    written = load_file(tmp_path / "model.safetensors")
    for name, one in model.named_parameters(remove_duplicate=False):
        assert (written[name] != one).float().mean() > 0.99


def test_below_an_adapter_lie_the_plain_weights(tmp_path: Path) -> None:
    model = llama()
    plain = {name: one.clone() for name, one in model.named_parameters(remove_duplicate=False)}
    student = adapted(model, LoraConfig(r=9, target_modules="all-linear", task_type="CAUSAL_LM"), 0)
    write_weights(student, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == plain.keys()
    assert all(torch.equal(written[name], one) for name, one in plain.items())
    assert lora_arguments(student) == ["--enable-lora", "--max-lora-rank", "16"]
    assert lora_arguments(model) == []


@pytest.mark.parametrize(
    ("setting", "told"), [({"use_dora": True}, "use_dora"), ({"bias": "lora_only"}, "bias=lora_only")]
)
def test_an_adapter_that_vllm_does_not_know_is_refused(setting: Any, told: str) -> None:
    student = adapted(llama(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **setting), 0)
    with pytest.raises(
        ConfigError, match=f"vLLM serves no adapter with {told}; train one without it, or choose kind: transformers"
    ):
        rollout().policy(student, [3])


def test_an_interpreter_without_vllm_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "python"
    with pytest.raises(
        ConfigError,
        match=r"rollout.engine.python=.*: there is no such program; name the interpreter that vLLM is installed for",
    ):
        rollout(python=str(missing)).policy(llama(), [3]).act([Request(0, [4, 5], 0, 2)])
    _script(missing, f"exec {sys.executable} -S -c 'import vllm'")
    with pytest.raises(
        ConfigError, match=r"rollout.engine.python=.*: it has no vLLM; install vllm for it, or name the interpreter"
    ):
        rollout(python=str(missing)).policy(llama(), [3]).act([Request(0, [4, 5], 0, 2)])


def test_a_server_that_ends_says_where_its_log_is(tmp_path: Path) -> None:
    _script(tmp_path / "python", "echo ' ERROR x: RuntimeError: no room here'; exit 3")
    policy = rollout(python=str(tmp_path / "python")).policy(llama(), [3])
    with pytest.raises(
        PolicyError, match=r"has ended with status 3: RuntimeError: no room here; all that it said stands in"
    ) as told:
        policy.act([Request(0, [4, 5], 0, 2)])
    assert not servers._servers
    log = Path(str(told.value).rsplit(" ", 1)[1])
    assert "no room here" in log.read_text()
    assert [path.name for path in log.parent.iterdir()] == ["vllm.log"]
    shutil.rmtree(log.parent)


_KILLED = """
import sys
sys.path[:0] = sys.argv[2:]
from test_vllm_parts import Request, llama, rollout
rollout(python=sys.argv[1]).policy(llama(), [3]).act([Request(0, [4, 5], 0, 2)])
"""


def test_the_server_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    _script(
        tmp_path / "python", f"echo $$ $4 > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 600"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    owner = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path / "python"), *paths])
    _until((tmp_path / "pid").exists)
    server, weights = (tmp_path / "pid").read_text().split()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    _until(lambda: not _alive(int(server)) and not Path(weights).parent.exists())


LAUNCHED = {
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
    "ROLE_RANK": "1", "ROLE_NAME": "default", "ROLE_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_MAX_RESTARTS": "0",
}  # fmt: skip
"""What ``torchrun --nproc-per-node 2`` sets (``LocalElasticAgent`` of torch 2.13)."""


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second of two."""
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)


@pytest.mark.usefixtures("second")
def test_a_server_hears_nothing_of_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    _script(tmp_path / "python", f"env > {tmp_path}/told; exit 3")
    policy = rollout(python=str(tmp_path / "python")).policy(llama(), [3])
    with pytest.raises(PolicyError, match="has ended with status 3") as error:
        policy.act([Request(0, [4, 5], 0, 2)])
    shutil.rmtree(Path(str(error.value).rsplit(" ", 1)[1]).parent)
    told = dict(line.split("=", 1) for line in (tmp_path / "told").read_text().splitlines() if "=" in line)
    assert not told.keys() & LAUNCHED.keys()
    assert (told["OMP_NUM_THREADS"], told["VLLM_SERVER_DEV_MODE"]) == ("7", "1")


@pytest.mark.usefixtures("second")
def test_every_process_writes_weights_for_its_server(tmp_path: Path) -> None:
    model = llama()
    write_weights(model, tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["model.norm.weight"], model.model.norm.weight)
    model.save_pretrained(tmp_path / "usual")  # which of several processes the first alone writes
    assert not (tmp_path / "usual" / "model.safetensors").exists()


@pytest.mark.usefixtures("second")
@pytest.mark.parametrize(
    ("seen", "number", "card"), [(None, 1, "1"), ("4,5", 1, "5"), ("GPU-a, GPU-b", 1, "GPU-b"), ("3", 0, "3")]
)
def test_a_server_sees_the_card_of_its_process(
    seen: str | None, number: int, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CARDS, raising=False)
    if seen is not None:
        monkeypatch.setenv(CARDS, seen)
    assert environment(torch.device("cuda", number))[CARDS] == card
    assert environment(torch.device("cpu")).get(CARDS) == seen


def test_the_server_of_a_single_process_sees_all_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CARDS, "4,5")
    assert environment(torch.device("cuda", 0))[CARDS] == "4,5"


class NoServer(HttpServer):
    """What it is asked is kept, and answered with nothing."""

    alive = True

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        super().__init__(folder, client=client("http://none", 1.0, httpx2.MockTransport(self._answer)))

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(f"{request.url.path}?{request.url.query.decode()}".rstrip("?"))
        return httpx2.Response(200)

    def broken(self, why: str) -> PolicyError:
        """Unused."""
        return PolicyError(why)

    def stop(self) -> None:
        """Nothing to stop."""


def test_a_server_sleeps_and_wakes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = NoServer(tmp_path)
    monkeypatch.setattr(servers, "_servers", {"any": server})
    server.wake()
    assert server.asked == []
    assert rollout().made_engine.rest is None
    rest = rollout(sleep=True).made_engine.rest
    assert rest is not None
    rest()
    rest()
    assert server.asked == ["/sleep?level=1"]
    server.wake()
    server.wake()
    assert server.asked == ["/sleep?level=1", "/wake_up"]


def test_a_server_is_started_so_that_it_can_sleep_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _script(tmp_path / "python", f'echo "$@" > {tmp_path}/told; exit 3')
    engine = rollout(python=str(tmp_path / "python"), sleep=True).made_engine
    assert isinstance(engine, VllmEngine)
    monkeypatch.setattr("agentopd.rollout.vllm.started.write_weights", lambda model, folder, others: folder.mkdir())
    for device, sleeps in (("cuda", True), ("cpu", False)):
        model: Any = SimpleNamespace(device=torch.device(device))
        with pytest.raises(PolicyError) as error:
            engine.server(model, ["--seed=1"], 64)
        shutil.rmtree(Path(str(error.value).rsplit(" ", 1)[1]).parent)
        assert ("--enable-sleep-mode" in (tmp_path / "told").read_text()) is sleeps


def test_what_is_ahead_of_learning_does_not_sleep() -> None:
    with pytest.raises(ConfigError, match=r"engine\.sleep=true: in mode async turns are written while .*leave it out"):
        load_config("quickstart", ["rollout.engine={kind: vllm, sleep: true}", "rollout.mode=async"])


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _until(true: Any) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
