"""Environments in actors, and what becomes of work whose actors die."""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from cluster_cases import nodes

from agentopd.cluster.connection import connected, disconnected
from agentopd.cluster.hosting import KEY, ActorHost, ActorLane, Environments, timeless
from agentopd.cluster.pool import ActorPool
from agentopd.cluster.settings import Place
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.hosts import host
from agentopd.isolation.lane import Isolation
from agentopd.isolation.session import Session
from agentopd.types import Failure, Task

pytestmark = pytest.mark.ray
MOODY = "cluster_envs:tests/Moody-v0"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with nodes(1) as made:
        yield made


@pytest.fixture(scope="module")
def pool(cluster: Any) -> Iterator[ActorPool]:
    """Two actors."""
    made = ActorPool(KEY, Environments, Place(actors=2, cpus=0.25), 60.0, EnvError)
    made.gather()
    yield made
    made.close()


def session() -> Session:
    return Session(Task(MOODY, 7), advice=False, needs_expert=False)


def lane_of(pool: ActorPool, isolation: Isolation = "thread", time_limit: float = 20.0) -> ActorLane:
    return ActorHost(pool, isolation, time_limit).lane(session())


def told(lane: Any, method: str, *arguments: Any) -> Any:
    lane.submit(method, *arguments)
    return timeless(lane.result())


def kill(lane: ActorLane) -> None:
    import ray
    from ray.exceptions import RayActorError

    ray.kill(lane._actor)
    with suppress(RayActorError):
        while True:  # it may still answer for a moment
            ray.get(lane._actor.ready.remote([]))


def test_an_environment_in_an_actor_answers_as_one_here(pool: ActorPool) -> None:
    here, there = host("thread", 20.0).lane(session()), lane_of(pool)
    for call in (("reset",), ("step", "a"), ("step", "b")):
        assert told(here, *call) == told(there, *call)
    here.close()
    there.close()


def test_it_is_played_again_where_its_actor_dies(pool: ActorPool) -> None:
    here, there = host("thread", 20.0).lane(session()), lane_of(pool)
    for number, call in enumerate([("reset",), ("step", "a"), ("step", "b"), ("step", "c")]):
        if number == 2:
            dead = there._actor
            kill(there)
        assert told(here, *call) == told(there, *call)
    assert there._actor is not dead
    here.close()
    there.close()


def test_one_that_does_not_repeat_itself_fails(pool: ActorPool) -> None:
    lane = lane_of(pool)
    told(lane, "reset")
    assert not isinstance(told(lane, "step", "pid"), Failure)
    kill(lane)
    failure = told(lane, "step", "a")
    assert isinstance(failure, Failure)
    assert failure.message == "step: its actor died, and in another the same actions had another outcome"


def test_one_in_a_process_of_its_own_dies_alone(pool: ActorPool) -> None:
    lane, other = lane_of(pool, "process"), lane_of(pool)
    told(lane, "reset")
    told(other, "reset")
    failure = told(lane, "step", "exit")
    assert isinstance(failure, Failure)
    assert failure.kind == "died"
    assert "its process died with exit code 1" in failure.message
    assert not isinstance(told(other, "step", "pid"), Failure)


def test_its_time_is_limited_where_it_is(pool: ActorPool) -> None:
    lane = lane_of(pool, time_limit=1.0)
    assert not isinstance(told(lane, "reset"), Failure)
    failure = told(lane, "step", "sleep")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == ("timeout", "step took longer than time_limit=1 s")


def test_what_cannot_be_sent_is_told_before(pool: ActorPool) -> None:
    lock = Session(Task(MOODY, 7, {"lock": threading.Lock()}), advice=False, needs_expert=False)
    with pytest.raises(ConfigError, match=r"^cluster\.environments: the kwargs of environment .* cannot be sent"):
        ActorHost(pool, "thread", 1.0).lane(lock)


def test_work_that_actors_die_of_is_given_up(pool: ActorPool) -> None:
    import ray

    def ask(actor: Any, works: list[Any]) -> list[Any]:
        if works == ["deadly"]:
            ray.kill(actor)
        for _ in range(1000 if works == ["deadly"] else 1):  # it may still answer for a moment
            ray.get(actor.ready.remote([]))
        return [work.upper() for work in works]

    [deadly] = pool.ask(ask, ["deadly"], [0])
    with pytest.raises(
        EnvError, match=r"^cluster\.environments: 4 actors died over the same work, the last of: ActorDied"
    ):
        deadly.result(60)
    [fine] = pool.ask(ask, ["fine"], [0])
    assert fine.result(60) == "FINE"


def test_what_an_ask_raises_is_in_its_future_alone(pool: ActorPool) -> None:
    def ask(actor: Any, works: list[Any]) -> list[Any]:
        raise ValueError(works[0])

    seat = pool.there[0]
    [wrong] = pool.ask(ask, ["wrong"], [seat])
    with pytest.raises(ValueError, match="wrong"):
        wrong.result(60)
    assert seat in pool.there


def test_nobody_asks_actors_that_were_let_go(pool: ActorPool) -> None:
    other = ActorPool("cluster.other", Environments, Place(resources={"none": 1.0}), 60.0, EnvError)
    other.close()
    with pytest.raises(EnvError, match=r"^cluster\.other: its actors were let go"):
        other.ask(lambda actor, works: works, [1], [None])


def test_who_joins_keeps_its_own_way_to_end(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands last: nobody is connected then."""
    import ray

    ray.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    ends = [signal.SIGTERM, signal.SIGINT]
    before = [signal.signal(number, lambda *_: None) for number in ends]
    own = [*map(signal.getsignal, ends)]
    try:
        connected()
        assert [*map(signal.getsignal, ends)] == own
        disconnected()
        assert not ray.is_initialized()
    finally:
        for number, handler in zip(ends, before, strict=True):
            signal.signal(number, handler)
