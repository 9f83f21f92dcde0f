"""Episodes that later steps learn from again, and keys that two runs share."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sharing_cases as cases

from agentopd import records
from agentopd.filters import Filter
from agentopd.sharing import Wanted, Wish, export, take_in
from agentopd.training.checks.looking import look
from agentopd.types import Key, Trajectory

WON = cases.CASES["system and calls"]
LOST = {**WON, "messages": [*WON["messages"][:2], cases.acting("20"), cases.said("Wrong."), cases.acting("21")]}


def drawn(played: Trajectory, *places: int) -> list[Trajectory]:
    """The episode as steps record it that learn from it."""
    return [replace(played, key=Key("later", 0, place), origin=played.key) for place in places]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that played a success, learned from it twice more, and three times from a failure at the same task of another run."""
    won = cases.trajectory(WON, success=True, seed=7)
    lost = cases.trajectory(LOST, 9, success=False, seed=7)
    return cases.keep(tmp_path / "run", won, *drawn(won, 1, 2), *drawn(lost, 3, 4, 5))


@pytest.mark.parametrize(("name", "rows"), [("openai", 2), ("sharegpt", 2), ("trl", 2), ("sft", 2), ("preference", 1)])
def test_an_episode_is_exported_once(name: str, rows: int, folder: Path, tmp_path: Path) -> None:
    told = export(records.open(folder), tmp_path / "out.jsonl", Wish(name))
    assert (told.rows, told.episodes, told.again) == (rows, 2, 4)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert len(set(lines)) == len(lines) == rows


def test_the_first_that_is_meant_counts(folder: Path, tmp_path: Path) -> None:
    told = export(records.open(folder), tmp_path / "out.jsonl", Wish("openai", Filter(success=False), metadata=True))
    [row] = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (told.episodes, told.again, row["metadata"]["key"]) == (1, 2, "made/0/9/0")


def exported(folder: Path, row: dict[str, Any]) -> str:
    """What a run in the folder ``made`` exports."""
    cases.keep(folder / "records", cases.trajectory(row, success=True, key="made/0/0/0"))
    export(records.open(folder), folder / "out.jsonl", Wish("openai", metadata=True))
    return (folder / "out.jsonl").read_text()


def test_runs_of_one_name_do_not_hide_one_another(tmp_path: Path) -> None:
    first, second = exported(tmp_path / "a", WON), exported(tmp_path / "b", LOST)
    (tmp_path / "both.jsonl").write_text(first + second + first)
    take_in(str(tmp_path / "both.jsonl"), tmp_path / "both", Wanted(cases.chat()))
    assert len(look(str(tmp_path / "both")).entries) == 2
    told = export(records.open(tmp_path / "both"), tmp_path / "again.jsonl", Wish("openai"))
    assert (told.episodes, told.again) == (2, 1)


def test_episodes_of_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one, other = cases.trajectory(WON, success=True), cases.trajectory(LOST, success=True)
    cases.keep(tmp_path / "run", *drawn(one, 0, 1), *drawn(other, 2))
    told = export(records.open(tmp_path / "run"), tmp_path / "out.jsonl", Wish("openai"))
    assert (one.key, told.episodes, told.again) == (other.key, 2, 1)
