"""Environments in threads of their own, with a time limit for each call."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from queue import SimpleQueue
from typing import Generic, TypeVar

from agentopd.errors import describe
from agentopd.types import Failure

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Isolated(Generic[Result]):
    """Runs the calls of one environment, one after the other, in one daemon thread.

    A thread cannot be killed: after a time-out the thread, and the environment that only it touches, are left behind.
    Not covered: code that never releases the interpreter, or that crashes the process.
    """

    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        self._jobs: SimpleQueue[tuple[Callable[[], Result], Future[Result]] | None] = SimpleQueue()
        self._call, self._calls = "", 1
        self._deadline = 0.0
        self._future: Future[Result] = Future()
        self._on_close: Callable[[], None] = lambda: None
        threading.Thread(target=self._serve, name="agentopd-env", daemon=True).start()

    def submit(self, call: str, job: Callable[[], Result], calls: int = 1) -> None:
        """Starts ``job``; its time runs from now. ``call`` names it in messages; it has the time of so many ``calls``."""
        self._call, self._calls, self._future = call, calls, Future()
        self._deadline = time.monotonic() + calls * self._time_limit
        self._jobs.put((job, self._future))

    def result(self) -> Result | Failure:
        """What the last job returned, or why it did not."""
        wait_for([self._future], timeout=max(self._deadline - time.monotonic(), 0.0))
        if not self._future.done():
            each = f" for each of {self._calls} calls" if self._calls > 1 else ""
            return Failure("env", "timeout", f"{self._call} took longer than time_limit={self._time_limit:g} s{each}")
        error = self._future.exception()
        if error is not None:
            return Failure("env", "raised", describe(error))
        return self._future.result()

    def close(self, last: Callable[[], None]) -> None:
        """Ends the thread after ``last``, without waiting for either."""
        self._on_close = last
        self._jobs.put(None)

    def _serve(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, future = item
            try:
                future.set_result(job())
            except BaseException as error:  # handed to whoever waits, SystemExit of user code included
                future.set_exception(error)
        try:
            self._on_close()
        except Exception:
            _log.warning("an environment raised in close(), after its episode", exc_info=True)
