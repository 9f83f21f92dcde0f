"""Annotations by what decides them, in one SQLite file that any number of processes and threads share."""

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import agentopd.records.decoding as decoding
import agentopd.records.encoding as encoding
from agentopd.errors import ConfigError, RecordError
from agentopd.records.schema import ANNOTATION
from agentopd.shared_file import opened
from agentopd.types import Annotation

FORM = hashlib.sha256(str(ANNOTATION).encode()).hexdigest()[:16]
"""Stands before every key: what was written in another form is not found."""
_TABLES = (
    "CREATE TABLE IF NOT EXISTS annotations (key TEXT PRIMARY KEY, annotation BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS identities (id INTEGER PRIMARY KEY, text TEXT NOT NULL, numbers BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS identities_by_text ON identities (text)",
)


class Store:
    """Keeps annotations. What :meth:`put` returned from is on the disk, and stays there when the process is killed."""

    def __init__(self, path: str | Path) -> None:
        """Opens the file, or makes it.

        Raises:
            ConfigError: It cannot be written.
            RecordError: It is damaged, or something else.
        """
        self.path = Path(path).expanduser()
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = opened(self.path)
        except (OSError, sqlite3.OperationalError) as error:
            raise ConfigError(f"cache: {self.path} cannot be written: {error}; choose another folder") from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        with self._open() as file:
            for statement in _TABLES:
                file.execute(statement)

    def close(self) -> None:
        """Lets the file go."""
        with self._lock:
            self._file.close()

    def __len__(self) -> int:
        with self._open() as file:
            return int(file.execute("SELECT count(*) FROM annotations").fetchone()[0])

    def get(self, key: str) -> Annotation | None:
        """What :meth:`put` was given under ``key``; ``None`` where that was nothing.

        Raises:
            RecordError: The file is damaged.
        """
        with self._open() as file:
            row = file.execute("SELECT annotation FROM annotations WHERE key = ?", (f"{FORM}/{key}",)).fetchone()
        return None if row is None else decoding.from_bytes(row[0])

    def put(self, annotations: Mapping[str, Annotation]) -> None:
        """Keeps annotations by their keys, all of them or, where it is killed, none. What is there already stays.

        Raises:
            RecordError: One is dense, or holds what cannot be read back equal; or the file cannot be written.
        """
        rows = [(f"{FORM}/{key}", encoding.to_bytes(one)) for key, one in annotations.items()]
        with self._open() as file, _whole(file):
            file.executemany("INSERT OR IGNORE INTO annotations VALUES (?, ?)", rows)

    def known(self, text: str, numbers: Sequence[float], tolerance: float) -> str:
        """A name for whoever has this text and numbers such as these: one that was met before where each differs by ``tolerance`` at most.

        Raises:
            RecordError: The file is damaged, or cannot be written.
        """
        given = np.asarray(numbers, np.float64)
        with self._open() as file, _whole(file):
            found = file.execute("SELECT id, numbers FROM identities WHERE text = ? ORDER BY id", (text,)).fetchall()
            for number, kept in found:
                other = np.frombuffer(kept, np.float64)
                if other.shape == given.shape and bool((np.abs(other - given) <= tolerance).all()):
                    return f"{text}/{number}"
            made = file.execute("INSERT INTO identities (text, numbers) VALUES (?, ?)", (text, given.tobytes()))
            return f"{text}/{made.lastrowid}"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The file, for one thread at a time."""
        with self._lock:
            try:
                yield self._file
            except sqlite3.DatabaseError as error:
                raise self._damaged(error) from error

    def _damaged(self, error: sqlite3.DatabaseError) -> RecordError:
        return RecordError(
            f"{self.path}: {error}; make room there, or choose another folder for it; where it is damaged delete it, which loses what teachers "
            "said and nothing else"
        )


@contextmanager
def _whole(file: sqlite3.Connection) -> Iterator[None]:
    """What happens inside happens as a whole, or not at all."""
    file.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        file.execute("ROLLBACK")
        raise
    file.execute("COMMIT")
