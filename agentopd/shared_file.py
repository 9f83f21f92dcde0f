"""SQLite files that any number of threads and processes write into at once."""

import sqlite3
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

WAIT = 60.0
"""Seconds for which others may hold a file."""


def opened(path: Path | None) -> sqlite3.Connection:
    """A connection that commits each statement and waits for its turn; in memory without a path.

    Raises:
        sqlite3.Error: It cannot be opened, is no such file, or others hold it for too long.
    """
    file = sqlite3.connect(path or ":memory:", timeout=WAIT, isolation_level=None, check_same_thread=False)
    # SQLite does not wait for its turn here, as it does elsewhere
    turns = Retrying(
        stop=stop_after_delay(WAIT), wait=wait_random(0.01, 0.1), retry=retry_if_exception(_held), reraise=True
    )
    try:
        for turn in turns:
            with turn:
                file.execute("PRAGMA journal_mode=WAL")
    except BaseException:
        file.close()
        raise
    return file


def _held(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
