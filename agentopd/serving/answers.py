"""Answers that were paid for, kept by what was asked."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agentopd.errors import TeacherError, describe
from agentopd.serving.turns import turns_at
from agentopd.shared_file import opened

ANSWERS = "answers.sqlite"
"""The file of a run folder."""


class Answers:
    """One SQLite file, from many threads and processes at once; without a path they are kept while the process lives.

    A table ``answers`` has two columns: ``asked``, the SHA-256 of what was asked as JSON, and ``answer``, what came back as JSON.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Opens nothing yet; the file is made with the first answer."""
        self._path = path
        self._lock = threading.Lock()
        self._file: sqlite3.Connection | None = None
        self._turns = None if path is None else turns_at(path.with_suffix(".lock"))

    @staticmethod
    def key(url: str, body: Mapping[str, Any]) -> str:
        """By what the answer of a server to ``body``, which names the model, is kept."""
        return hashlib.sha256(json.dumps([url, body], sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> Any:
        """The answer, ``None`` where there is none.

        Raises:
            TeacherError: The file cannot be read.
        """
        if self._file is None and not (self._path and self._path.exists()):
            return None
        try:
            with self._lock:
                found = self._opened().execute("SELECT answer FROM answers WHERE asked = ?", (key,)).fetchone()
            return None if found is None else json.loads(found[0])
        except (sqlite3.Error, ValueError) as error:
            raise self._broken("read", error) from error

    def put(self, key: str, answer: Any) -> None:
        """Keeps an answer; a kill leaves it whole or absent.

        Raises:
            TeacherError: It cannot be written.
        """
        row = (key, json.dumps(answer))
        try:
            with self._lock:
                self._opened().execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", row)
        except sqlite3.Error as error:
            raise self._broken("written", error) from error

    @contextmanager
    def turn(self, key: str, longest: float) -> Iterator[None]:
        """Inside, nobody else asks for the answer ``key``, in this process or another; who does is waited for, ``longest`` seconds at most.

        Raises:
            TeacherError: Nothing can be written beside the file.
        """
        with ExitStack() as held:
            try:
                if self._turns is not None:
                    held.enter_context(self._turns.turn(key, longest))
            except OSError as error:
                raise self._broken("written", error) from error
            yield

    def forget(self) -> None:
        """Loses what is kept while the process lives; a file keeps all."""
        with self._lock:
            if self._path is None and self._file is not None:
                self._file.close()
                self._file = None

    def _opened(self) -> sqlite3.Connection:
        if self._file is None:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            file = opened(self._path)
            file.execute("PRAGMA synchronous=NORMAL")
            file.execute("CREATE TABLE IF NOT EXISTS answers (asked TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            self._file = file
        return self._file

    def _broken(self, how: str, error: Exception) -> TeacherError:
        return TeacherError(
            f"{self._path} cannot be {how}: {describe(error)}; make room, make it and its folder writable, restore it from a copy, or move it away, after which what it "
            "held is asked, and paid for, again"
        )
