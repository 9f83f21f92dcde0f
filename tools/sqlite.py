"""A SQLite database to read from. SQLite itself refuses what writes, reaches outside or takes too long; hardly any text is judged."""

import json
import re
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from unicodedata import category

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import tool
from agentopd.tooling.action import brief
from agentopd.tooling.cutting import cut, cut_mark

_NAMES = """
abs avg ceil ceiling char coalesce count dense_rank exp first_value floor format glob group_concat hex ifnull iif instr lag last_value
lead length like ln log log10 log2 lower ltrim max min mod nth_value ntile nullif pow power printf quote rank replace round row_number
rtrim sign sqrt substr substring sum total trim trunc typeof unicode upper
"""
FUNCTIONS = frozenset(_NAMES.split())
"""Functions that depend on their arguments alone and whose work the limits bound. Those of dates read the clock, and ``match`` asks a table of
full-text search: add them if you like."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may take and give."""

    rows: int = 20
    """Rows shown."""
    cell: int = 100
    """Characters of a cell."""
    characters: int = 2000
    """Characters of an answer, about: the row that passes them is the last."""
    steps: int = 1_000_000
    """Steps of SQLite's virtual machine. Unlike seconds they are the same on every machine."""
    seconds: float = 2.0
    value: int = 20_000
    """Bytes of a value, also in between and in the database: the work of some functions grows with its square."""

    def __post_init__(self) -> None:
        """Checks that all are positive."""
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"limits.{name}={getattr(self, name)} must be positive")


_PARSER = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 10,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 20,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 8,  # of the queries of full-text search; a model's own have no values
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_COLUMNS = 100
"""Of a result, or as many as the widest table has."""
_EVERY = 20
"""Steps between two looks at the clock: a single one takes milliseconds at worst."""
_QUESTIONS = 5000
"""How often SQLite may ask whether something is allowed while it compiles a statement, which may grow exponentially with its text."""
_NAMED = re.compile(r",|join|from|\bin\b", re.ASCII)
_MAX_NAMED = 24
"""Tables that a statement with WITH may name: SQLite copies what WITH defines wherever it is named, 3**8 times for 24 names, and asks no one."""


_REPEATED = re.compile(r"%[^%A-Za-z]*\.[^%A-Za-z]*l{0,2}c")
"""A character that SQLite writes as often as its precision says, a thousand million times for ``%.1000000000c``, and looks at no limit."""


class _Printf:
    """SQLite's own ``printf``, in a database beside, without what has no limit."""

    def __init__(self, longest: int) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, longest)

    def __call__(self, *values: Any) -> Any:
        form = values[0] if values else ""
        text = form.decode("latin-1") if isinstance(form, bytes) else str(form)
        if _REPEATED.search(text):
            raise ValueError(f"{text!r} repeats a character")
        return self._db.execute(f"SELECT printf({', '.join('?' * len(values))})", values).fetchone()[0]


class Sqlite:
    """Tools over one database. ``extra_tools = (db.list_tables, db.describe, db.query)`` gives them to an environment.

    Args:
        database: A file, which is opened read-only, or an open connection, which is taken over: from now on it only reads.
            Tables and columns are those of now.
        limits: What one query may take and give.
        functions: The functions that a query may call.

    Raises:
        ConfigError: there is no such database.
    """

    def __init__(
        self,
        database: str | Path | sqlite3.Connection,
        limits: Limits | None = None,
        functions: Collection[str] = FUNCTIONS,
    ):
        self.limits = limits or Limits()
        self._functions, self._lock = frozenset(functions), Lock()
        self._db = database if isinstance(database, sqlite3.Connection) else _opened(Path(database))
        try:
            self._columns = dict(_columns(self._db))
            self._hidden = frozenset(_hidden(self._db))
        except sqlite3.Error as error:
            raise ConfigError(f"database={str(database)!r} cannot be read: {error}; give a SQLite database") from error
        self._readable = {*self._columns, "sqlite_master"}
        self._guard()

    @tool
    def list_tables(self) -> str:
        """List the tables."""
        return ", ".join(self._columns) or "no tables"

    @tool
    def describe(self, table: str) -> str:
        """Show the columns of a table.

        Args:
            table: The table's name.
        """
        for name, columns in self._columns.items():
            if name.lower() == table.lower():
                return ", ".join(columns)
        raise ToolError(f"no such table: {brief(table, 40)}; tables: {self.list_tables()}")

    @tool(max_characters=None)
    def query(self, sql: str) -> str:
        """Run a SELECT.

        Args:
            sql: One statement of SQLite.
        """
        if "with" in (text := sql.lower()) and len(_NAMED.findall(text)) > _MAX_NAMED:
            raise ToolError("too long for a statement with WITH; use subqueries, or several queries")
        with self._lock:
            self._asked, self._steps, self._end = 0, 0, time.monotonic() + self.limits.seconds
            try:
                with closing(self._db.cursor()) as cursor:
                    cursor.row_factory = None
                    cursor.execute(sql)
                    if not cursor.description:
                        raise ToolError("no statement; write one SELECT")
                    return self._table([column[0] for column in cursor.description], cursor)
            except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
                raise ToolError(self._words(error)) from error

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    def _table(self, names: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> str:
        lines = [" | ".join(self._cell(name) for name in names)]
        for number, row in enumerate(rows):
            if number == self.limits.rows or sum(map(len, lines)) > self.limits.characters:
                return "\n".join([*lines, cut_mark(number, None, "rows")])
            lines.append(" | ".join(map(self._cell, row)))
        return "\n".join(lines if len(lines) > 1 else [*lines, "(no rows)"])

    def _cell(self, value: object) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, bytes):
            return f"({len(value)} bytes)"
        text = str(value)
        if "|" in text or not all(
            map(_is_seen, text)
        ):  # such as an end of line, which would look like the end of the row
            quoted = json.dumps(text, ensure_ascii=False)
            text = "".join(each if _is_seen(each) else json.dumps(each)[1:-1] for each in quoted)
        return cut(text, self.limits.cell)

    def _words(self, error: BaseException) -> str:
        words = brief(str(error) or "out of memory", 200)
        if words.startswith("user-defined function"):
            return "printf cannot write that; %c takes no precision here"
        if self._asked > _QUESTIONS:
            return "too many joins or unions; ask for less"
        if words in ("not authorized", "authorization denied") or words.startswith("access to"):
            return f"{words}: only SELECT from the tables is allowed"
        return "interrupted: it takes too long; ask for less" if words == "interrupted" else words

    def _guard(self) -> None:
        self._asked, self._steps, self._end = 0, 0, time.monotonic() + self.limits.seconds
        self._db.text_factory = lambda text: text.decode("utf-8", "replace")
        self._db.execute("PRAGMA query_only = ON")
        for limit, value in _PARSER.items():
            self._db.setlimit(limit, value)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self.limits.value)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, max([_COLUMNS, *map(len, self._columns.values())]))
        printf = _Printf(self.limits.value)
        for name in ("printf", "format"):
            self._db.create_function(name, -1, printf, deterministic=True)
        self._db.set_authorizer(self._allowed)
        self._db.set_progress_handler(self._late, _EVERY)

    def _allowed(self, action: int, one: str | None, two: str | None, database: str | None, _inside: str | None) -> int:
        self._asked += 1
        may = (
            action == sqlite3.SQLITE_SELECT
            or (action == sqlite3.SQLITE_FUNCTION and (two or "").lower() in self._functions)
            or (action == sqlite3.SQLITE_READ and two and one in self._readable and database == "main")
            or (
                action == sqlite3.SQLITE_PRAGMA and (one, two) == ("data_version", None)
            )  # tables of full-text search ask
            or (action == sqlite3.SQLITE_READ and not two and self._counts((one or "").lower(), database))
        )
        return sqlite3.SQLITE_OK if may and self._asked <= _QUESTIONS else sqlite3.SQLITE_DENY

    def _counts(self, name: str, database: str | None) -> bool:
        """Whether rows may be counted of what a query names, as it writes it, without its columns: of tables, and of what it calls so itself."""
        return database.lower() == "main" if database else name not in self._hidden

    def _late(self) -> bool:
        self._steps += _EVERY
        return self._steps > self.limits.steps or time.monotonic() > self._end


def _is_seen(character: str) -> bool:
    """Whether a character looks like itself; spaces of any width do."""
    return character.isprintable() or category(character) == "Zs"


def _opened(path: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigError(f"database={str(path)!r} cannot be opened: {error}; give a SQLite file") from error


def _columns(db: sqlite3.Connection) -> Iterator[tuple[str, list[str]]]:
    """The tables and views that can be read, each with its columns and what they refer to."""
    for (table,) in db.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT GLOB 'sqlite_*'"
    ):
        try:
            fields = db.execute(_FIELDS, (table,)).fetchall()
        except (
            sqlite3.OperationalError
        ):  # a view of what is gone, or a table of a module that is not here: no query reads it
            continue
        keys = {row[0]: f" -> {row[1]}.{row[2]}" for row in db.execute(_KEYS, (table,))}
        yield table, [f"{name} {kind}".strip() + keys.get(name, "") for name, kind in fields]


def _hidden(db: sqlite3.Connection) -> Iterator[str]:
    """Names, in small letters, by which a query means another database than the main one: a temporary or an attached one."""
    yield from ("sqlite_temp_master", "sqlite_temp_schema")
    known = {row[0].lower() for row in db.execute("SELECT name FROM main.sqlite_master")}
    for _, base, _ in db.execute("PRAGMA database_list").fetchall():
        if base != "main":
            quoted = base.replace('"', '""')
            names = {row[0].lower() for row in db.execute(f'SELECT name FROM "{quoted}".sqlite_master')}
            yield from names if base == "temp" else names - known


_FIELDS = "SELECT name, type FROM pragma_table_xinfo(?) WHERE hidden <> 1"
"""With those that are generated, without those that a virtual table hides."""
_KEYS = """
SELECT "from", "table", coalesce("to", (SELECT name FROM pragma_table_info(own."table") WHERE pk = own.seq + 1), 'rowid')
FROM pragma_foreign_key_list(?) AS own
"""
"""Where a reference names no column it is to the primary key."""
