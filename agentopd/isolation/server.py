"""The process that workers are forked from: it has imported what environments need, and nothing else runs in it.

Python starts and imports Gymnasium in a second or more; a fork of this process takes milliseconds and shares its memory. Neither torch nor
threads are in it. Run as ``python -c "...main(descriptor)"``; see ``fleet.py`` for the other side.

A request is a letter and a number. ``F`` forks a worker around the descriptor that comes with it, and is answered with its number;
``W`` waits for the end of that worker, and is answered with its status. When the other side is gone, all workers are killed.
"""

import gc
import os
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress

import numpy as np

import agentopd.env
import agentopd.isolation.bare
import agentopd.isolation.session  # noqa: F401 - for the workers
from agentopd.isolation.worker import serve

REQUEST = struct.Struct("<cq")
ANSWER = struct.Struct("<q")
FORK, WAIT = b"F", b"W"


def main(descriptor: int) -> None:
    """Serves requests on a connected socket until that is closed."""
    control = socket.socket(fileno=descriptor)
    workers: set[int] = set()
    gc.collect()
    gc.freeze()  # else the first collection of each worker copies all that they share
    try:
        while (received := socket.recv_fds(control, REQUEST.size, 1))[0]:
            letter, number = REQUEST.unpack(received[0])
            if letter == FORK:
                number = _forked(control, received[1][0])
                workers.add(number)
            else:
                workers.discard(number)
                _, number = os.waitpid(number, 0)
            control.sendall(ANSWER.pack(number))
    except ConnectionError:  # killed while it waited for an answer
        pass
    finally:
        for worker in workers:
            kill(worker)


def _forked(control: socket.socket, descriptor: int) -> int:
    """A new worker's number; its own process never returns from here."""
    worker = os.fork()
    if worker:
        os.close(descriptor)
        return worker
    try:
        os.setsid()  # what it starts goes with it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        control.close()
        np.random.seed()  # or all draw the same numbers
        with suppress(ConnectionError), socket.socket(fileno=descriptor) as connection:
            serve(connection)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(0)


def kill(worker: int) -> None:
    """Kills a worker and what it has started, where it still lives."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(worker, signal.SIGKILL)  # one so new that it is in its parent's group
