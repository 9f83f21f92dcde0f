"""Questions about a database."""

import json
import re
import sqlite3
from collections import Counter
from functools import partial
from typing import Any

import pytest

from agentopd.env import expert_action, make
from agentopd.envs.sql import KINDS, MOST_ROWS
from agentopd.errors import ConfigError
from agentopd.testing import HOSTILE, check_text_env
from agentopd.tooling import call

ID = "agentopd/Sql-v0"


@pytest.mark.parametrize(
    "kwargs", [{}, {"tables": 1}, {"tables": 3, "rows": MOST_ROWS}, {"tables": 3, "rows": 6, "kinds": ["join"]}]
)
def test_it_keeps_the_contract(kwargs: dict[str, Any]) -> None:
    assert check_text_env(ID, **kwargs).expert_rate == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_expert_is_always_right(kind: str) -> None:
    env = make(ID, tables=3, kinds=[kind])
    for seed in range(60):
        question, info = env.reset(seed=seed)
        facts = info["privileged"]
        assert info["family"] == kind
        assert facts["query"] not in question
        said = [env.step(expert_action(env)) for _ in range(facts["query"].count("JOIN") + 3)]
        assert said[-2][0].splitlines()[1:] == [str(facts["answer"])]
        assert all("privileged" not in step[0] and facts["query"] not in step[0] for step in said)
        assert (said[-1][0], said[-1][1], said[-1][2], said[-1][4]["success"]) == ("Right.", 1.0, True, True)


QUESTIONS = {
    "lookup": r"What is the (?P<column>\w+) of the (?P<one>\w+) (?P<name>\w+)\?",
    "count": r"How many (?P<table>\w+) with (?P<column>\w+) (?P<word>\w+) (?P<bound>\d+) are there\?",
    "extreme": r"Which (?P<one>\w+) has the (?P<word>\w+) (?P<column>\w+)\?",
}


def table_of(env: Any, table: str) -> list[dict[str, Any]]:
    """The rows, read by the tool and not by the environment's own data."""
    columns, *lines = env.step(call("query", sql=f"SELECT * FROM {table}"))[0].splitlines()
    return [dict(zip(columns.split(" | "), line.split(" | "), strict=True)) for line in lines]


def number(column: str, row: dict[str, Any]) -> int:
    return int(row[column])


@pytest.mark.parametrize("kind", QUESTIONS)
def test_the_answer_is_what_the_words_ask_for(kind: str) -> None:
    env = make(ID, kinds=[kind])
    for seed in range(40):
        question, info = env.reset(seed=seed)
        found = re.fullmatch(QUESTIONS[kind], question)
        assert found, question
        asked = found.groupdict()
        table = asked.get("table") or next(
            name for name in env.step(call("list_tables"))[0].split(", ") if name == f"{asked['one']}s"
        )
        rows, column = table_of(env, table), asked["column"]
        by_column = sorted(rows, key=partial(number, column))
        values = [int(row[column]) for row in by_column]
        if kind == "lookup":
            expected = next(int(row[column]) for row in rows if row["name"] == asked["name"])
        elif kind == "count":
            above = sum(value > int(asked["bound"]) for value in values)
            expected = above if asked["word"] == "above" else len(values) - above - 1
        else:
            expected = by_column[-1 if asked["word"] == "highest" else 0]["name"]
        assert info["privileged"]["answer"] == str(expected)
        assert len({row[column] for row in rows}) == len(rows)


JOINED = re.compile(
    r"(?:How many|What is the total (?P<column>\w+) of) (?P<path>\w+(?: of \w+)?) of the (?P<one>\w+) (?P<name>\w+)(?: are there)?\?"
)


def test_the_answer_over_joined_rows() -> None:
    env, depths = make(ID, tables=3, kinds=["join"], max_episode_steps=-1), set()
    for seed in range(40):
        question, info = env.reset(seed=seed)
        asked = JOINED.fullmatch(question)
        assert asked, question
        names = [*asked["path"].split(" of "), f"{asked['one']}s"]
        *others, last = [table_of(env, name) for name in names]
        rows = [row for row in last if row["name"] == asked["name"]]
        for near, one in zip(reversed(others), reversed(names[1:]), strict=True):
            ids = {row["id"] for row in rows}
            rows = [row for row in near if row[f"{one[:-1]}_id"] in ids]
        total = sum(int(row[asked["column"]]) for row in rows) if asked["column"] else len(rows)
        assert info["privileged"]["answer"] == str(total)
        depths.add(len(names))
    assert depths == {2, 3}


def test_the_answer_over_groups() -> None:
    env = make(ID, kinds=["group"])
    for seed in range(20):
        question, info = env.reset(seed=seed)
        asked = re.fullmatch(r"Which (\w+) has the highest total (\w+) of (\w+)\?", question)
        assert asked
        one, column, table = asked.groups()
        sums = Counter[str]()
        for row in table_of(env, table):
            sums[row[f"{one}_id"]] += int(row[column])
        (best, highest), *others = sums.most_common()
        assert all(value < highest for _, value in others)
        assert info["privileged"]["answer"] == {row["id"]: row["name"] for row in table_of(env, f"{one}s")}[best]


@pytest.mark.parametrize("value", ["3", 3, 3.0, " 3.00 ", "3e0"])
def test_numbers_are_compared_as_numbers(value: object) -> None:
    env = make(ID, kinds=["lookup"])
    env.reset(seed=0)
    env.unwrapped._answer = 3  # type: ignore[attr-defined]
    assert env.step(call("answer", value=value))[1] == 1.0


@pytest.mark.parametrize(
    "value", [4, "three", "", "nan", "sNaN", "inf", "1e999999999", "3.00000000000000000001", "9" * 5000, 2.9999999999]
)
def test_other_numbers_are_wrong(value: object) -> None:
    env = make(ID, kinds=["lookup"])
    env.reset(seed=0)
    env.unwrapped._answer = 3  # type: ignore[attr-defined]
    said, reward, terminated, _, info = env.step(call("answer", value=value))
    assert (said, reward, terminated, info["success"]) == ("Wrong.", 0.0, True, False)


def test_names_are_compared_in_any_case() -> None:
    env = make(ID, kinds=["extreme"])
    for change in (str.upper, str.lower, lambda name: f" {name}\n"):
        answer = env.reset(seed=1)[1]["privileged"]["answer"]
        assert env.step(call("answer", value=change(answer)))[1] == 1.0
    env.reset(seed=1)
    assert env.step(call("answer", value=answer + "x"))[1] == 0.0


def test_the_database_cannot_be_changed_and_is_closed() -> None:
    env = make(ID)
    env.reset(seed=0)
    database = env.unwrapped._database  # type: ignore[attr-defined]
    for sql in ("DROP TABLE goods", "PRAGMA query_only = 0", "SELECT load_extension('x')"):
        said, reward, terminated, _, info = env.step(call("query", sql=sql))
        assert (reward, terminated, info["errors"]) == (0.0, False, ["tool_error"]), said
    env.reset(seed=1)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database._db.cursor()
    env.close()
    env.close()


def test_the_expert_goes_on_from_any_state() -> None:
    env = make(ID, tables=3, max_episode_steps=100)
    for seed in range(20):
        env.reset(seed=seed)
        for action in (*HOSTILE, call("describe", table="x"), call("query", sql="SELECT 1"), call("list_tables")):
            assert not env.step(action)[2]
        steps = [env.step(expert_action(env)) for _ in range(3)]
        while not steps[-1][2]:
            steps.append(env.step(expert_action(env)))
        assert len(steps) <= 5
        assert steps[-1][1] == 1.0


def test_seeds_differ_and_all_kinds_come() -> None:
    env = make(ID)
    starts = [env.reset(seed=seed) for seed in range(100)]
    assert {info["family"] for _, info in starts} == set(KINDS)
    assert len({question for question, _ in starts}) > 80
    assert all(len(question) < 100 for question, _ in starts)
    json.dumps([info for _, info in starts])


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"tables": 0}, "tables=0 must be from 1 to 3"),
        ({"tables": 4}, "tables=4"),
        ({"rows": 5}, "rows=5 must be from 6 to 17"),
        ({"rows": MOST_ROWS + 1}, "rows=18"),
        ({"kinds": []}, r"kinds=\[\]: give a list"),
        ({"kinds": "sum"}, r"kinds='sum' must be a list of texts or null, such as \[sum\]"),
        ({"kinds": ["sums"]}, "kinds: 'sums' is not known.*sum"),
        ({"kinds": ["join"], "tables": 1}, "kinds: 'join' needs two tables, and tables=1"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)
