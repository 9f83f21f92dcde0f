"""Turns that are being written while others join them: what a policy has under way, driven a little at a time."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentopd.errors import ConfigError, PolicyError, describe
from agentopd.profiling import lasted, span
from agentopd.rollout.batch import Row
from agentopd.rollout.decoding import Decoding
from agentopd.rollout.engine import TransformersPolicy, check_requests, decoding, scripted
from agentopd.rollout.policy import Generation, Policy, Request

JOIN, COPY = 4, 2
"""Turns that wait join once there is one for so many that are being written, where there are places for them; else, since then all caches
are copied, once there is one for so many."""


@dataclass(frozen=True, slots=True)
class Written:
    """A turn that has ended."""

    episode: int
    generation: Generation
    seconds: float
    """Its share of the time in which turns were under way: over all turns they sum to that time."""


@runtime_checkable
class Submitting(Policy, Protocol):
    """A policy whose turns are written elsewhere, each by itself."""

    def submit(self, request: Request) -> "Future[Generation]":
        """Begins a turn."""
        ...

    def settle(self) -> None:
        """Whoever writes has the weights of now when this returns; afterwards the model may change while turns are written."""
        ...


class Flow(ABC):
    """What one policy has under way. Only one thread may use it."""

    elsewhere = False
    """Whether turns are written without :meth:`step`, which then only looks what has ended."""

    def __init__(self, actor: str) -> None:
        self.seconds = 0.0
        """In which turns were under way."""
        self._actor = actor
        self._seconds: dict[int, float] = {}
        self._since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a turn is under way."""
        return bool(self._seconds)

    def add(self, requests: Sequence[Request]) -> None:
        """Takes turns to write, of episodes that have none under way.

        Raises:
            PolicyError: A request is impossible.
        """
        check_requests(requests)
        if not self.busy:
            self._since = time.perf_counter()
        self._seconds |= {request.episode: 0.0 for request in requests}
        with blamed(self._actor):
            self._add(requests)

    def step(self) -> list[Written]:
        """Goes on a little; the turns that have ended.

        Raises:
            PolicyError: The policy failed.
        """
        if not self.busy:
            return []
        begin = self._since if self.elsewhere else time.perf_counter()
        with blamed(self._actor):
            ended = self._step()
        self._since = time.perf_counter()
        self.seconds += self._since - begin
        share = (self._since - begin) / len(self._seconds)
        self._seconds = {episode: seconds + share for episode, seconds in self._seconds.items()}
        return [Written(episode, one, self._seconds.pop(episode)) for episode, one in ended]

    @abstractmethod
    def release(self, episode: int) -> None:
        """The episode is over; it has no turn under way."""

    @abstractmethod
    def _add(self, requests: Sequence[Request]) -> None: ...

    @abstractmethod
    def _step(self) -> list[tuple[int, Generation]]: ...


def flow_of(actor: str, policy: Policy) -> Flow:
    """What drives the ``policy`` of ``actor``."""
    if isinstance(policy, TransformersPolicy):
        return Continuous(actor, policy)
    return Elsewhere(actor, policy) if isinstance(policy, Submitting) else Whole(actor, policy)


def generations(actor: str, policy: Policy, requests: Sequence[Request]) -> list[Generation]:
    """What ``policy`` writes to ``requests``, one each.

    Raises:
        PolicyError: It failed, or gave too many or too few.
    """
    with blamed(actor), span(f"generate {actor}"):
        found = policy.act(requests)
    if len(found) != len(requests):
        raise PolicyError(f"the policy of {actor!r} gave {len(found)} generations for {len(requests)} requests")
    return found


@contextmanager
def blamed(actor: str) -> Iterator[None]:
    """Raises PolicyError, which names ``actor``, for whatever goes wrong inside."""
    try:
        yield
    except (PolicyError, ConfigError):
        raise
    except Exception as error:
        raise PolicyError(f"the policy of {actor!r} failed: {describe(error)}") from error


class Whole(Flow):
    """A policy that is asked for all turns that wait, and gives them whole."""

    def __init__(self, actor: str, policy: Policy) -> None:
        super().__init__(actor)
        self._policy = policy
        self._waiting: list[Request] = []

    def _add(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    def _step(self) -> list[tuple[int, Generation]]:
        asked, self._waiting = self._waiting, []
        written = generations(self._actor, self._policy, asked)
        return [(request.episode, one) for request, one in zip(asked, written, strict=True)]

    def release(self, episode: int) -> None:
        """The policy frees what it keeps."""
        self._policy.release([episode])


class Elsewhere(Flow):
    """A policy that takes turns one by one, such as a server's."""

    elsewhere = True

    def __init__(self, actor: str, policy: Submitting) -> None:
        super().__init__(actor)
        self._policy = policy
        self._futures: dict[int, Future[Generation]] = {}
        self._asked: dict[int, float] = {}

    def _add(self, requests: Sequence[Request]) -> None:
        self._asked |= dict.fromkeys((request.episode for request in requests), time.perf_counter())
        self._futures |= {request.episode: self._policy.submit(request) for request in requests}

    def _step(self) -> list[tuple[int, Generation]]:
        done = [episode for episode, future in self._futures.items() if future.done()]
        for episode in done:
            lasted(f"generate {self._actor}", str(episode), time.perf_counter() - self._asked.pop(episode))
        return [(episode, self._futures.pop(episode).result()) for episode in done]

    def release(self, episode: int) -> None:
        """The policy frees what it keeps."""
        self._policy.release([episode])


class Continuous(Flow):
    """The transformers engine: turns that wait join those that are being written, between two tokens.

    Models that keep no cache between turns write those that wait once all others have ended.
    """

    def __init__(self, actor: str, policy: TransformersPolicy) -> None:
        super().__init__(actor)
        self._policy = policy
        self._turns = Decoding([policy], policy.take, joined=True)
        self._waiting: list[Request] = []

    def _add(self, requests: Sequence[Request]) -> None:
        self._waiting += requests

    def _step(self) -> list[tuple[int, Generation]]:
        ended = [(r.episode, scripted(r.script)) for r in self._waiting if r.script is not None]
        self._waiting = [request for request in self._waiting if request.script is None]
        with decoding([self._policy]), span(f"generate {self._actor}"):
            if self._waiting and not self._turns.alive:
                self._turns.begin([self._policy.rows(self._joining())])
            rows: list[Row] = self._turns.step(self._joining()) if self._turns.alive else []
        return ended + [(row.request.episode, row.generation) for row in rows]

    def _joining(self) -> list[Request]:
        """Those that wait, where it is worth it that they join now; they wait no more then."""
        alive, waiting = len(self._turns.alive), len(self._waiting)
        often = JOIN if waiting <= self._turns.places else COPY
        if alive and not (self._turns.plain and often * waiting >= alive):
            return []
        joining, self._waiting = self._waiting, []
        return joining

    def release(self, episode: int) -> None:
        """Its cache is freed."""
        self._turns.forget(episode)
        self._policy.release([episode])
