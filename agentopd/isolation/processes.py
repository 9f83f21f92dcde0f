"""Environments each in a process of its own, which is killed and replaced where it hangs or dies.

This keeps a run safe from environments that crash or never return. It is no sandbox: they may do what the user may.
"""

import os
import pickle
import selectors
import sys
import time
from typing import Any

from agentopd.errors import ConfigError, describe
from agentopd.isolation.fleet import Fleet, Worker, fleet
from agentopd.isolation.lane import Host, Hosted, late, told
from agentopd.isolation.registered import shipped
from agentopd.isolation.worker import framed, plain
from agentopd.types import Failure


class ProcessLane:
    """What is hosted lives in a worker process; see :class:`agentopd.isolation.lane.Lane`."""

    def __init__(self, hosted: Hosted, time_limit: float, workers: Fleet, waits: selectors.BaseSelector) -> None:
        self._hosted, self._time_limit = hosted, time_limit
        self._workers, self._waits = workers, waits
        self._start: tuple[str, list[str], bytes | None, bytes] | None = _start(hosted)
        self._call, self._calls, self._deadline = "", 1, 0.0
        self._answer: tuple[Any] | None = None
        self._busy = False
        self._worker: Worker | None = workers.take()
        waits.register(self._worker.connection, selectors.EVENT_READ, self)

    def submit(self, method: str, *arguments: Any, calls: int = 1) -> None:
        """Sends a call."""
        # where it is busy, whoever waited for the last call was interrupted, and its answer would be taken for this one's
        left = self._busy
        self._call, self._calls, self._answer = told(method), calls, None
        self._deadline = time.monotonic() + calls * self._time_limit
        if self._worker is None:
            self._take(Failure("env", "died", f"{self._call}: its process is gone"))
            return
        if left:
            self._end()
            self._take(
                Failure("env", "died", f"{self._call}: its process was killed, since nobody waited for the call before")
            )
            return
        self._busy = True
        message = framed((self._start, method, arguments))
        self._start = None
        try:
            self._worker.send(message, calls * self._time_limit)
        except TimeoutError:
            self._late()
        except OSError:
            self._died()

    @property
    def ready(self) -> bool:
        """Whether the answer has been taken, or its time is over."""
        return self._answer is not None or time.monotonic() >= self._deadline

    def result(self) -> Any:
        """Waits for the answer, and takes those of the other lanes that come in the meantime."""
        while self._answer is None:
            left = self._deadline - time.monotonic()
            received(self._waits, left)
            if left <= 0.0 and self._answer is None:
                self._late()
        return self._answer[0]

    def receive(self) -> None:
        """Takes what has come of the answer."""
        if self._worker is None:
            return
        try:
            data = self._worker.receive()
        except OSError:
            self._died()
            return
        if data is not None:
            self._take(self._read(data))

    def _take(self, answer: Any) -> None:
        self._answer, self._busy = (answer,), False

    def _read(self, data: bytes) -> Any:
        try:
            kind, value = plain(data)
            return self._hosted.unpacked(value) if kind == "gave" else Failure("env", "raised", str(value))
        except Exception as error:  # it comes from code that is not trusted
            return Failure("env", "raised", f"{self._call} gave what cannot be read: {describe(error)}")

    def _late(self) -> None:
        self._end()
        self._take(late(self._call, self._time_limit, self._calls, "; its process was killed"))

    def _died(self) -> None:
        self._take(Failure("env", "died", f"{self._call}: its process died {self._end()}"))

    def _end(self) -> str:
        assert self._worker is not None
        worker, self._worker = self._worker, None
        self._waits.unregister(worker.connection)
        return self._workers.end(worker)

    def close(self) -> None:
        """Has the worker close what it hosts, or kills it where it is at work."""
        if self._worker is None:
            return
        if self._busy:
            self._end()
            return
        worker, self._worker = self._worker, None
        self._waits.unregister(worker.connection)
        self._workers.give_back(worker, None if self._start else self._time_limit)


def received(waits: selectors.BaseSelector, seconds: float) -> None:
    """Has lanes take what has come of their answers; waits at most so long until something has."""
    for key, _ in waits.select(timeout=max(seconds, 0.0)):
        key.data.receive()


def _start(hosted: Hosted) -> tuple[str, list[str], bytes | None, bytes]:
    """What a worker needs to host it: where it stands, how modules are found, the registration, and what makes it.

    Raises:
        ConfigError: That cannot be sent.
    """
    spec = shipped(hosted.env_id)
    try:
        return os.getcwd(), list(sys.path), spec, pickle.dumps(hosted)
    except Exception as error:  # of whatever kind: a user's object may stand in it
        raise ConfigError(
            f"isolation=process: the kwargs of environment {hosted.env_id!r} cannot be sent to another process ({describe(error)}); "
            "give plain values, or say isolation=thread"
        ) from error


class Processes(Host):
    """Hosts each in a process of its own."""

    def __init__(self, time_limit: float) -> None:
        """Starts what workers are forked from, where it does not run yet.

        Raises:
            ConfigError: This system cannot fork.
        """
        self._time_limit = time_limit
        self._workers = fleet()
        self._waits = selectors.DefaultSelector()

    def lane(self, hosted: Hosted) -> ProcessLane:
        """A worker for it, and nothing else."""
        if not self._workers.usable:  # what they were forked from was killed
            # a new selector: descriptors of the workers before may be used again
            self._workers, self._waits = fleet(), selectors.DefaultSelector()
        return ProcessLane(hosted, self._time_limit, self._workers, self._waits)

    def wait(self, seconds: float) -> None:
        """Until something of an answer has come."""
        received(self._waits, seconds)
