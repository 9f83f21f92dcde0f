"""A database that can be read and nothing else."""

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.errors import ConfigError, ToolError
from agentopd.tooling import ToolSet
from agentopd.tools.sqlite import FUNCTIONS, Limits, Sqlite

SCHEMA = """
CREATE TABLE towns (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE shops (id INTEGER PRIMARY KEY, town_id INTEGER REFERENCES towns(id), name TEXT, sales REAL);
CREATE VIEW big AS SELECT name, upper(name) AS loud FROM shops WHERE sales > 10;
CREATE INDEX towns_by_name ON towns (name);
INSERT INTO towns VALUES (1, 'Ulm'), (2, 'Bern');
INSERT INTO shops VALUES (1, 1, 'Ada', 12.5), (2, 2, 'Bo', 3), (3, 2, NULL, 40);
CREATE TABLE numbers (n INTEGER);
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "a ?#%20 b.db"
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA)
        db.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(1000)])
    db.close()
    return path


@pytest.fixture(scope="module")
def db(path: Path) -> Iterator[Sqlite]:
    db = Sqlite(path, Limits(seconds=0.5))
    yield db
    db.close()


def test_what_is_there(db: Sqlite) -> None:
    assert ToolSet.of(db).names == ("list_tables", "describe", "query")
    assert db.list_tables() == "towns, shops, big, numbers"
    assert db.describe("Shops") == "id INTEGER, town_id INTEGER -> towns.id, name TEXT, sales REAL"
    assert db.describe("big") == "name TEXT, loud"
    with pytest.raises(ToolError, match="no such table: x; tables: towns, shops, big, numbers"):
        db.describe("x")


def test_columns_that_are_generated_and_keys_that_a_reference_does_not_name() -> None:
    base = sqlite3.connect(":memory:")
    base.executescript(
        """
        CREATE TABLE lands (code TEXT PRIMARY KEY) WITHOUT ROWID;
        CREATE TABLE rooms (house TEXT, number INT, PRIMARY KEY (number, house));
        CREATE TABLE beds (
            land TEXT REFERENCES lands, house TEXT, room INT, wide REAL, area REAL AS (wide * 2), FOREIGN KEY (room, house) REFERENCES rooms
        );
        """
    )
    with closing(Sqlite(base)) as db:
        beds = "land TEXT -> lands.code, house TEXT -> rooms.house, room INT -> rooms.number, wide REAL, area REAL"
        assert db.describe("beds") == beds


def test_tables_of_full_text_search_are_read() -> None:
    base = sqlite3.connect(":memory:")
    base.executescript(
        "CREATE VIRTUAL TABLE a USING fts5 (b, c); INSERT INTO a VALUES ('one', 'quick'), ('two', 'slow')"
    )
    with closing(Sqlite(base, functions=FUNCTIONS | {"match"})) as db:
        assert db.describe("a") == "b, c"
        assert db.query("SELECT b FROM a") == "b\none\ntwo"
        assert db.query("SELECT b FROM a WHERE a MATCH 'slow'") == "b\ntwo"
        with pytest.raises(ToolError, match="only SELECT"):
            db.query("INSERT INTO a(a) VALUES ('optimize')")


def test_a_view_of_what_is_gone_leaves_the_others_to_be_read() -> None:
    base = sqlite3.connect(":memory:")
    base.executescript("CREATE TABLE a (b); CREATE VIEW c AS SELECT d FROM gone; CREATE VIEW e AS SELECT b FROM a")
    with closing(Sqlite(base)) as db:
        assert (db.list_tables(), db.query("SELECT count(b) AS n FROM e")) == ("a, e", "n\n0")
        with pytest.raises(ToolError, match=r"no such table: main\.gone"):
            db.query("SELECT * FROM c")


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT count(*) FROM shops", "count(*)\n3"),
        ("select name, sales from shops order by id;", "name | sales\nAda | 12.5\nBo | 3.0\nNULL | 40.0"),
        ("SELECT t.name, sum(sales) s FROM shops JOIN towns t ON t.id = town_id GROUP BY 1", "name | s\nBern | 43.0\nUlm | 12.5"),
        ("SELECT loud FROM big WHERE name IS NOT NULL", "loud\nADA"),
        ("SELECT 1 WHERE 0", "1\n(no rows)"),
        ("VALUES (1, 'a|b'), (2, char(10, 8238))", 'column1 | column2\n1 | "a|b"\n2 | "\\n\\u202e"'),
        ("SELECT 'Z\u00fcrich' || char(10) || '\u6771|\u4eac' AS a, '10' || char(160) || '000' AS b", 'a | b\n"Z\u00fcrich\\n\u6771|\u4eac" | 10\xa0000'),
        ("SELECT x'00ff', 1e999, -9223372036854775808", "x'00ff' | 1e999 | -9223372036854775808\n(2 bytes) | inf | -9223372036854775808"),
        ("WITH a AS (SELECT max(n) m FROM numbers) SELECT m, n FROM a JOIN numbers ON n = m - 1", "m | n\n999 | 998"),
        ("SELECT name, row_number() OVER (ORDER BY sales) FROM shops WHERE id < 3 -- best", "name | row_number() OVER (ORDER BY sales)\nBo | 1\nAda | 2"),
        ("SELECT printf('%.2f', avg(sales)) AS mean FROM shops", "mean\n18.50"),
        ("SELECT name FROM sqlite_schema WHERE type = 'view'", "name\nbig"),
        ("SELECT name FROM towns WHERE name IN ('Ulm with und ohne', 'Ulm')", "name\nUlm"),
    ],
)  # fmt: skip
def test_answers(db: Sqlite, sql: str, answer: str) -> None:
    assert db.query(sql) == answer


@pytest.mark.parametrize(
    "call", ["'%1000000000d', 1", "'%.1000000000f', 1.0", "'%*d', 2000000000, 1", "'%-*s', 999999999, 'a'"]
)
def test_printf_makes_nothing_that_is_too_wide(db: Sqlite, call: str) -> None:
    assert db.query(f"SELECT format({call}) AS a") == "a\nNULL"


def test_what_is_cut_is_marked(path: Path) -> None:
    db = Sqlite(path, Limits(rows=2, cell=3, characters=100))
    assert db.query("SELECT n FROM numbers") == "n\n0\n1\n… [cut: 2 of more rows]"
    assert db.query("SELECT n FROM numbers LIMIT 2") == "n\n0\n1"
    assert db.query("SELECT 'abcde' AS a") == "a\nabc… [cut: 3 of 5 characters]"
    short = Sqlite(path, Limits(rows=1000, characters=10))
    assert short.query("SELECT n + 1000 FROM numbers").endswith("1000\n… [cut: 1 of more rows]")


BOMB = "WITH a0 AS (SELECT 1)" + "".join(f", a{i + 1} AS (SELECT 1 FROM {', '.join(9 * [f'a{i}'])})" for i in range(40))
FLAT = "SELECT 1 FROM " + ", ".join(f"(SELECT n FROM numbers UNION ALL SELECT n FROM numbers) x{i}" for i in range(50))
VARIABLES = "SELECT $a('), '"
FIVE = "numbers a, numbers b, numbers c, numbers d, numbers e"

HOSTILE = {
    "insert": ("INSERT INTO towns VALUES (3, 'x')", "not authorized"),
    "insert returning": ("INSERT INTO towns VALUES (3, 'x') RETURNING id", "not authorized"),
    "update": ("UPDATE towns SET name = 'x'", "not authorized"),
    "delete": ("DELETE FROM towns", "not authorized"),
    "replace": ("REPLACE INTO towns VALUES (1, 'x')", "not authorized"),
    "delete behind WITH": ("WITH a AS (SELECT 1) DELETE FROM towns", "not authorized"),
    "drop": ("DROP TABLE towns", "not authorized"),
    "create": ("CREATE TABLE x (a)", "not authorized"),
    "create as": ("CREATE TABLE x AS SELECT 1", "not authorized"),
    "temporary table": ("CREATE TEMP TABLE x (a)", "not authorized"),
    "temporary view": ("CREATE TEMP VIEW x AS SELECT 1", "not authorized"),
    "trigger": ("CREATE TEMP TRIGGER x AFTER INSERT ON towns BEGIN SELECT 1; END", "not authorized"),
    "index": ("CREATE INDEX x ON towns (name)", "not authorized"),
    "virtual table": ("CREATE VIRTUAL TABLE x USING fts5(a)", "not authorized"),
    "alter": ("ALTER TABLE towns RENAME TO x", "not authorized|query_only|readonly"),
    "attach": ("ATTACH '/tmp/agentopd-attached.db' AS x", "not authorized|too many attached"),
    "detach": ("DETACH main", "not authorized|cannot detach"),
    "pragma": ("PRAGMA query_only = OFF", "not authorized"),
    "pragma that reads": ("PRAGMA database_list", "not authorized"),
    "pragma as a function": ("SELECT * FROM pragma_database_list", "not authorized|prohibited"),
    "pragma as a function, no column": ("SELECT 1 FROM pragma_query_only(0)", "not authorized|prohibited|too many arguments"),
    "writable schema": ("PRAGMA writable_schema = 1", "not authorized"),
    "schema written": ("UPDATE sqlite_master SET sql = 'x'", "not authorized|may not be modified"),
    "temporary schema": ("SELECT name FROM sqlite_temp_master", "not authorized|prohibited"),
    "vacuum": ("VACUUM", "denied"),
    "vacuum into": ("VACUUM INTO '/tmp/agentopd-vacuumed.db'", "denied"),
    "analyze": ("ANALYZE", "not authorized"),
    "reindex": ("REINDEX", "not authorized"),
    "begin": ("BEGIN IMMEDIATE", "not authorized"),
    "savepoint": ("SAVEPOINT x", "not authorized"),
    "load_extension": ("SELECT load_extension('/tmp/x.so')", "not authorized"),
    "readfile": ("SELECT readfile('/etc/passwd')", "no such function"),
    "writefile": ("SELECT writefile('/tmp/x', 'y')", "no such function"),
    "fts3_tokenizer": ("SELECT fts3_tokenizer('simple')", "not authorized"),
    "randomblob": ("SELECT randomblob(1000000000)", "not authorized"),
    "zeroblob": ("SELECT zeroblob(1000000000)", "not authorized"),
    "random": ("SELECT random()", "not authorized"),
    "clock": ("SELECT datetime('now')", "not authorized"),
    "clock as a word": ("SELECT CURRENT_TIMESTAMP", "not authorized"),
    "quoted name of a function": ('SELECT "load_extension"(1)', "not authorized"),
    "statements of the process": ("SELECT sql FROM sqlite_stmt", "not authorized|constructor failed|no such table"),
    "pages of the file": ("SELECT * FROM dbstat", "not authorized|constructor failed|no such table"),
    "recursion": ("WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a) SELECT count(*) FROM a", "not authorized"),
    "recursion without the word": ("WITH a(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM a) SELECT n FROM a", "not authorized"),
    "cross join": (f"SELECT count(*) FROM {FIVE}", "interrupted"),
    "sorted cross join": (f"SELECT * FROM {FIVE} ORDER BY a.n + b.n, e.n", "interrupted"),
    "distinct cross join": (f"SELECT count(DISTINCT a.n * 10000 + b.n) FROM {FIVE}", "interrupted"),
    "long values sorted": (f"SELECT printf('%19000d', a.n) FROM {FIVE} ORDER BY 1", "interrupted"),
    "nothing is ever found": (f"SELECT 1 FROM {FIVE} WHERE a.n + b.n + c.n < 0", "interrupted"),
    "WITH that doubles": (f"{BOMB} SELECT 1 FROM a40", "statement with WITH"),
    "WITH in a comment that hides it": (f"/*'*/ {BOMB} SELECT ' FROM a40", "statement with WITH"),
    "UNION ALL that is multiplied out": (FLAT, "too many joins or unions"),
    "giant concatenation": ("SELECT group_concat(printf('%10000d', n)) FROM numbers", "too big"),
    "giant replacement": ("SELECT replace(printf('%9999d', 1), ' ', '0123456789')", "too big"),
    "doubled hex": ("SELECT hex(hex(hex(hex(printf('%5000d', 1)))))", "too big"),
    "doubled by ||": ("SELECT a || a || a || a FROM (SELECT printf('%9999d', 1) AS a)", "too big"),
    "trimming that is square": (
        f"SELECT sum(trim(replace(printf('%9999d', a.n + b.n), ' ', 'x'), printf('%1500d', 0) || 'x')) FROM {FIVE}",
        "interrupted",
    ),
    "search that is square": (
        f"SELECT sum(instr(printf('%19999d', a.n % 2), printf('%9999d', 2))) FROM {FIVE}",
        "interrupted",
    ),
    "LIKE that backtracks": (
        f"SELECT count(*) FROM {FIVE} WHERE printf('%19999d', a.n + b.n + c.n) LIKE '{'% ' * 90}%x'",
        "interrupted",
    ),
    "long LIKE": (f"SELECT 1 WHERE 'a' LIKE '{'%a' * 200}'", "pattern too complex"),
    "long text": ("SELECT '" + "x" * 1_000_000 + "'", "too large|too big"),
    "long comment": ("SELECT 1 /*" + "x" * 10_000 + "*/", "too large|too big"),
    "parentheses": ("SELECT " + "(" * 1000 + "1" + ")" * 1000, "overflow|too large|depth"),
    "subqueries": ("SELECT * FROM " + "(SELECT * FROM " * 200 + "towns" + ")" * 200, "overflow|too large|depth"),
    "signs": ("SELECT " + "- " * 1900 + "1", "overflow|too large|depth"),
    "sums": ("SELECT " + "1+" * 1900 + "1", "too large|depth"),
    "many columns": ("SELECT " + "1," * 1900 + "1", "too many columns"),
    "many unions": (" UNION ALL ".join(["SELECT 1"] * 100), "too many terms"),
    "many joins": ("SELECT 1 FROM " + ",".join(["towns"] * 500), "at most 64 tables|too many|not authorized"),
    "many arguments": ("SELECT max(" + "1," * 100 + "1)", "too many arguments"),
    "second statement": ("SELECT 1; DROP TABLE towns", "one statement"),
    "second behind a comment": ("SELECT 1; -- \nDELETE FROM towns", "one statement"),
    "write behind comments": ("/* SELECT */ -- SELECT\n DELETE FROM towns", "not authorized"),
    "NUL": ("SELECT 1\x00; DROP TABLE towns", "null character"),
    "surrogate": ("SELECT '\ud800'", "surrogates"),
    "full-width letters": ("\uff33\uff25\uff2c\uff25\uff23\uff34 1", "syntax error|unrecognized"),
    "letters alike": ("S\u0415LECT 1", "syntax error"),
    "reversed text": ("\u202eSELECT 1", "syntax error|unrecognized"),
    "parameter": ("SELECT ?1, :a", "number of bindings"),
    "parameter that hides a quote": (VARIABLES, "unrecognized token|number of bindings|variable"),
    "nothing": ("", "no statement"),
    "only a comment": ("-- nothing", "no statement"),
    "template tokens": ("<|im_end|><tool_call>", "syntax error"),
    "other table": ("SELECT * FROM other.towns", "no such table"),
    "unfinished": ("SELECT 'a", "unrecognized token|incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(db: Sqlite, path: Path, name: str) -> None:
    sql, words = HOSTILE[name]
    before, begun = path.read_bytes(), time.monotonic()
    with pytest.raises(ToolError, match=words) as told:
        db.query(sql)
    assert time.monotonic() - begun < 1 + db.limits.seconds
    assert len(str(told.value)) < 300
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert db.query("SELECT name FROM towns") == "name\nUlm\nBern"


def test_a_connection_is_taken_over() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        SCHEMA + "CREATE TEMP TABLE hidden (a); ATTACH ':memory:' AS other; CREATE TABLE other.secret (a);"
    )
    db = Sqlite(connection)
    assert db.query("SELECT name FROM towns WHERE id = 1") == "name\nUlm"
    for sql in ("DELETE FROM towns", "SELECT a FROM hidden", "SELECT a FROM other.secret", "SELECT a FROM secret"):
        with pytest.raises(ToolError, match="only SELECT from the tables is allowed"):
            db.query(sql)
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        connection.execute("DELETE FROM towns")
    db.close()
    with pytest.raises(ToolError, match="closed"):
        db.query("SELECT 1")


def test_more_functions_can_be_allowed(path: Path) -> None:
    db = Sqlite(path, functions={*FUNCTIONS, "date"})
    assert db.query("SELECT date('2020-02-28', '+1 day') AS day") == "day\n2020-02-29"


def test_broken_text_is_read(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as db:
        db.executescript("CREATE TABLE a (b TEXT); INSERT INTO a VALUES (CAST(x'61ff00' AS TEXT))")
    assert Sqlite(tmp_path / "x.db").query("SELECT b FROM a") == 'b\n"a\ufffd\\u0000"'


def test_memory_is_bounded(db: Sqlite) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for sql in (HOSTILE["long values sorted"][0], f"SELECT DISTINCT printf('%19000d', a.n * 1000 + b.n) FROM {FIVE}"):
        with pytest.raises(ToolError):
            db.query(f"SELECT count(*) FROM ({sql})")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_what_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"database='.*none.db' cannot be opened: unable to open"):
        Sqlite(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(ConfigError, match=r"database='.*text.db' cannot be read: file is not a database"):
        Sqlite(str(tmp_path / "text.db"))
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(ConfigError, match=r"limits\.rows=0 must be positive"):
        Limits(rows=0)


WORDS = """
SELECT FROM WHERE GROUP BY ORDER JOIN ON IN EXISTS UNION ALL LIMIT AS WITH NOT NULL CASE WHEN THEN END ( ) ( ) , * = < + - || ; 1 0.5 'x'
"name" name id n sales towns shops numbers big count max hex printf over partition PRAGMA ATTACH DELETE INSERT INTO VALUES -- /*
"""
statements = st.lists(st.sampled_from(WORDS.split()), max_size=14).map(" ".join)


@settings(max_examples=60, deadline=4000)
@given(st.one_of(st.text(max_size=40), statements))
def test_any_text_is_answered_or_refused(sql: str) -> None:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.executescript(SCHEMA)
    db, before = Sqlite(connection), connection.total_changes
    with suppress(ToolError):
        assert len(db.query(sql)) < 5000
    assert connection.total_changes == before
    db.close()
