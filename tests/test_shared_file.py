"""SQLite files that many open and write at once."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentopd.shared_file import opened


def test_many_that_open_a_new_file_at_once_all_get_their_turn(tmp_path: Path) -> None:
    def write(place: tuple[int, int]) -> None:
        file = opened(tmp_path / f"{place[0]}.sqlite")
        file.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)")
        file.execute("INSERT INTO t VALUES (?)", (place[1],))
        file.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, [(n, m) for n in range(8) for m in range(8)]))
    for n in range(8):
        assert opened(tmp_path / f"{n}.sqlite").execute("SELECT count(*) FROM t").fetchone() == (8,)


def test_what_is_no_such_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="file is not a database"):
        opened(tmp_path / "text")
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        opened(tmp_path / "nowhere" / "a.sqlite")


def test_without_a_path_it_is_in_memory() -> None:
    assert opened(None).execute("SELECT 1").fetchone() == (1,)
