"""Whose turn it is to ask: what several teachers or processes want to know at once, one of them asks."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

from agentopd.file_lock import HELD, give_back_byte, take_byte

PAUSE = 0.05
"""Seconds until it is looked again whether another process is done."""

_log = logging.getLogger(__name__)


class Turns:
    """One byte of a file for each question, locked by the process that asks it; the kernel gives it back however that ends.

    A process must have one alone for a file, as :func:`turns_at` gives it: the kernel keeps no two of its threads apart, and gives all
    its locks of a file back where it closes that file once.
    """

    def __init__(self, path: Path) -> None:
        """Opens nothing yet; the file is made with the first turn, and stays empty."""
        self._path = path
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._here: dict[int, bool] = {}
        """What threads of this process ask, and whether the file is locked there."""
        self._told = False

    @contextmanager
    def turn(self, key: str, longest: float) -> Iterator[None]:
        """Waits until nobody else asks ``key``, a hexadecimal number, for ``longest`` seconds at most: who does may have been stopped.

        Raises:
            OSError: The file cannot be written.
        """
        place = int(key[:12], 16)
        mine = self._taken(place, time.monotonic() + longest)
        try:
            yield
        finally:
            if mine:
                self._left(place)

    def _taken(self, place: int, end: float) -> bool:
        while not self._tried(place):
            if time.monotonic() > end:
                _log.warning("%s: another process has asked the same for long, and is not waited for", self._path)
                return False
            time.sleep(PAUSE)
        return True

    def _tried(self, place: int) -> bool:
        with self._lock:
            if place in self._here:
                return False
            try:
                take_byte(self._opened(), place)
                self._here[place] = True
            except OSError as error:
                if self._file is None:
                    raise
                if error.errno in HELD:
                    return False
                self._here[place] = False
                self._tell(error)
            return True

    def _tell(self, error: OSError) -> None:
        if not self._told:
            _log.warning("%s cannot be locked (%s): let one process at a time ask there", self._path, error)
        self._told = True

    def _left(self, place: int) -> None:
        with self._lock:
            if self._here.pop(place) and self._file is not None:
                give_back_byte(self._file, place)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        return self._file


_known: "WeakValueDictionary[Path, Turns]" = WeakValueDictionary()
_knowing = threading.Lock()


def turns_at(path: Path) -> Turns:
    """The turns of this process at a file, however many ask there."""
    place = Path(os.path.realpath(path))
    with _knowing:
        turns = _known.get(place)
        if turns is None:
            turns = _known[place] = Turns(place)
    return turns
