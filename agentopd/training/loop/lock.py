"""One process at a time in a run folder."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from agentopd.errors import ConfigError
from agentopd.file_lock import HELD, take

LOCK = "run.lock"
"""The file that is locked. It stays in the folder: only the lock on it says that somebody is there, not the file."""

_log = logging.getLogger(__name__)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder, which is made where there is none, for this process.

    The kernel gives the lock back when the process and those forked from it have ended, however they end. A file system that
    knows no locks is told of in the log, and nothing is held.

    Raises:
        ConfigError: Another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"output: {folder} cannot be written: {error.strerror}") from None
    with file:
        if _locked(file, folder):
            _sign(file, folder)
        yield


def _sign(file: IO[str], folder: Path) -> None:
    try:
        file.truncate(0)
        os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())  # leaves nothing to flush
    except OSError as error:
        raise ConfigError(f"output: {folder} cannot be written: {error.strerror}") from None


def require_unheld(folder: Path) -> None:
    """Raises ConfigError where another process holds ``folder``. It writes nothing."""
    try:
        file = (folder / LOCK).open("r+", encoding="utf-8")
    except OSError:  # nobody was ever there, or nobody may write there: that is for others to say
        return
    with file:
        _locked(file, folder)


def _locked(file: IO[str], folder: Path) -> bool:
    """Takes the lock, until the file is closed; false where there are no locks."""
    try:
        take(file)
    except OSError as error:
        if error.errno not in HELD:
            _log.warning("%s cannot be locked (%s): start no second run there meanwhile", folder, error.strerror)
            return False
        file.seek(0)
        raise ConfigError(
            f"output: {folder} is in use by {file.read() or 'another process'}, or by a child of it; wait until it ends, or choose "
            "another folder"
        ) from None
    return True
