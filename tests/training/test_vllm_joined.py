"""A vLLM server of one's own plays the student's turns: run by ``make test-vllm``, which installs it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from peft import LoraConfig
from transformers import PreTrainedModel
from vllm_cases import MARKS, VLLM, follows, free_port

from agentopd.adapters import adapted
from agentopd.errors import PolicyError
from agentopd.models import NewModel, new_model
from agentopd.rollout import Request, Rollout
from agentopd.rollout.vllm.http_server import FLAGS
from agentopd.rollout.vllm.server import stop_servers
from agentopd.rollout.vllm.weights import write_weights
from benchmarks.vllm_server import vllm_server

pytestmark = MARKS
REQUEST = Request(0, list(range(10, 30)), 3, 12)
LORA = ("--enable-lora", "--max-lora-rank=8")


def test_a_server_of_ones_own_follows_weights_and_adapters_also_where_it_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        monkeypatch.setenv(name, "1")
    student, port = _model(), free_port()
    write_weights(student, tmp_path / "served")
    share = tmp_path / "share"
    share.mkdir()
    url = f"http://127.0.0.1:{port}"
    engine = {"kind": "vllm_server", "url": url, "share": str(share)}
    settings = Rollout(engine=engine, temperature=0.7, max_length=512, max_new_tokens=12)

    def serving() -> Any:
        return vllm_server(VLLM, tmp_path / "served", port, tmp_path / "vllm.log", [*FLAGS, *LORA])

    plain = settings.policy(student, [0])
    with serving():
        follows(plain, student, REQUEST, settings)
        changed(student)
        plain.update(student, 1)
        follows(plain, student, REQUEST, settings)
    with pytest.raises(PolicyError, match=f"vLLM server at {url} did not answer .*go on with --resume"):
        plain.act([REQUEST])
    with serving():  # with the weights that it began with
        follows(plain, student, REQUEST, settings)
        wrapped = adapted(student, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"), 0)
        worn = settings.policy(wrapped, [0])
        for version in (1, 2):
            changed(wrapped)
            worn.update(wrapped, version)
            follows(worn, wrapped, REQUEST, settings)
        (folder,) = share.iterdir()
        assert len(list(folder.glob("student-*"))) == 1
        stop_servers()
        assert not list(share.iterdir())


def _model() -> PreTrainedModel:
    """The attention of vLLM's CPU build takes heads of 32 numbers, and none smaller."""
    shape = NewModel(hidden_size=64, layers=1, heads=2, intermediate_size=96, max_positions=1024)
    return new_model(shape, cases.tokenizer(), 0)


def changed(model: Any) -> None:
    """Adds noise to what is trained."""
    torch.manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one += 0.1 * torch.randn_like(one)
