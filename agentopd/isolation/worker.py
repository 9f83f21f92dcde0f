"""What runs in a process of its own: one hosted environment after another, each called as the other side of a socket says.

A message is its length in eight bytes, and so many bytes of pickle. What comes from a worker is read by :func:`plain`, which makes
nothing but plain data of it: an environment cannot run code in the process that trains.
"""

import io
import os
import pickle
import socket
import sys
from typing import Any, NoReturn

from agentopd.errors import described_with_place
from agentopd.isolation.lane import Hosted
from agentopd.isolation.registered import register

HEADER = 8
LONGEST = 1 << 30
"""Bytes of one message."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise TypeError(f"it holds a {module}.{name}, which is no plain data")


def plain(data: bytes) -> Any:
    """What a worker says.

    Raises:
        TypeError: It holds something else than plain data.
        Exception: It is damaged, in whatever way.
    """
    return _Plain(io.BytesIO(data)).load()


def framed(message: Any) -> bytes:
    """A message as it goes through the socket.

    Raises:
        ValueError: It is too long.
    """
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    if len(data) > LONGEST:
        raise ValueError(f"a message of {len(data)} bytes; the most is {LONGEST}")
    return len(data).to_bytes(HEADER, "big") + data


def serve(connection: socket.socket) -> None:
    """Answers calls until the other side closes the connection."""
    hosted: Hosted | None = None
    while (length := _received(connection, HEADER)) is not None:
        data = _received(connection, int.from_bytes(length, "big"))
        if data is None:
            break
        method = ""
        try:
            start, method, arguments = pickle.loads(data)
            if start is not None:
                hosted = None  # whatever happens next, it is not the last one that is called
                hosted = _hosted(*start)
            result = getattr(hosted, method)(*arguments)
            message = framed(("gave", None if hosted is None or method == "close" else hosted.packed(result)))
        except BaseException as error:  # handed to whoever waits, SystemExit of user code included
            message = framed(("raised", described_with_place(error)))
        if method == "close":
            hosted = None
        connection.sendall(message)


def _hosted(folder: str, path: list[str], spec: bytes | None, hosted: bytes) -> Hosted:
    """What is hosted from now on, read where all that it is made of can be imported."""
    if os.getcwd() != folder:
        os.chdir(folder)
    sys.path[:] = path
    if spec is not None:
        register(pickle.loads(spec))
    new: Hosted = pickle.loads(hosted)
    return new


def _received(connection: socket.socket, count: int) -> bytes | None:
    parts = []
    while count:
        try:
            part = connection.recv(min(count, 1 << 20))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
