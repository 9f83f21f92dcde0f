"""What a vLLM server is asked, whoever runs it. Token ids go in and come out; it needs no tokenizer."""

import atexit
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from agentopd.errors import PolicyError, describe

NAME = "student"
"""What the model is served under, and what adapters' names begin with."""
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


@dataclass(slots=True, eq=False)
class Server(ABC):
    """One server. :func:`server_of` has it begun."""

    folder: Path
    """Of the weights that it is given; it sees it too."""
    client: httpx2.Client
    model: str = NAME
    """What it serves, without any adapter."""
    holder: object = None
    """Whose weights it has."""
    worn: str | None = None
    """The adapter that the model is in."""
    asleep: bool = False
    """Whether it has given back what it takes of a card."""
    _adapters: int = 0

    @property
    def weights(self) -> Path:
        """The folder of what it loads."""
        return self.folder / "weights"

    @property
    def served(self) -> str:
        """What turns are asked of: the model, or the model in its last adapter."""
        return self.worn or self.model

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it may be asked on."""

    @property
    def remedy(self) -> str:
        """What to do where it refuses; nothing where only this package is to blame."""
        return ""

    @abstractmethod
    def broken(self, why: str) -> PolicyError:
        """What is wrong, and what to do about it."""

    @abstractmethod
    def stop(self) -> None:
        """Leaves nothing behind."""

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

    def rest(self) -> None:
        """Has it keep its weights in the host's memory and nothing on a card, until :meth:`wake`. Raises as :meth:`ask`."""
        if not self.asleep:
            self.ask("/sleep?level=1")
            self.asleep = True

    def wake(self) -> None:
        """Has it take back what it gave. Raises as :meth:`ask`."""
        if self.asleep:
            self.ask("/wake_up")
            self.asleep = False

    def wear(self, write: Callable[[Path], None]) -> None:
        """Puts the model into the adapter that ``write`` puts into a folder, in place of the one before.

        Each has a name of its own: one that is loaded in place is read again with every request, and its blocks stay in the prefix cache.
        """
        self._adapters += 1
        name = f"{NAME}-{self.folder.name}-{self._adapters}"
        write(self.folder / name)
        self.ask("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(self.folder / name)})
        before, self.worn = self.worn, name
        if before is not None:
            self.ask("/v1/unload_lora_adapter", {"lora_name": before})
            shutil.rmtree(self.folder / before)


def client(url: str, timeout: float, transport: httpx2.BaseTransport | None = None) -> httpx2.Client:
    """Speaks with a server, ``timeout`` seconds at most each time."""
    limits = httpx2.Timeout(timeout, connect=CONNECTING)
    return httpx2.Client(base_url=url, timeout=limits, limits=UNLIMITED, transport=transport)


S = TypeVar("S", bound=Server)


def begun(server: S, begin: Callable[[S], None]) -> S:
    """The server itself, once ``begin`` is through; where that raises nothing is left of it."""
    try:
        begin(server)
    except BaseException:
        server.stop()
        raise
    return server


def new_folder(within: str | None = None) -> Path:
    """A folder for a server."""
    return Path(tempfile.mkdtemp(prefix="agentopd-vllm-", dir=within))


_servers: dict[str, Server] = {}


def server_of(key: str, begin: Callable[[], Server]) -> Server:
    """The one server of this process; another one is stopped where its key differs, or it is dead, and a new one begun.

    Args:
        key: What it is for.
        begin: Starts or finds one.

    Raises:
        ConfigError: There is no vLLM, or it is not as it must be.
        PolicyError: It does not start, or does not answer.
    """
    running = _servers.get(key)
    if running is not None and running.alive:
        return running
    stop_servers()
    return _servers.setdefault(key, begin())


def rest_servers() -> None:
    """Has what is begun, and lives, give back what it takes of a card. Raises as :meth:`Server.ask`."""
    for server in _servers.values():
        if server.alive:
            server.rest()


def stop_servers() -> None:
    """Stops what was begun."""
    while _servers:
        _servers.popitem()[1].stop()


atexit.register(stop_servers)
