"""What of a vLLM server of one's own needs no vLLM: a server of this test's stands in. The real one: ``tests/training/test_vllm_joined.py``."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import model_of
from serving_cases import Handler, running

from agentopd.config import load_config
from agentopd.errors import ConfigError, PolicyError
from agentopd.rollout import Request, Rollout
from agentopd.rollout.vllm import server as servers
from agentopd.rollout.vllm.http_server import FLAGS
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.ranks import Ranks

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


@dataclass
class Named:
    """The models that a server names."""

    models: Any
    url: str = ""


class Naming(Handler):
    """Names models, and knows nothing else."""

    def do_GET(self) -> None:
        self.answered(200, json.dumps({"data": self.server.served.models}).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        self.answered(404, b"")


@contextmanager
def answering(models: Any) -> Iterator[str]:
    named = Named(models)
    with running(named, Naming):
        yield named.url


def act(url: str, share: Path) -> None:
    settings = Rollout(engine={"kind": "vllm_server", "url": url, "share": str(share)}, max_length=64, max_new_tokens=4)
    settings.policy(model_of("llama", torch.float32), [3]).act([Request(0, [4, 5], 0, 2)])


def test_a_server_that_takes_shorter_episodes_is_refused_at_once(tmp_path: Path) -> None:
    with (
        answering([{"id": "qwen", "parent": None, "max_model_len": 32}]) as url,
        pytest.raises(
            ConfigError,
            match=r"rollout\.max_length=64: the server at .* takes 32 tokens; start it with --max-model-len 64",
        ),
    ):
        act(url, tmp_path)
    assert not list(tmp_path.iterdir())
    assert not servers._servers


def test_a_server_without_its_development_mode_says_what_to_start_it_with(tmp_path: Path) -> None:
    with (
        answering([{"id": "qwen", "parent": None, "max_model_len": 64}]) as url,
        pytest.raises(
            PolicyError, match=r"refused /collective_rpc with 404: ; it runs at .*, and docs/training\.md says"
        ),
    ):
        act(url, tmp_path)
    [folder] = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o755
    servers.stop_servers()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("models", [[], [{"id": "a", "parent": "b"}], [3], "qwen"])
def test_what_is_no_server_of_vllm_is_told(models: Any, tmp_path: Path) -> None:
    with (
        answering(models) as url,
        pytest.raises(PolicyError, match=r"rollout\.engine\.url=.*: it names no model of vLLM's"),
    ):
        act(url, tmp_path)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=r"vLLM server at http://127\.0\.0\.1:9 did not answer /v1/models .*go on with --resume"
    ):
        act("http://127.0.0.1:9", tmp_path)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.engine\.share=.*none: no folder can be made there \(No such file"):
        act("http://127.0.0.1:9", tmp_path / "none")


def test_one_server_serves_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = "rollout.engine={kind: vllm_server, url: 'http://node:8000', share: /mnt}"
    config = load_config("quickstart", [engine, "cluster.rollout={actors: 2}"])
    with pytest.raises(
        ConfigError, match=r"kind=vllm_server: the actors of cluster\.rollout would each give its one server"
    ):
        arguments(config, None)
    monkeypatch.setattr("agentopd.training.loop.arguments.joined", lambda: Ranks(0, 2))
    with pytest.raises(
        ConfigError, match=r"kind=vllm_server: 2 processes would each give its one server their weights"
    ):
        arguments(load_config("quickstart", [engine]), None)
    with pytest.raises(ConfigError, match=r"url"):
        load_config("quickstart", ["rollout.engine={kind: vllm_server, url: node-7, share: /mnt}"])


def test_the_page_names_all_that_such_a_server_is_started_with() -> None:
    assert [
        flag for flag in (*FLAGS, "VLLM_SERVER_DEV_MODE=1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1") if flag not in PAGE
    ] == []
