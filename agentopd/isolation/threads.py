"""Environments in threads of their own, with a time limit for each call.

Hundreds of threads that all want the interpreter at once spend more time in taking it from each other than a step of most environments
takes. So the threads of one :class:`Crew` are woken one after the other, each by the one that is done. Where that does not go forward,
since an environment waits or calculates for long, more and more are woken beside it, until within milliseconds all are awake.
"""

import atexit
import concurrent.futures.thread  # noqa: F401
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from agentopd.errors import described_with_place
from agentopd.isolation.lane import PARTING, Host, Hosted, late, told
from agentopd.types import Failure

Result = TypeVar("Result")
Job: TypeAlias = tuple[int, Callable[[], Any]]
"""The number of a call, and the call."""

LOOK_AFTER = 0.001
"""Seconds after which it is looked at whether calls go forward."""
LOOK_SELDOM = 0.004
"""Seconds between two looks at most, where they do: each takes the interpreter from those that work."""
IDLE = 0.1
"""A process that uses less than this share of a processor waits for something."""
STUCK = 0.005
"""Seconds within which a call must end, or more are begun beside it, even where it calculates."""

_log = logging.getLogger(__name__)
_logged: set[str] = set()
"""Environments of which it was told that one raised in ``close``."""
_logging = threading.Lock()
_ending: "set[Isolated[Any]]" = set()
"""Threads that run what was to be last, or are about to."""


class Isolated(Generic[Result]):
    """Runs the calls of one environment, one after the other, in one daemon thread.

    A thread cannot be killed: after a time-out the thread, and the environment that only it touches, are left behind.
    Not covered: code that never releases the interpreter, or that crashes the process; see ``processes.py``.
    """

    def __init__(self, time_limit: float, crew: "Crew | None" = None) -> None:
        """Starts the thread; ``crew`` are those that it is woken with."""
        self._time_limit = time_limit
        self._crew = crew or Crew()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._call, self._calls = "", 1
        self._deadline = 0.0
        self._on_close: Callable[[], None] = lambda: None
        self.number = 0
        """Of the call whose result is awaited; the crew's to change."""
        self.answer: tuple[Result | Failure] | None = None
        """What it gave, once it has."""
        self.wake = self._jobs.put
        threading.Thread(target=self._serve, name="agentopd-env", daemon=True).start()

    def submit(self, call: str, job: Callable[[], Result], calls: int = 1) -> None:
        """Starts ``job``; its time runs from now. ``call`` names it in messages; it has the time of so many ``calls``."""
        self._call, self._calls = call, calls
        self._deadline = time.monotonic() + calls * self._time_limit
        self._crew.begin(self, job)

    @property
    def ready(self) -> bool:
        """Whether the last job has ended, or its time."""
        return self.answer is not None or time.monotonic() >= self._deadline

    def result(self) -> Result | Failure:
        """What the last job returned, or why it did not."""
        answer = self._crew.answer(self, self._deadline)
        return late(self._call, self._time_limit, self._calls) if answer is None else answer[0]

    def close(self, last: Callable[[], None]) -> None:
        """Ends the thread after ``last``, which raises nothing, without waiting for either; the end of the program waits a little."""
        self._on_close = last
        if self.answer is not None or not self.number:  # else it may hang in its call for ever
            _ending.add(self)
        self._jobs.put(None)

    def _serve(self) -> None:
        while (item := self._jobs.get()) is not None:
            number, job = item
            answer: Result | Failure
            try:
                answer = job()
            except BaseException as error:  # handed to whoever waits, SystemExit of user code included
                answer = Failure("env", "raised", described_with_place(error))
            self._crew.answered(self, number, answer)
        try:
            self._on_close()
        finally:
            _ending.discard(self)


def _part() -> None:
    """Waits for what is still closed; the threads are daemons, and would be cut off in the middle of it."""
    end = time.monotonic() + PARTING
    with suppress(KeyboardInterrupt):  # whoever asks again to stop does not want to wait
        while _ending and time.monotonic() < end:
            time.sleep(0.01)


# before the interpreter stops what closing may need: threads, and the executors that are imported above
getattr(threading, "_register_atexit", atexit.register)(_part)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ending.clear)  # a child has none of the threads


class Crew:
    """Threads whose results one other thread waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Isolated[Any], Job]] = deque()
        """What is begun once something that runs is done."""
        self._running = 0
        self._done = 0
        self._watched = False
        self._awaited: Isolated[Any] | None = None
        self._any = threading.Event()
        """Set by each answer, for whoever waits for any."""
        self._gate: SimpleQueue[None] = SimpleQueue()

    def begin(self, thread: Isolated[Any], job: Callable[[], Any]) -> None:
        """Runs ``job`` in ``thread``, soon."""
        with self._lock:
            thread.number, thread.answer = thread.number + 1, None
            if not self._running:
                self._running = 1
                thread.wake((thread.number, job))
                return
            self._waiting.append((thread, (thread.number, job)))
            if self._watched:
                return
            self._watched = True
        _watched_crews().put(self)

    def answered(self, thread: Isolated[Any], number: int, answer: Any) -> None:
        """Takes what the call of that ``number`` gave, and wakes the next thread. Called by ``thread``."""
        with self._lock:
            if number != thread.number:
                return  # it came too late, and the next one was woken without it
            thread.answer = (answer,)
            self._next()
            self._tell()
        self._any.set()

    def _tell(self) -> None:
        """Wakes who waits; not before all are begun, since it would take the interpreter from those that work."""
        if self._awaited is not None and self._awaited.answer is not None and not self._waiting:
            self._awaited = None
            self._gate.put(None)

    def answer(self, thread: Isolated[Any], deadline: float) -> tuple[Any] | None:
        """Waits until ``thread`` has answered; ``None`` where it has not when ``time.monotonic()`` reaches ``deadline``."""
        while thread.answer is None:
            with self._lock:
                if thread.answer is not None:
                    break
                self._awaited = thread
            try:
                self._gate.get(timeout=max(deadline - time.monotonic(), 0.0))
            except Empty:
                with self._lock:
                    self._awaited = None
                    if thread.answer is None:
                        self._abandon(thread)
                        return None
        return thread.answer

    def wait(self, seconds: float) -> None:
        """Waits until a thread has answered since this returned last, at most so long."""
        if self._any.wait(seconds):
            self._any.clear()

    def _abandon(self, thread: Isolated[Any]) -> None:
        """Goes on as if ``thread`` were done; its answer, should it come, is nobody's."""
        thread.number += 1
        begun = len(self._waiting)
        self._waiting = deque(item for item in self._waiting if item[0] is not thread)
        if len(self._waiting) == begun:
            self._next()

    def _next(self) -> None:
        self._done += 1
        if self._waiting:
            thread, job = self._waiting.popleft()
            thread.wake(job)
        else:
            self._running -= 1

    def hurry(self, seen: tuple[int, float], idle: bool) -> tuple[int, float] | None:
        """Begins more of what waits where nothing goes forward: the process is ``idle``, or no call was done for long.

        Args:
            seen: How many calls were done, and when that was seen first.
            idle: Whether the process waits for something.

        Returns:
            What is seen now, to be given next time; ``None`` where nothing waits, and there is no next time.
        """
        with self._lock:
            if self._done != seen[0]:
                seen = self.seen
            if idle or time.monotonic() - seen[1] > STUCK:
                more = min(3 * self._running, len(self._waiting))
                self._running += more
                for thread, job in (self._waiting.popleft() for _ in range(more)):
                    thread.wake(job)
            if self._waiting:
                return seen
            self._watched = False
            self._tell()
            return None

    @property
    def seen(self) -> tuple[int, float]:
        """How many calls are done, ever, and when that is."""
        return self._done, time.monotonic()


@cache
def _watched_crews() -> SimpleQueue[Crew]:
    """Where crews are left in which something waits; one thread looks at all of them, as long as it does."""
    crews: SimpleQueue[Crew] = SimpleQueue()
    threading.Thread(target=_watch, args=(crews,), name="agentopd-env-watch", daemon=True).start()
    return crews


def _watch(crews: SimpleQueue[Crew]) -> None:
    watched: dict[Crew, tuple[int, float]] = {}
    wait = LOOK_AFTER
    while True:
        if not watched:
            crew, wait = crews.get(), LOOK_AFTER
            watched[crew] = crew.seen
        begin, used = time.monotonic(), time.process_time()
        time.sleep(wait)
        idle = time.process_time() - used < IDLE * (time.monotonic() - begin)
        looked = {crew: now for crew, seen in watched.items() if (now := crew.hurry(seen, idle)) is not None}
        forward = not idle and all(looked[crew][0] != watched[crew][0] for crew in looked)
        wait = min(2 * wait, LOOK_SELDOM) if forward else LOOK_AFTER
        while not crews.empty():
            crew, wait = crews.get(), LOOK_AFTER
            looked[crew] = crew.seen
        watched = looked


class ThreadLane(Generic[Result]):
    """What is hosted lives in a thread of this process."""

    def __init__(self, hosted: Hosted, time_limit: float, crew: Crew) -> None:
        self._hosted = hosted
        self._thread: Isolated[Result] = Isolated(time_limit, crew)

    def submit(self, method: str, *arguments: Any, calls: int = 1) -> None:
        """Starts a call; see :class:`agentopd.isolation.lane.Lane`."""
        self._thread.submit(told(method), partial(getattr(self._hosted, method), *arguments), calls)

    @property
    def ready(self) -> bool:
        """Whether the last call has ended, or its time."""
        return self._thread.ready

    def result(self) -> Result | Failure:
        """What the last call returned, or why it did not."""
        return self._thread.result()

    def close(self) -> None:
        """Lets it go, without waiting for it."""
        self._thread.close(self._let_go)

    def _let_go(self) -> None:
        try:
            self._hosted.close()
        except Exception:  # the user's code, of which one complaint is enough: a run closes thousands
            name = self._hosted.env_id
            with _logging:
                if name not in _logged:
                    _logged.add(name)
                    _log.warning(
                        "%s raised in close(), after its episode; later ones are not logged", name, exc_info=True
                    )


class Threads(Host):
    """Hosts each in a thread of its own."""

    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        self._crew = Crew()

    def lane(self, hosted: Hosted) -> ThreadLane[Any]:
        """A thread for it, and nothing else."""
        return ThreadLane(hosted, self._time_limit, self._crew)

    def wait(self, seconds: float) -> None:
        """Until one has answered."""
        self._crew.wait(seconds)
