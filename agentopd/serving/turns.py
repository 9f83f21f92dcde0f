"""Whose turn it is to ask: what several processes want to know at once, one of them asks."""

import errno
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[bytes], place: int) -> None:
        file.seek(place)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _give_back(file: IO[bytes], place: int) -> None:
        file.seek(place)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _take(file: IO[bytes], place: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)

    def _give_back(file: IO[bytes], place: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}
"""What systems say where another process holds a lock."""
PAUSE = 0.05
"""Seconds until it is looked again whether another process is done."""

_log = logging.getLogger(__name__)


class Turns:
    """One byte of a file for each question, locked by the process that asks it; the kernel gives it back however that ends.

    Threads of one process are not kept apart.
    """

    def __init__(self, path: Path) -> None:
        """Opens nothing yet; the file is made with the first turn, and stays empty."""
        self._path = path
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, key: str, longest: float) -> Iterator[None]:
        """Waits until no other process asks ``key``, a hexadecimal number, for ``longest`` seconds at most: it may have been stopped.

        Raises:
            OSError: The file cannot be written.
        """
        place = int(key[:12], 16)
        mine = self._taken(place, time.monotonic() + longest)
        try:
            yield
        finally:
            if mine and self._file is not None:
                with self._lock:
                    _give_back(self._file, place)

    def _taken(self, place: int, end: float) -> bool:
        while True:
            try:
                with self._lock:
                    _take(self._opened(), place)
                return True
            except OSError as error:
                if self._file is None:
                    raise
                if error.errno not in HELD:
                    _log.warning("%s cannot be locked (%s): let one process at a time ask there", self._path, error)
                    return False
            if time.monotonic() > end:
                _log.warning("%s: another process has asked the same for long, and is not waited for", self._path)
                return False
            time.sleep(PAUSE)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        return self._file
