"""The stream: episodes that are played in a thread of their own, while whoever asked for them does something else.

An episode asks for its next turn when its environment has answered, whatever the others do, and its turn joins those that are being
written. Weights change between turns: no turn begins then until those under way have ended, so every turn has one version.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from agentopd.acting import Mixing
from agentopd.chat import Chat, Hint
from agentopd.isolation.lane import Host
from agentopd.rollout.collect import policies_of, require_actors, require_few_failures
from agentopd.rollout.flows import Flow, flow_of
from agentopd.rollout.joint import joint
from agentopd.rollout.policy import Assignment, Policy, Rollout
from agentopd.rollout.slots import Slot, begun
from agentopd.types import STUDENT, Trajectory

PAUSE = 0.005
"""Seconds between two looks at what is done elsewhere, where there is nothing to do here."""
LEAVING = 30.0
"""Seconds in which the thread must have ended once it is told to; it is left behind else."""

Phase: TypeAlias = Literal["env", "asks", "acts"]
"""An episode waits for its environment, or to begin a turn, or writes one."""


@dataclass(slots=True, eq=False)
class Lot:
    """Episodes that are asked for together."""

    assignments: Sequence[Assignment]
    settings: Rollout
    least: int = 0
    """The version of the student from which on they may begin."""
    advice: bool = False
    hints: Mapping[str, Hint] = field(default_factory=dict)
    on_done: Callable[[Trajectory], None] | None = None
    """Told of each that is over, in the stream's thread."""
    begun: int = field(init=False, default=0)
    done: dict[int, Trajectory] = field(init=False, default_factory=dict)
    """Those that are over, by place among the assignments."""
    over: "Future[list[Trajectory]]" = field(init=False, default_factory=Future)
    """All of them, in the order of the assignments, once the last is over."""


@dataclass(slots=True, eq=False)
class Living:
    """An episode that is being played."""

    lot: Lot
    place: int
    slot: Slot
    phase: Phase = "env"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done between turns."""

    call: Callable[[], None]
    restarts: bool
    done: "Future[None]" = field(default_factory=Future)


@dataclass(slots=True)
class Spent:
    """Seconds of a stream: with turns under way; without, waiting for environments; with nothing to play; in all."""

    engine: float = 0.0
    env: float = 0.0
    idle: float = 0.0
    whole: float = 0.0


class Stream:
    """Plays lots, the first first, at most ``concurrency`` episodes at once."""

    def __init__(self, policies: Mapping[str, Policy], chat: Chat, settings: Rollout, restart: bool = False) -> None:
        """Starts no thread yet.

        Args:
            policies: By actor. They are the stream's: nobody else may use them, but in :meth:`change` and while it is :meth:`paused`.
            chat: Between messages and tokens.
            settings: How environments are hosted, and how many episodes live at once; all else is a lot's own.
            restart: Whether episodes in which somebody has acted begin anew when weights change, rather than go on.
        """
        self.restarted = 0
        """Episodes that began anew."""
        self._policies = policies_of(policies)
        self._chat, self._settings, self._restart = chat, settings, restart
        self._waiting: deque[tuple[Lot, int]] = deque()
        self._living: dict[int, Living] = {}
        self._flows: dict[tuple[str, str | None, Mixing | None], Flow] = {}
        self._changes: deque[Change] = deque()
        self._lots: list[Lot] = []
        self._spent = Spent()
        self._number = 0
        self._called = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._host: Host | None = None

    def submit(self, lot: Lot) -> Lot:
        """Takes a lot, and returns it at once.

        Raises:
            ConfigError: An actor has no policy.
            AgentOPDError: The stream has failed; then of any kind that :func:`agentopd.rollout.collect` raises.
        """
        require_actors(lot.assignments, self._policies)
        with self._asking():
            self._lots.append(lot)
            self._waiting.extend((lot, place) for place in range(len(lot.assignments)))
            self._end(lot)
        return lot

    def change(self, call: Callable[[], None]) -> None:
        """Does ``call`` between turns, and waits for it: it may change weights and tell policies.

        Raises:
            AgentOPDError: The stream has failed, or fails first.
        """
        change = Change(call, self._restart)
        with self._asking():
            self._changes.append(change)
        change.done.result()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it lasts no turn is under way, and others may use the policies.

        Raises:
            AgentOPDError: The stream has failed, or fails first.
        """
        reached, resume = threading.Event(), threading.Event()

        def hold() -> None:
            reached.set()
            resume.wait()

        change = Change(hold, restarts=False)
        with self._asking():
            self._changes.append(change)
        try:
            while not reached.wait(PAUSE):
                if change.done.done():
                    change.done.result()
            yield
        finally:
            resume.set()

    def close(self) -> None:
        """Lets go all that is not over, and ends the thread."""
        self._closed = True
        self._called.set()
        if self._thread is not None:
            self._thread.join(LEAVING)

    @property
    def spent(self) -> Spent:
        """Where its time went so far."""
        return Spent(sum(f.seconds for f in self._flows.values()), self._spent.env, self._spent.idle, self._spent.whole)

    @property
    def waiting(self) -> int:
        """Episodes that have been asked for and are not over."""
        return len(self._waiting) + len(self._living)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the stream is closed")
            if self._error is not None:
                raise self._error
            yield
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentopd-stream", daemon=True)
                self._thread.start()
        self._called.set()

    # The rest is the thread's own.

    def _run(self) -> None:
        try:
            self._host = self._settings.host()
            while not self._closed:
                begin = time.perf_counter()
                if not self._go_on():
                    self._rest()
                self._spent.whole += time.perf_counter() - begin
        except BaseException as error:  # told to whoever waits
            self._fail(error)
        else:
            self._fail(RuntimeError("the stream was closed before this was over"))
        finally:
            for number in [*self._living]:
                self._free(number)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            waiting: list[Future[list[Trajectory]] | Future[None]] = [lot.over for lot in self._lots]
            for future in (*waiting, *(change.done for change in self._changes)):
                future.set_exception(error)

    def _go_on(self) -> bool:
        """Does what can be done now; whether that was anything."""
        moved = [self._change(), self._begin(), self._advance(), self._act(), self._write()]
        return any(moved)

    def _rest(self) -> None:
        """Waits for an environment, or for a turn that is written elsewhere, or to be called."""
        begin = time.perf_counter()
        writes = any(flow.busy for flow in self._flows.values())
        plays = any(one.phase == "env" for one in self._living.values())
        if (writes or plays) and self._host is not None:
            self._host.wait(PAUSE)
        else:
            self._called.wait()
            self._called.clear()
        seconds = time.perf_counter() - begin
        if plays and not writes:
            self._spent.env += seconds
        elif not writes:
            self._spent.idle += seconds

    def _change(self) -> bool:
        if not self._changes or any(flow.busy for flow in self._flows.values()):
            return False
        change = self._changes[0]
        change.call()
        for number in [*self._living] if change.restarts else ():
            self._begin_again(number)
        self._changes.popleft().done.set_result(None)
        return True

    def _begin_again(self, number: int) -> None:
        one = self._living[number]
        if one.slot.episode.turns:
            self._free(number)
            self._open(one.lot, one.place)
            self.restarted += 1

    def _begin(self) -> bool:
        moved = False
        while self._waiting and len(self._living) < self._settings.concurrency and self._may_begin(self._waiting[0][0]):
            lot, place = self._waiting.popleft()
            lot.begun += 1
            self._open(lot, place)
            moved = True
        return moved

    def _may_begin(self, lot: Lot) -> bool:
        student = self._policies.get(STUDENT)
        return student is None or student.version >= lot.least

    def _open(self, lot: Lot, place: int) -> None:
        assert self._host is not None
        number, self._number = self._number, self._number + 1
        slot = begun(number, lot.assignments[place], self._chat, lot.settings, self._host, lot.advice, lot.hints)
        self._living[number] = Living(lot, place, slot)

    def _advance(self) -> bool:
        """Tells episodes what their environments have answered."""
        assert self._host is not None
        self._host.wait(0.0)
        ready = [number for number, one in self._living.items() if one.phase == "env" and one.slot.ready]
        for number in ready:
            one = self._living[number]
            one.slot.advance()
            if one.slot.episode.stop is not None:
                self._retire(number)
            elif not one.slot.episode.replaying:
                one.phase = "asks"
        return bool(ready)

    def _retire(self, number: int) -> None:
        one = self._living[number]
        lot, trajectory = one.lot, one.slot.episode.trajectory()
        self._free(number)
        lot.done[one.place] = trajectory
        if lot.on_done is not None:
            lot.on_done(trajectory)
        last = len(lot.done) == len(lot.assignments)
        require_few_failures(lot.done.values(), lot.begun, lot.settings.max_failures, last)
        self._end(lot)

    def _end(self, lot: Lot) -> None:
        if len(lot.done) == len(lot.assignments):
            self._lots.remove(lot)
            lot.over.set_result([lot.done[place] for place in range(len(lot.assignments))])

    def _free(self, number: int) -> None:
        slot = self._living.pop(number).slot
        slot.close()
        for actor in slot.episode.assignment.actors:
            self._policies[actor].release([number])
        for flow in self._flows.values():
            flow.release(number)

    def _act(self) -> bool:
        """Has turns begun, unless something is to be done between turns."""
        if self._changes:
            return False
        asking: dict[tuple[str, str | None, Mixing | None], list[Living]] = {}
        for one in self._living.values():
            if one.phase == "asks":
                episode = one.slot.episode
                asking.setdefault((episode.actor, episode.guide, episode.assignment.acting.mixing), []).append(one)
        for who, those in asking.items():
            self._flow(*who).add([one.slot.episode.request() for one in those])
            for one in those:
                one.phase = "acts"
        return bool(asking)

    def _flow(self, actor: str, guide: str | None, mixing: Mixing | None) -> Flow:
        who = (actor, guide, mixing)
        if who not in self._flows:
            policy = self._policies[actor]
            if guide is not None and mixing is not None:
                policy = joint(actor, policy, guide, self._policies[guide], mixing)
            self._flows[who] = flow_of(actor, policy)
        return self._flows[who]

    def _write(self) -> bool:
        """Goes on with the turns under way, and starts the steps of those that have ended."""
        moved = False
        for (actor, _, _), flow in self._flows.items():
            if flow.busy:
                written = flow.step()
                moved |= bool(written) or not flow.elsewhere
                for one in written:
                    living = self._living[one.episode]
                    version = self._policies[actor].version
                    action = living.slot.episode.take(one.generation, version, one.seconds)
                    living.slot.lane.submit("step", action)
                    living.phase = "env"
        return moved
