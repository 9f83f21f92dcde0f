"""Sql: a question about a SQLite database, both made from the seed, answered by a query."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from agentopd.env import TextEnv
from agentopd.envs.answers import exactly
from agentopd.envs.sql_tables import DOMAINS, Table
from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest
from agentopd.tooling import call, tool
from agentopd.tools.sqlite import Sqlite

KINDS = ("lookup", "count", "sum", "extreme", "join", "group")
JOINED = ("join", "group")
"""Kinds that need more than one table."""
MOST_ROWS = 17
Question = tuple[str, str]
"""Words and query."""


class Sql(TextEnv):
    """Asks "How many goods of the maker Ada are there?". Reward 1 for the result of the right query as answer, which ends it, else 0.

    Numbers have to be exact; names may be written in any case. It takes a turn for each table concerned (``describe``), a query
    and the answer. The family of a task is its kind.

    Args:
        tables: How many tables there are, 1 to 3.
        rows: Rows of the first table, 6 to 17. Others have half as many.
        kinds: Kinds of questions, out of ``KINDS``. Default: all that the number of tables lets.
    """

    instructions = "Answer the question from the SQLite database: describe the tables, query them, then answer."

    def __init__(self, tables: int = 2, rows: int = 8, kinds: Sequence[str] | None = None):
        if not 1 <= tables <= len(DOMAINS[0]):
            raise ConfigError(f"tables={tables} must be from 1 to {len(DOMAINS[0])}")
        if not 6 <= rows <= MOST_ROWS:
            raise ConfigError(f"rows={rows} must be from 6 to {MOST_ROWS}")
        if kinds is not None and not kinds:
            raise ConfigError(f"kinds={kinds!r}: give a list of at least one of {', '.join(KINDS)}")
        for kind in kinds or ():
            if kind not in KINDS:
                raise ConfigError(f"kinds: {kind!r} is not known{nearest(kind, KINDS)}; there are: {', '.join(KINDS)}")
            if tables == 1 and kind in JOINED:
                raise ConfigError(f"kinds: {kind!r} needs two tables, and tables=1; set tables to 2 or 3")
        self.kinds = tuple(kinds or (kind for kind in KINDS if tables > 1 or kind not in JOINED))
        self.tables, self.rows = tables, rows
        self._database: Sqlite | None = None

    def start(self) -> str:
        """Draws a domain, its rows, and a question that has one answer."""
        self.close()
        self._domain = DOMAINS[int(self.np_random.integers(len(DOMAINS)))][: self.tables]
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._fill(connection)
        found: list[Any] = []
        while len(found) != 1:
            self.family = self._any(self.kinds)
            text, self._query = getattr(self, f"_{self.family}")()
            found = connection.execute(self._query).fetchall()
        self._answer: int | str = found[0][0]
        self._database = Sqlite(connection)
        self._result = self._database.query(self._query)
        self._described: set[str] = set()
        self._known = False
        return str(text)

    @tool
    def list_tables(self) -> str:
        """List the tables."""
        return self._db.list_tables()

    @tool
    def describe(self, table: str) -> str:
        """Show the columns of a table."""
        columns = self._db.describe(table)
        self._described.add(table.lower())
        return columns

    @tool
    def query(self, sql: str) -> str:
        """Run a SELECT."""
        result = self._db.query(sql)
        self._known = self._known or result == self._result
        return result

    @tool
    def answer(self, value: float | str) -> str:
        """Answer the question with a number or a name."""
        right = exactly(str(value), [self._answer])
        self.finish(reward=float(right))
        return "Right." if right else "Wrong."

    def expert(self) -> str:
        """Describes the tables that the query needs, runs it, and answers."""
        if self._known:
            return call("answer", value=self._answer)
        for table in self._domain:
            if table.name in self._query.split() and table.name not in self._described:
                return call("describe", table=table.name)
        return call("query", sql=self._query)

    def privileged(self) -> dict[str, Any]:
        """The query and the answer, as texts both: values of one type are what Gymnasium's vector environments can put together."""
        return {"query": self._query, "answer": str(self._answer)}

    def close(self) -> None:
        """Frees the database."""
        if self._database:
            self._database.close()
        super().close()

    @property
    def _db(self) -> Sqlite:
        assert self._database
        return self._database

    def _fill(self, connection: sqlite3.Connection) -> None:
        """Numbers of a column are all different, so that one is the largest."""
        self._data: dict[str, list[dict[str, Any]]] = {}
        for table, further in zip(self._domain, (*self._domain[1:], None), strict=True):
            count = self.rows if table is self._domain[0] else self.rows // 2
            columns: dict[str, Sequence[Any]] = {"id": range(1, count + 1)}
            columns["name"] = [str(name) for name in self.np_random.choice(table.names.split(), count, replace=False)]
            for column, most in table.numbers.items():
                columns[column] = (self.np_random.choice(most, count, replace=False) + 1).tolist()
            kinds = dict.fromkeys(columns, "INTEGER") | {"id": "INTEGER PRIMARY KEY", "name": "TEXT"}
            if further:
                columns[f"{further.one}_id"] = (self.np_random.integers(self.rows // 2, size=count) + 1).tolist()
                kinds[f"{further.one}_id"] = f"INTEGER REFERENCES {further.name}(id)"
            connection.execute(f"CREATE TABLE {table.name} ({', '.join(' '.join(pair) for pair in kinds.items())})")
            rows = list(zip(*columns.values(), strict=True))
            connection.executemany(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(columns))})", rows)
            self._data[table.name] = [dict(zip(columns, row, strict=True)) for row in rows]
        connection.commit()

    def _any(self, things: Sequence[Any]) -> Any:
        return things[int(self.np_random.integers(len(things)))]

    def _table_and_column(self) -> tuple[Table, str]:
        table = self._any(self._domain)
        return table, self._any(list(table.numbers))

    def _filter(self, table: Table, column: str) -> Question:
        """A condition that some rows meet and some do not."""
        bound = self._any(sorted(row[column] for row in self._data[table.name])[1:-1])
        word, sign = self._any((("above", ">"), ("below", "<")))
        return f"{table.name} with {column} {word} {bound}", f"FROM {table.name} WHERE {column} {sign} {bound}"

    def _lookup(self) -> Question:
        table, column = self._table_and_column()
        name = self._any(self._data[table.name])["name"]
        return (
            f"What is the {column} of the {table.one} {name}?",
            f"SELECT {column} FROM {table.name} WHERE name = '{name}'",
        )

    def _count(self) -> Question:
        words, rest = self._filter(*self._table_and_column())
        return f"How many {words} are there?", f"SELECT count(*) {rest}"

    def _sum(self) -> Question:
        table, column = self._table_and_column()
        if self.np_random.random() < 0.5:
            return f"What is the total {column} of all {table.name}?", f"SELECT sum({column}) FROM {table.name}"
        words, rest = self._filter(table, next(name for name in table.numbers if name != column))
        return f"What is the total {column} of {words}?", f"SELECT sum({column}) {rest}"

    def _extreme(self) -> Question:
        table, column = self._table_and_column()
        word, way = self._any((("highest", "DESC"), ("lowest", "ASC")))
        query = f"SELECT name FROM {table.name} ORDER BY {column} {way} LIMIT 1"
        return f"Which {table.one} has the {word} {column}?", query

    def _join(self) -> Question:
        """From the first table to the second, or through it to the third."""
        first, depth = self._domain[0], int(self.np_random.integers(1, self.tables))
        row, joins = self._any(self._data[first.name]), ""
        for table, further in zip(self._domain[:depth], self._domain[1:], strict=False):
            key = f"{further.one}_id"
            joins += f" JOIN {further.name} ON {further.name}.id = {table.name}.{key}"
            row = self._data[further.name][row[key] - 1]
        middle = "".join(f" of {table.name}" for table in self._domain[1:depth])
        words = f"{first.name}{middle} of the {further.one} {row['name']}"
        rest = f"FROM {first.name}{joins} WHERE {further.name}.name = '{row['name']}'"
        if self.np_random.random() < 0.5:
            return f"How many {words} are there?", f"SELECT count(*) {rest}"
        column = self._any(list(first.numbers))
        return f"What is the total {column} of {words}?", f"SELECT sum({first.name}.{column}) {rest}"

    def _group(self) -> Question:
        first, second = self._domain[:2]
        column = self._any(list(first.numbers))
        sums: dict[int, int] = {}
        for row in self._data[first.name]:
            sums[row[f"{second.one}_id"]] = sums.get(row[f"{second.one}_id"], 0) + row[column]
        rest = f"FROM {first.name} JOIN {second.name} ON {second.name}.id = {first.name}.{second.one}_id"
        only = "LIMIT 1" if list(sums.values()).count(max(sums.values())) == 1 else "LIMIT 0"  # a tie has no answer
        query = f"SELECT {second.name}.name {rest} GROUP BY {second.name}.id ORDER BY sum({first.name}.{column}) DESC {only}"
        return f"Which {second.one} has the highest total {column} of {first.name}?", query
