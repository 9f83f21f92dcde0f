"""How the episodes of a step are played: when they are asked for, or ahead of it while other steps are learned from."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import TypeAlias

from agentopd.chat import Chat
from agentopd.config import Config
from agentopd.rollout.flows import Submitting
from agentopd.rollout.policy import Policy
from agentopd.rollout.stream import Lot, Spent, Stream
from agentopd.training.loop.ranks import Ranks
from agentopd.training.loop.together import collected, judged, task_of, unjudging
from agentopd.types import Trajectory

Seen: TypeAlias = Callable[[Trajectory], None]
"""Takes an episode that is over."""

LEAVING = 30.0
"""Seconds in which what is being done must have ended once it is to; it is left behind else."""
LOOK = 0.1
"""Seconds between two looks at which episodes are over, for the display."""


class Player(ABC):
    """Plays lots. :meth:`begin` and then :meth:`finish` is called with each, of every step in its turn."""

    ahead = 0
    """How many steps ahead of the one that is drawn lots are begun."""
    at_once = False
    """Whether an episode that is over is attended to while others are played."""

    @abstractmethod
    def begin(self, lot: Lot) -> None:
        """May start to play, and returns at once."""

    @abstractmethod
    def finish(self, lot: Lot, seen: Seen) -> list[Trajectory]:
        """The episodes, in the order of the assignments; ``seen`` is told of each for the display.

        Raises:
            AgentOPDError: As :func:`agentopd.rollout.collect`.
        """

    def paused(self) -> AbstractContextManager[None]:
        """While it lasts nobody plays, and others may use the policies."""
        return nullcontext()

    def apart(self) -> AbstractContextManager[object]:
        """While it lasts no episode that has ended is attended to, so that teachers may be spoken with."""
        return nullcontext()

    def change(self, call: Callable[[], None]) -> None:
        """Changes weights, and tells those who act, between turns."""
        call()

    @abstractmethod
    def metrics(self, waited: float, fresh: Sequence[Trajectory]) -> dict[str, float]:
        """Where time went since this was last called: ``seconds/generate`` with turns under way, ``seconds/env`` with none, waiting for
        environments, ``seconds/idle`` with nothing to play.

        Args:
            waited: Seconds that a step waited for its episodes.
            fresh: Those that were played for it.
        """

    @abstractmethod
    def close(self) -> None:
        """Lets go what is not over."""


class InTurns(Player):
    """Plays a lot when it is to be finished."""

    def __init__(self, policies: Mapping[str, Policy], chat: Chat, ranks: Ranks) -> None:
        self._policies, self._chat, self._ranks = policies, chat, ranks

    def begin(self, lot: Lot) -> None:
        """Nothing yet."""

    def finish(self, lot: Lot, seen: Seen) -> list[Trajectory]:
        """Plays it."""

        def on_done(trajectory: Trajectory) -> None:
            seen(trajectory)
            if lot.on_done is not None:
                lot.on_done(trajectory)

        asked = (lot.assignments, self._policies, self._chat, lot.settings, lot.advice, on_done, lot.hints)
        return collected(self._ranks, *asked)

    def metrics(self, waited: float, fresh: Sequence[Trajectory]) -> dict[str, float]:
        """Turns carry their shares of the time in which they were written."""
        wrote = sum(turn.seconds_policy for one in fresh for turn in one.turns)
        return {"seconds/generate": wrote, "seconds/env": max(waited - wrote, 0.0), "seconds/idle": 0.0}

    def close(self) -> None:
        """Nothing is left."""


class Ahead(Player):
    """Plays in a stream. What is to be done with an episode that is over, its lot's ``on_done``, another thread does."""

    def __init__(self, stream: Stream, ahead: int, policies: Collection[Policy], ranks: Ranks) -> None:
        """Starts no thread yet.

        Args:
            stream: Plays.
            ahead: How many steps ahead lots are begun.
            policies: Those that act in the stream.
            ranks: The processes of which each plays a share of every lot.
        """
        self._ranks = ranks
        self._shares: dict[int, Lot] = {}
        self._policies = [policy for policy in policies if isinstance(policy, Submitting)]
        self.ahead, self.at_once = ahead, True
        self._stream = stream
        self._attendant = Attendant()
        self._told, self._restarted = Spent(), 0
        self._begun = False

    def begin(self, lot: Lot) -> None:
        """Hands this process's share of it to the stream."""
        attend = lot.on_done
        share = replace(
            lot,
            assignments=self._ranks.share(lot.assignments, task_of),
            settings=lot.settings if self._ranks.size == 1 else unjudging(lot.settings),
            on_done=None if attend is None else lambda trajectory: self._attendant.put(attend, trajectory),
        )

        def begun() -> Lot:
            if not self._begun:
                self._settle()
            return self._stream.submit(share)

        # a stream that has failed, or an engine that does not start, ends all processes with its error
        self._shares[id(lot)] = self._ranks.agree(begun)
        self._begun = True

    def finish(self, lot: Lot, seen: Seen) -> list[Trajectory]:
        """Waits until all shares of it are over, and attended to."""
        share = self._shares.pop(id(lot))
        if self._ranks.size == 1:
            return self._waited(share, seen)
        return judged(self._ranks, lot.assignments, lot.settings, lambda _: self._waited(share, seen))

    def _waited(self, lot: Lot, seen: Seen) -> list[Trajectory]:
        shown = 0
        while shown < len(lot.assignments) and not lot.over.done():
            wait([lot.over], LOOK)
            over = [*lot.done.values()]
            for trajectory in over[shown:]:
                seen(trajectory)
            shown = len(over)
        found = lot.over.result()
        self._attendant.settle()
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Between turns; those who act have the weights of now at its end."""
        with ExitStack() as stack:
            if self._begun:  # a stream that has failed ends all processes with its error
                self._ranks.agree(lambda: stack.enter_context(self._stream.paused()))
            yield
            if self._begun:
                self._ranks.agree(self._settle)

    def apart(self) -> AbstractContextManager[object]:
        """Waits for the one that is being attended to."""
        return self._attendant.lock

    def change(self, call: Callable[[], None]) -> None:
        """Between turns; those who act have the weights of now at its end."""
        if not self._begun:
            call()
            return

        def changed() -> None:
            call()
            self._settle()

        self._ranks.agree(lambda: self._stream.change(changed))

    def _settle(self) -> None:
        for policy in self._policies:
            policy.settle()

    def metrics(self, waited: float, fresh: Sequence[Trajectory]) -> dict[str, float]:
        """Of the stream; and how many episodes are asked for and not over, ``stream/waiting``, and began anew, ``stream/restarted``."""
        spent, restarted = self._stream.spent, self._stream.restarted
        went = {name: value - getattr(self._told, name) for name, value in asdict(spent).items()}
        found = {f"seconds/{name}": went[of] for name, of in (("generate", "engine"), ("env", "env"), ("idle", "idle"))}
        found |= {"stream/waiting": float(self._stream.waiting), "stream/restarted": float(restarted - self._restarted)}
        self._told, self._restarted = spent, restarted
        return found

    def close(self) -> None:
        """Ends both threads."""
        self._stream.close()
        self._attendant.close()


class Attendant:
    """Does in a thread what is to be done with episodes that are over, one after the other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while something is done."""
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def put(self, attend: Callable[[Trajectory], None], trajectory: Trajectory) -> None:
        """Has ``attend`` called, soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="agentopd-attendant", daemon=True)
            self._thread.start()
        self._work.put(lambda: attend(trajectory))

    def settle(self) -> None:
        """Waits until all is done that was put before; raises what went wrong."""
        if self._thread is not None:
            done: Future[None] = Future()
            self._work.put(lambda: done.set_result(None))
            done.result()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Ends the thread after what has been put."""
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(LEAVING)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                with self.lock:
                    work()
            except BaseException as error:  # told to whoever settles
                self._error = self._error or error


def player_of(config: Config, policies: Mapping[str, Policy], chat: Chat, ranks: Ranks) -> Player:
    """What plays as ``rollout.mode`` says."""
    mode = config.rollout.made_mode
    if mode.ahead is None:
        return InTurns(policies, chat, ranks)
    return Ahead(Stream(policies, chat, config.rollout, mode.restarts), mode.ahead, policies.values(), ranks)
