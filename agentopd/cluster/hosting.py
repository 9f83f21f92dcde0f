"""Environments in actors: each lives in a thread or a process there, and is played again in another where its actor dies."""

import pickle
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from uuid import uuid4

from agentopd.cluster.pool import LOOK, Actor, ActorPool, pool_of
from agentopd.cluster.settings import Place
from agentopd.errors import ConfigError, EnvError, describe, first_line
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Host, Hosted, Isolation, Lane, late, told
from agentopd.isolation.registered import register, shipped
from agentopd.isolation.session import Observed
from agentopd.types import Failure, untimed

KEY = "cluster.environments"
GRACE = 30.0
"""Seconds beyond its time limit in which an actor must have answered a call; it hangs else, with all that it hosts."""

Call: TypeAlias = tuple[str, tuple[Any, ...], int]
"""A method of what is hosted, its arguments, and how many calls' time it has."""


@dataclass(frozen=True, slots=True)
class Start:
    """What an actor makes an environment of."""

    spec: bytes | None
    hosted: bytes
    isolation: Isolation
    time_limit: float


class Environments(Actor):
    """What runs in an actor: some environments, each in a lane of its own."""

    TOGETHER = 64

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

    def call(self, name: str, start: Start | None, calls: Sequence[Call]) -> list[Any]:
        """What calls gave, one after the other, up to one that failed.

        Args:
            name: Of the environment, among all.
            start: What it is made of, where it is new here.
            calls: What is done to it.
        """
        if start is not None:
            if start.spec is not None:
                register(pickle.loads(start.spec))
            self._lanes[name] = host(start.isolation, start.time_limit).lane(pickle.loads(start.hosted))
        lane, answers = self._lanes[name], list[Any]()
        for method, arguments, times in calls:
            lane.submit(method, *arguments, calls=times)
            answers.append(lane.result())
            if isinstance(answers[-1], Failure):
                break
        return answers

    def close(self, name: str) -> None:
        """Lets an environment go."""
        lane = self._lanes.pop(name, None)
        if lane is not None:
            lane.close()


class ActorLane(Lane):
    """An environment in an actor; what was done to it is kept, so that it can be done again in another."""

    def __init__(
        self, hosted: Hosted, start: Start, pool: ActorPool, seats: "Counter[int]", answered: threading.Event
    ) -> None:
        self._hosted, self._start, self._pool = hosted, start, pool
        self._seats, self._answered = seats, answered
        self._name = uuid4().hex
        self._calls: list[Call] = []
        self._answers: list[Any] = []
        """Of all calls but the one under way."""
        self._answer: Any = None
        self._under_way: Future[list[Any]] | None = None
        self._sent, self._deadline = 0, 0.0
        self._seat: int | None = None
        self._actor: Any = None

    def submit(self, method: str, *arguments: Any, calls: int = 1) -> None:
        """Starts a call; see :class:`agentopd.isolation.lane.Lane`."""
        if self._calls:
            self._answers.append(self._answer)
        self._calls.append((method, arguments, calls))
        self._answer = None
        if self._actor is None:
            self._move()
        else:
            self._ask(None, self._calls[-1:])

    def _ask(self, start: Start | None, calls: Sequence[Call]) -> None:
        self._sent = len(calls)
        self._deadline = time.monotonic() + sum(call[2] for call in calls) * self._start.time_limit + GRACE
        self._under_way = self._actor.call.remote(self._name, start, calls).future()
        self._under_way.add_done_callback(lambda _: self._answered.set())

    def _move(self) -> None:
        """Has all calls made where somebody is there; later, where nobody is."""
        self._under_way = self._actor = None
        self._leave()
        there = self._pool.there
        if there:
            seat = min(there, key=lambda one: self._seats[one])
            self._actor = self._pool.actor(seat)
        if self._actor is None:
            self._pool.require_somebody()
            return
        self._seat = seat
        self._seats[seat] += 1
        self._ask(self._start, self._calls)

    def _leave(self) -> None:
        if self._seat is not None:
            self._seats[self._seat] -= 1
            self._seat = None

    @property
    def ready(self) -> bool:
        """Whether the answer is there, or its time is over."""
        if self._answer is None:
            self._look()
        return self._answer is not None

    def result(self) -> Any:
        """What the last call gave, or why it did not."""
        while not self.ready:
            if self._under_way is None:
                time.sleep(LOOK)
            else:
                self._answered.wait(LOOK)
                self._answered.clear()
        return self._answer

    def _look(self) -> None:
        from ray.exceptions import ObjectLostError, RayActorError

        if self._under_way is None:
            self._move()
        elif self._under_way.done():
            try:
                self._take(self._under_way.result())
            except (RayActorError, ObjectLostError) as error:
                self._pool.lost(self._actor, first_line(error))
                self._move()
            except Exception as error:
                reason = describe(getattr(error, "cause", error))
                self._answer = Failure("env", "raised", f"{self._called}: {reason}")
        elif time.monotonic() > self._deadline:
            self._pool.lost(self._actor, "it did not answer in time")
            self._answer = late(self._called, self._start.time_limit, self._calls[-1][2], "; its actor hung")

    @property
    def _called(self) -> str:
        return told(self._calls[-1][0])

    def _take(self, answers: Sequence[Any]) -> None:
        """The last answer, where those before it are what they were: an environment that was moved must repeat itself."""
        earlier = self._answers if self._sent > 1 else []
        same = all(timeless(was) == timeless(now) for was, now in zip(earlier, answers, strict=False))
        if same and len(answers) == self._sent:
            self._answer = answers[-1]
            return
        self._answer = Failure(
            "env", "died", f"{self._called}: its actor died, and in another the same actions had another outcome"
        )

    def close(self) -> None:
        """Lets it go, without waiting for it."""
        self._leave()
        if self._actor is not None:
            self._actor.close.remote(self._name)
            self._actor = None


def timeless(answer: Any) -> Any:
    """An answer without what clocks measured."""
    if not isinstance(answer, Observed):
        return answer
    return replace(answer, seconds=0.0, outcomes=tuple(map(untimed, answer.outcomes)))


class ActorHost(Host):
    """Hosts environments in actors."""

    def __init__(self, pool: ActorPool, isolation: Isolation, time_limit: float) -> None:
        """Asks for nothing yet.

        Args:
            pool: The actors.
            isolation: How each hosts them.
            time_limit: Seconds for one call.
        """
        self._pool, self._isolation, self._time_limit = pool, isolation, time_limit
        self._seats: Counter[int] = Counter()
        self._answered = threading.Event()

    def lane(self, hosted: Hosted) -> ActorLane:
        """A lane in the actor with the fewest of this host.

        Raises:
            ConfigError: It cannot be sent there.
            EnvError: There are no actors.
        """
        self._pool.gather()
        spec = shipped(hosted.env_id, KEY, "leave it out")
        try:
            made = pickle.dumps(hosted)
        except Exception as error:  # of whatever kind: a user's object may stand in it
            raise ConfigError(
                f"{KEY}: the kwargs of environment {hosted.env_id!r} cannot be sent to another process ({describe(error)}); give plain "
                "values, or leave it out"
            ) from error
        start = Start(spec, made, self._isolation, self._time_limit)
        return ActorLane(hosted, start, self._pool, self._seats, self._answered)

    def wait(self, seconds: float) -> None:
        """Until one has answered."""
        if self._answered.wait(seconds):
            self._answered.clear()


def actor_host(place: Place, patience: float, isolation: Isolation, time_limit: float) -> ActorHost:
    """What hosts environments in the actors of ``cluster.environments``."""
    return ActorHost(pool_of(KEY, Environments, place, patience, EnvError), isolation, time_limit)
