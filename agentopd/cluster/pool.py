"""Some actors of one kind: what is asked of one that dies, with its node or alone, another is asked, and the dead one is replaced.

Whoever asks must ask for what can be done twice with the same outcome, as every turn can, whose seed and context decide it.
"""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

from agentopd.cluster.connection import connected, disconnected
from agentopd.cluster.settings import Place
from agentopd.errors import AgentOPDError, first_line

_log = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two looks at whether an actor is there."""
AGAIN = 1.0
"""Seconds after which an actor is asked for again where one died before it was there."""
DEATHS = 3
"""So many actors may die over the same work; one more, and the work is what they die of."""
LEAVING = 10.0
"""Seconds in which threads must have ended once they are told to."""

Ask: TypeAlias = Callable[[Any, list[Any]], list[Any]]
"""Takes an actor and pieces of work, and gives an answer to each; it waits."""


class Actor:
    """What runs in an actor; each kind derives from it."""

    TOGETHER = 1
    """How many calls it answers at once."""

    def ready(self, path: Sequence[str]) -> None:
        """Answers once the actor is there, which then finds modules where the run's own process does, too."""
        sys.path += [place for place in path if place not in sys.path]


@dataclass(slots=True, eq=False)
class Item:
    """A piece of work."""

    ask: Ask
    work: Any
    seat: int | None
    """Whose it is; ``None`` for whoever is there first."""
    answer: "Future[Any]" = field(default_factory=Future)
    deaths: int = 0


@dataclass(slots=True, eq=False)
class Seat:
    """The place of one actor, whichever sits there."""

    number: int
    actor: Any = None
    there: bool = False


class ActorPool:
    """As many actors as a place says, each asked one thing at a time, by a thread of its own."""

    def __init__(self, key: str, kind: type[Actor], place: Place, patience: float, error: type[AgentOPDError]) -> None:
        """Asks for the actors, and does not wait for them.

        Args:
            key: What says so in the configuration, for messages.
            kind: The class of the actors; it takes no arguments.
            place: How many, and what each takes.
            patience: Seconds that actors are waited for.
            error: What is raised where there are none.

        Raises:
            ConfigError: There is no Ray, or no cluster.
        """
        self._ray = connected()
        self._key, self._place, self._patience, self._error = key, place, patience, error
        options = {"num_cpus": place.cpus, "num_gpus": place.gpus, "resources": place.resources}
        # spread: one node's death is not that of all
        spread = {"max_restarts": 0, "max_concurrency": kind.TOGETHER, "scheduling_strategy": "SPREAD"}
        self._make = self._ray.remote(kind).options(**options, **spread).remote
        self._seats = [Seat(number) for number in range(place.actors)]
        self._waiting: list[Item] = []
        self._changed = threading.Condition(threading.RLock())
        self._closed = self._gathered = False
        self._alone_since: float | None = time.monotonic()
        self._reason = "none has begun"
        self._threads = [threading.Thread(target=self._serve, args=(seat,), daemon=True) for seat in self._seats]
        for thread in self._threads:
            thread.start()

    @property
    def there(self) -> list[int]:
        """The numbers of the actors that can be asked now."""
        return [seat.number for seat in self._seats if seat.there]

    def gather(self) -> None:
        """Waits, the first time, until all actors are there, or patience is over and some are.

        Raises:
            AgentOPDError: None is, of the kind that was said.
        """
        with self._changed:
            if self._gathered:
                return
            self._changed.wait_for(lambda: self._closed or len(self.there) == len(self._seats), self._patience)
            if not self.there:
                raise self._nobody()
            if len(self.there) < len(self._seats):
                _log.warning(
                    "%s: %d of %d actors are there after %g s, and begin; %s",
                    self._key, len(self.there), len(self._seats), self._patience, self._wanted(),
                )  # fmt: skip
            self._gathered = True

    def ask(self, ask: Ask, works: Sequence[Any], seats: Sequence[int | None]) -> "list[Future[Any]]":
        """Has ``ask`` called with pieces of work, all that wait for an actor together.

        Args:
            ask: Waits for an actor's answers. What it raises, but for the death of an actor, is in the futures.
            works: The pieces.
            seats: The number of the actor that each is meant for, where it is there.

        Raises:
            AgentOPDError: They were let go, for others of another place.
        """
        with self._changed:
            if self._closed:
                raise self._error(f"{self._key}: its actors were let go; build what asks them anew")
            items = [Item(ask, work, self._seated(seat)) for work, seat in zip(works, seats, strict=True)]
            self._waiting += items
            self._changed.notify_all()
        return [item.answer for item in items]

    def actor(self, seat: int) -> Any:
        """The actor of that number; ``None`` while there is none."""
        one = self._seats[seat]
        return one.actor if one.there else None

    def lost(self, actor: Any, reason: str) -> None:
        """Hears from whoever spoke with an actor that it died, or hangs: it is ended and replaced."""
        with self._changed:
            for seat in self._seats:
                if seat.there and seat.actor is actor:
                    self._ray.kill(actor)
                    self._empty(seat, reason)

    def require_somebody(self) -> None:
        """Raises, of the kind that was said, where nobody has been there for too long."""
        with self._changed:
            if self._alone_since is not None and time.monotonic() - self._alone_since >= self._patience:
                raise self._nobody()

    def close(self) -> None:
        """Ends the actors and the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for seat in self._seats:
            if (
                seat.actor is not None and self._ray.is_initialized()
            ):  # else asking for anything would begin another Ray
                self._ray.kill(seat.actor)
        for thread in self._threads:
            thread.join(LEAVING)
        self._fail(self._error(f"{self._key}: its actors were let go before they had answered"))

    # The rest is the threads' own.

    def _serve(self, seat: Seat) -> None:
        while not self._closed:
            if self._begin(seat):
                self._work(seat)
            else:
                time.sleep(AGAIN)

    def _begin(self, seat: Seat) -> bool:
        """Asks for an actor, and waits for it; whether it is there."""
        try:
            if not self._ray.is_initialized():
                raise ConnectionError("this process has left its cluster")
            seat.actor = self._make()
            ready = seat.actor.ready.remote([os.path.abspath(place) for place in sys.path])
            while not self._ray.wait([ready], timeout=LOOK)[0]:
                self._lose_patience()
                if self._closed:
                    return False
            self._ray.get(ready)
        except Exception as error:  # whatever it died of is told where patience ends
            self._reason = first_line(error)
            self._lose_patience()
            return False
        with self._changed:
            seat.there, self._alone_since = True, None
            self._changed.notify_all()
        return True

    def _work(self, seat: Seat) -> None:
        """Asks the actor, as long as it lives."""
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        while items := self._take(seat):
            try:
                answers = items[0].ask(seat.actor, [item.work for item in items])
            except (RayActorError, ObjectLostError) as error:
                self._lost(seat, items, first_line(error))
                return
            except Exception as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if cause is not error:
                    cause.__cause__ = error  # which tells where in the actor
                for item in items:
                    item.answer.set_exception(cause)
            else:
                for item, answer in zip(items, answers, strict=True):
                    item.answer.set_result(answer)
            del items  # or the last work would be kept while there is nothing to do

    def _take(self, seat: Seat) -> list[Item]:
        """What waits for this actor and is asked in one way, unless nobody wants it any more; nothing once it died, or all is over."""
        with self._changed:
            while not self._closed and seat.there:
                mine = [item for item in self._waiting if item.seat in (None, seat.number)]
                taken = [item for item in mine if item.ask == mine[0].ask]
                self._waiting = [item for item in self._waiting if item not in taken]
                if wanted := [item for item in taken if item.deaths or item.answer.set_running_or_notify_cancel()]:
                    return wanted
                self._changed.wait()
        return []

    def _lost(self, seat: Seat, items: Sequence[Item], reason: str) -> None:
        """Gives the work of an actor that died to the others."""
        if self._closed:
            return
        with self._changed:
            self._empty(seat, reason)
            for item in items:
                item.deaths += 1
                if item.deaths > DEATHS:
                    told = f"{self._key}: {item.deaths} actors died over the same work, the last of: {reason}"
                    item.answer.set_exception(self._error(told))
            self._put([item for item in items if item.deaths <= DEATHS] + self._waiting)

    def _empty(self, seat: Seat, reason: str) -> None:
        """The actor there has died."""
        _log.warning("%s: an actor died (%s); what it was asked is asked again", self._key, reason)
        seat.there, seat.actor, self._reason = False, None, reason
        if not self.there:
            self._alone_since = time.monotonic()
        self._put(self._waiting)

    def _put(self, waiting: list[Item]) -> None:
        """What waits from now on, for those that are there."""
        self._waiting = waiting
        for item in waiting:
            item.seat = self._seated(item.seat)
        self._changed.notify_all()

    def _seated(self, seat: int | None) -> int | None:
        """``seat``, where somebody sits there; else who has the least to do."""
        there = self.there
        if seat in there or not there:
            return seat if seat in there else None
        waits = [item.seat for item in self._waiting]
        return min(there, key=waits.count)

    def _lose_patience(self) -> None:
        """Ends what waits, where nobody has been there for too long."""
        with self._changed:
            since = self._alone_since
            if since is None or not self._gathered or time.monotonic() - since < self._patience:
                return
            self._alone_since = time.monotonic()
        self._fail(self._nobody())

    def _fail(self, error: Exception) -> None:
        with self._changed:
            waiting, self._waiting = self._waiting, []
        for item in waiting:
            if item.deaths or item.answer.set_running_or_notify_cancel():
                item.answer.set_exception(error)

    def _nobody(self) -> AgentOPDError:
        return self._error(
            f"{self._key}: there has been no actor for cluster.patience={self._patience:g} s ({self._reason}); {self._wanted()}"
        )

    def _wanted(self) -> str:
        """What is asked for, beside what there is."""
        asked = {name: amount for name, amount in self._place.asked.items() if amount}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        has = "; ".join(str({name: node.get(name, 0.0) for name in asked}) for node in nodes)
        return f"each asks for {asked}, and the nodes of the cluster have in all: {has or 'nothing'}"


_pools: dict[str, tuple[object, ActorPool]] = {}
_making = threading.Lock()


def pool_of(key: str, kind: type[Actor], place: Place, patience: float, error: type[AgentOPDError]) -> ActorPool:
    """The actors of this process that ``key`` speaks of; see :class:`ActorPool`. Those of another place than was asked for last are let go."""
    asked = (place, patience)
    with _making:
        if key in _pools and _pools[key][0] != asked:
            _pools.pop(key)[1].close()
        if key not in _pools:
            _pools[key] = asked, ActorPool(key, kind, place, patience, error)
            _close_at_exit()
        return _pools[key][1]


def close() -> None:
    """Ends all actors of this process, and its connection to the cluster; the next that are needed begin anew."""
    with _making:
        for _, pool in _pools.values():
            pool.close()
        _pools.clear()
        disconnected()


@cache
def _close_at_exit() -> None:
    atexit.register(close)
