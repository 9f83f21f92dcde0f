"""A vLLM server that is spoken to over HTTP, whoever runs it. Weights reach it as files."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from transformers import PreTrainedModel

from agentopd.errors import PolicyError, describe
from agentopd.rollout.vllm.server import NAME, Drawn, Server
from agentopd.rollout.vllm.weights import write_weights

GENERATE = "/inference/v1/generate"
FLAGS = (
    "--skip-tokenizer-init", "--enable-scale-out", "--max-logprobs=1", "--logprobs-mode=processed_logprobs",
    "--enable-prompt-tokens-details",
)  # fmt: skip
"""How vLLM is started, so that it can be asked all this."""
UNLIMITED = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
CONNECTING = 30.0
"""Seconds in which a server must take a connection."""
TOLD = 500
"""Characters of an answer that a message repeats."""


@dataclass(slots=True, eq=False, kw_only=True)
class HttpServer(Server):
    """One server, whose development mode is on."""

    client: httpx2.Client
    model: str = NAME
    """What it serves, without any adapter."""

    @property
    def weights(self) -> Path:
        """The folder of what it loads."""
        return self.folder / "weights"

    @property
    def served(self) -> str:
        """What turns are asked of: the model, or the model in its last adapter."""
        return self.worn or self.model

    @property
    def remedy(self) -> str:
        """What to do where it refuses; nothing where only this package is to blame."""
        return ""

    @abstractmethod
    def broken(self, why: str) -> PolicyError:
        """What is wrong, and what to do about it."""

    def ask(self, path: str, body: Mapping[str, Any] | None = None, method: str = "POST") -> Any:
        """What it answers to ``body``; ``None`` where that is nothing.

        Raises:
            PolicyError: It is gone, refused, or took too long.
        """
        try:
            answer = self.client.request(method, path, json=body)
            if answer.is_server_error:
                raise self.broken(f"failed at {path} with {answer.status_code}")
            if not answer.is_success:
                raise PolicyError(
                    f"the student's vLLM server refused {path} with {answer.status_code}: {answer.text[:TOLD]}{self.remedy}"
                )
            return answer.json() if answer.headers.get("content-type", "").startswith("application/json") else None
        except (httpx2.RequestError, ValueError) as error:
            raise self.broken(f"did not answer {path} ({describe(error)})") from error

    def generate(self, tokens: list[int], sampling: Mapping[str, Any]) -> Drawn:
        """By its tokens-in, tokens-out endpoint."""
        answer = self.ask(GENERATE, {"model": self.served, "token_ids": tokens, "sampling_params": sampling})
        try:
            (choice,) = answer["choices"]
            details = answer["usage"].get("prompt_tokens_details") or {}
            return Drawn(
                [int(token) for token in choice["token_ids"]],
                [float(one["logprob"]) for one in choice["logprobs"]["content"]],
                int(details.get("cached_tokens") or 0),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the student's vLLM server answered what cannot be used: {error!r}") from error

    def load(self, model: PreTrainedModel) -> None:
        """By way of its folder."""
        write_weights(model, self.weights)
        self.ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(self.weights)}})

    def forget(self) -> bool:
        """Asks it to."""
        return bool((self.ask("/reset_prefix_cache") or {}).get("success"))

    def _put_on(self, name: str) -> None:
        self.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self.folder / name)})

    def _take_off(self, name: str) -> None:
        self.ask("/v1/unload_lora_adapter", {"lora_name": name})

    def _sleep(self) -> None:
        self.ask("/sleep?level=1")

    def _wake(self) -> None:
        self.ask("/wake_up")


def client(url: str, timeout: float, transport: httpx2.BaseTransport | None = None) -> httpx2.Client:
    """Speaks with a server, ``timeout`` seconds at most each time."""
    limits = httpx2.Timeout(timeout, connect=CONNECTING)
    return httpx2.Client(base_url=url, timeout=limits, limits=UNLIMITED, transport=transport)
