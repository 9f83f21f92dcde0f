"""The worker processes of this process: started once, used again, and all gone when it ends, however it ends."""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cache

from agentopd.errors import ConfigError, EnvError, describe
from agentopd.isolation.lane import PARTING
from agentopd.isolation.server import ANSWER, FORK, REQUEST, WAIT, kill
from agentopd.isolation.worker import HEADER, LONGEST, framed

PATIENCE = 120.0
"""Seconds within which the first worker must be there: everything is imported for it."""
AS_LONG_AS_A_FORK = 10
"""Milliseconds that a worker which closes what it hosted is waited for, before a new one is forked."""
_NO_SERVER = "isolation=process: the process that workers are forked from"
_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from agentopd.isolation.server import main; main(int(sys.argv[2]))"


class Worker:
    """One process, as the other end of its socket."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number = number
        self.connection = connection
        self.closing: float | None = None
        """Until when it may take to close what it hosts; ``None`` where it hosts something, or nothing."""
        self._received = bytearray()

    def send(self, message: bytes, time_limit: float) -> None:
        """Sends a call.

        Raises:
            OSError: It is dead, or does not take it within ``time_limit`` seconds.
        """
        self.connection.settimeout(time_limit)
        self.connection.sendall(message)

    def receive(self) -> bytes | None:
        """An answer, where all of it has come; never waits.

        Raises:
            OSError: It is dead, or sends what is too long.
        """
        self.connection.settimeout(0.0)
        while (missing := self._missing()) > 0:
            try:
                part = self.connection.recv(min(missing, 1 << 20))
            except BlockingIOError:
                return None
            if not part:
                raise ConnectionResetError
            self._received += part
        answer, self._received = bytes(self._received[HEADER:]), bytearray()
        return answer

    def _missing(self) -> int:
        if len(self._received) < HEADER:
            return HEADER - len(self._received)
        length = int.from_bytes(self._received[:HEADER], "big")
        if length > LONGEST:
            raise OSError(f"an answer of {length} bytes")
        return HEADER + length - len(self._received)


class Fleet:
    """The workers and the process that they are forked from."""

    def __init__(self) -> None:
        """Starts that process, without waiting for it.

        Raises:
            ConfigError: This system cannot fork.
        """
        if not hasattr(os, "fork"):
            raise ConfigError(
                "isolation=process: worker processes are forked, which this system cannot; say isolation=thread"
            )
        self._lock = threading.Lock()
        self._idle: list[Worker] = []
        self._alive: set[Worker] = set()
        self._owner = os.getpid()
        self._asking = False
        self._control, theirs = socket.socketpair()
        self._control.settimeout(PATIENCE)
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-c", _CODE, json.dumps(sys.path), str(number)]
            self._server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[number], start_new_session=True
            )

    def take(self) -> Worker:
        """A worker that hosts nothing.

        Raises:
            EnvError: There can be no more of them.
        """
        with self._lock:
            self._look_at_closing()
            if all(one.closing is not None for one in self._idle) and self._idle:
                closing = select.poll()
                for one in self._idle:
                    closing.register(one.connection, select.POLLIN)
                closing.poll(AS_LONG_AS_A_FORK)
                self._look_at_closing()
            worker = next((one for one in self._idle if one.closing is None), None)
            if worker is not None:
                self._idle.remove(worker)
                return worker
            ours, theirs = socket.socketpair()
            with theirs:
                number = self._ask(FORK, 0, theirs)
            worker = Worker(number, ours)
            self._alive.add(worker)
            return worker

    def give_back(self, worker: Worker, time_limit: float | None) -> None:
        """Has it close what it hosts, for which it has ``time_limit`` seconds, where it hosts anything; nobody waits for it."""
        if time_limit is not None:
            try:
                worker.send(framed((None, "close", ())), time_limit)
            except OSError:
                self.end(worker)
                return
            worker.closing = time.monotonic() + time_limit
        with self._lock:
            self._idle.append(worker)

    def end(self, worker: Worker) -> str:
        """Kills it where it lives, and says what it died of; that is what it died of before, where it was dead."""
        with self._lock:
            return self._end(worker)

    def rest(self) -> None:
        """Ends all that host nothing; those that still close what they hosted are waited for a little."""
        with self._lock:
            self._part()
            for worker in self._idle:
                self._end(worker)
            self._idle.clear()

    def _end(self, worker: Worker) -> str:
        kill(worker.number)
        worker.connection.close()
        self._alive.discard(worker)
        try:
            return _died_of(self._ask(WAIT, worker.number))
        except EnvError:
            return "with the process that it was forked from"

    def _part(self) -> None:
        end = time.monotonic() + PARTING
        self._look_at_closing()
        while any(one.closing is not None for one in self._idle) and time.monotonic() < end:
            time.sleep(0.01)
            self._look_at_closing()

    def _look_at_closing(self) -> None:
        """Which workers have closed what they hosted; those that take too long are killed."""
        for worker in list(self._idle):
            if worker.closing is None:
                continue
            try:
                if worker.receive() is not None:
                    worker.closing = None
                elif time.monotonic() > worker.closing:
                    raise TimeoutError
            except OSError:
                self._idle.remove(worker)
                self._end(worker)

    def _ask(self, letter: bytes, number: int, descriptor: socket.socket | None = None) -> int:
        """One request, and its answer. Where somebody was interrupted between the two, the next answer would be another's."""
        if self._asking:
            self._server.kill()
        self._asking = True
        try:
            descriptors = [] if descriptor is None else [descriptor.fileno()]
            socket.send_fds(self._control, [REQUEST.pack(letter, number)], descriptors)
            answer = self._control.recv(ANSWER.size, socket.MSG_WAITALL)
        except OSError as error:
            raise EnvError(f"{_NO_SERVER} does not answer: {describe(error)}") from error
        if len(answer) < ANSWER.size:
            raise EnvError(f"{_NO_SERVER} ended, with exit status {self._server.wait()}; what it said stands above")
        self._asking = False
        return int(ANSWER.unpack(answer)[0])

    @property
    def numbers(self) -> list[int]:
        """The numbers of all processes, that of the server first."""
        return [self._server.pid, *(worker.number for worker in self._alive)]

    @property
    def usable(self) -> bool:
        """Whether it is this process's own, lives, and was not interrupted. A request that another thread makes is waited for."""
        if self._owner != os.getpid():
            return False
        with self._lock:
            return not self._asking and self._server.poll() is None

    def close(self) -> None:
        """Ends all of them. Those that were forked with this process's memory leave them alone."""
        if self.usable:
            with self._lock:
                self._part()
        self._control.close()
        for worker in self._alive:
            worker.connection.close()
        if self._owner != os.getpid():
            return
        try:
            self._server.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        for worker in (
            self._alive if self._server.returncode else ()
        ):  # else it has killed them, and their numbers may be others'
            kill(worker.number)
        self._alive.clear()
        self._idle.clear()


def _died_of(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"with exit code {code}"
    name = f"signal {-code}"
    with suppress(ValueError):
        name = f"{signal.Signals(-code).name} ({name})"
    return f"of {name}" + (", as where the system has no memory left" if -code == signal.SIGKILL else "")


_fleets: list[Fleet] = []
_starting = threading.Lock()


def fleet() -> Fleet:
    """The workers of this process, whichever thread asks."""
    with _starting:
        if _fleets and _fleets[0].usable:
            return _fleets[0]
        for old in _fleets:
            old.close()
        _fleets[:] = [Fleet()]
        _close_at_exit()
        return _fleets[0]


@cache
def _close_at_exit() -> None:
    atexit.register(close_workers)


def close_workers() -> None:
    """Ends all worker processes; the next that is needed starts them anew."""
    with _starting:
        for one in _fleets:
            one.close()
        _fleets.clear()


def rest() -> None:
    """Ends the worker processes that host nothing, and, where no other is left, what they were forked from."""
    with _starting:
        for one in _fleets:
            one.rest()
        if _fleets and len(_fleets[0].numbers) == 1:
            _fleets.pop().close()
