"""What the ways to host environments have in common: a lane each, on which one call after the other is answered within a time limit."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

from agentopd.types import Failure

Isolation: TypeAlias = Literal["thread", "process"]
"""Where environments live: in threads of this process, or each in a process of its own."""

PARTING = 5.0
"""Seconds that environments which still close when a run or the program ends are waited for."""
_TOLD: Mapping[str, str] = {"replay": "giving its actions again", "make": "making it", "look": "making it"}
"""What messages call methods whose name does not say it."""


class Hosted(Protocol):
    """An environment with what is done to it. It is made where it lives: what makes it is sent there."""

    @property
    def env_id(self) -> str:
        """The id of its environment, as it is given to :func:`agentopd.make`."""
        ...

    def packed(self, result: Any) -> Any:
        """What one of its methods returned, as text, numbers, booleans, ``None``, and lists, tuples and dicts of them."""
        ...

    def unpacked(self, packed: Any) -> Any:
        """The reverse of :meth:`packed`."""
        ...

    def close(self) -> None:
        """Closes the environment, where one was made."""
        ...


class Lane(Protocol):
    """Where one environment lives."""

    @abstractmethod
    def submit(self, method: str, *arguments: Any, calls: int = 1) -> None:
        """Starts a method of what is hosted; its time runs from now, and is that of so many ``calls``."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether :meth:`result` would not wait: the answer is there, or its time is over."""

    @abstractmethod
    def result(self) -> Any:
        """What the last method returned, or a :class:`~agentopd.types.Failure` that says why it did not."""

    @abstractmethod
    def close(self) -> None:
        """Closes what is hosted, without waiting for it."""


class Host(Protocol):
    """Gives lanes. Only the thread that made it may use it and its lanes."""

    @abstractmethod
    def lane(self, hosted: Hosted) -> Lane:
        """A new lane, for ``hosted`` alone.

        Raises:
            ConfigError: It cannot live there.
            EnvError: There is no room for it.
        """

    @abstractmethod
    def wait(self, seconds: float) -> None:
        """Waits until a lane has answered that had not when this was called last, at most so long; it may return sooner."""


def told(method: str) -> str:
    """What messages call a method."""
    return _TOLD.get(method, method)


def late(call: str, time_limit: float, calls: int, more: str = "") -> Failure:
    """The failure of a call that did not end in time."""
    each = f" for each of {calls} calls" if calls > 1 else ""
    slow = "" if call == told("step") else "; raise time_limit where that is its usual time"
    return Failure("env", "timeout", f"{call} took longer than time_limit={time_limit:g} s{each}{more}{slow}")
