"""What the student's engine asks of a vLLM, wherever that runs. Token ids go in and come out; it needs no tokenizer."""

import atexit
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedModel

NAME = "student"
"""What the model is served under, and what adapters' names begin with."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens that were drawn behind a context."""

    tokens: list[int]
    logprobs: list[float]
    """Of each under the distribution that it was drawn from."""
    cached: int
    """Tokens of the context that the prefix cache held."""

    def __post_init__(self) -> None:
        if not self.tokens or len(self.tokens) != len(self.logprobs):
            raise ValueError(f"{len(self.tokens)} tokens with {len(self.logprobs)} log-probabilities")


@dataclass(slots=True, eq=False)
class Server(ABC):
    """One vLLM with one model. :func:`server_of` has it begun."""

    folder: Path
    """Of the files that it is given; it sees it too."""
    holder: object = None
    """Whose weights it has."""
    worn: str | None = None
    """The adapter that the model is in."""
    asleep: bool = False
    """Whether it has given back what it takes of a card."""
    _adapters: int = 0

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it may be asked on."""

    @abstractmethod
    def generate(self, tokens: list[int], sampling: Mapping[str, Any]) -> Drawn:
        """What the model, in the adapter that it wears, draws behind ``tokens``.

        Args:
            tokens: The context.
            sampling: Fields of vLLM's ``SamplingParams``.

        Raises:
            PolicyError: It is gone, refused, or took too long.
        """

    @abstractmethod
    def load(self, model: PreTrainedModel) -> None:
        """Gives it all weights of ``model``, without any adapter. Raises as :meth:`generate`."""

    @abstractmethod
    def forget(self) -> bool:
        """Empties the prefix cache: whether it did. Raises as :meth:`generate`."""

    @abstractmethod
    def stop(self) -> None:
        """Leaves nothing behind."""

    def wear(self, write: Callable[[Path], None]) -> None:
        """Puts the model into the adapter that ``write`` puts into a folder, in place of the one before. Raises as :meth:`generate`.

        Each has a name of its own: one that is loaded in place is read again with every request, and its blocks stay in the prefix cache.
        """
        self._adapters += 1
        name = f"{NAME}-{self.folder.name}-{self._adapters}"
        write(self.folder / name)
        self._put_on(name)
        before, self.worn = self.worn, name
        if before is not None:
            self._take_off(before)
            shutil.rmtree(self.folder / before)

    def rest(self) -> None:
        """Has it keep its weights in the host's memory and nothing on a card, until :meth:`wake`. Raises as :meth:`generate`."""
        if not self.asleep:
            self._sleep()
            self.asleep = True

    def wake(self) -> None:
        """Has it take back what it gave. Raises as :meth:`generate`."""
        if self.asleep:
            self._wake()
            self.asleep = False

    @abstractmethod
    def _put_on(self, name: str) -> None:
        """Loads the adapter that lies in the folder of its name."""

    @abstractmethod
    def _take_off(self, name: str) -> None:
        """Lets go of an adapter that was loaded."""

    @abstractmethod
    def _sleep(self) -> None:
        """As :meth:`rest`, of one that is awake."""

    @abstractmethod
    def _wake(self) -> None:
        """As :meth:`wake`, of one that sleeps."""


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
    """Has what is begun, and lives, give back what it takes of a card. Raises as :meth:`Server.generate`."""
    for server in _servers.values():
        if server.alive:
            server.rest()


def stop_servers() -> None:
    """Stops what was begun."""
    while _servers:
        _servers.popitem()[1].stop()


atexit.register(stop_servers)
