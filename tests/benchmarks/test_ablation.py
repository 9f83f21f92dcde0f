"""The arms differ in what they say, all of them run, and the table reads what they left."""

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from agentopd.config import Config
from benchmarks.ablation import DEFAULT, ENVS, arms, main, plan_of, table
from benchmarks.arms import keep, missing


@pytest.mark.parametrize("env", ENVS)
def test_every_arm_learns_from_as_many_episodes(env: str, tmp_path: Path) -> None:
    plan = plan_of(env, tmp_path)
    assert plan.configs.keys() == arms().keys()

    def episodes(config: Config) -> int:
        [source] = config.objective.sources.values()
        return config.train.steps * config.train.tasks_per_step * source.per_task

    assert {episodes(config) for config in plan.configs.values()} == {ENVS[env].episodes}
    assert all(one.get("against", DEFAULT) in arms() for one in arms().values())


def test_two_arms_run_and_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--envs", "checkout", "--arms", DEFAULT, "divergence-reverse", "--output", str(tmp_path / "runs")]
    told += ["--smoke", "--seeds", "0", "--results", str(tmp_path / "results")]
    main(told)
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results" / "checkout").iterdir()}
    assert kept.keys() == {DEFAULT, "divergence-reverse"}
    assert all(len(runs["0"]["success"]["student_after"]) == 4 for runs in kept.values())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    main(told)  # nothing is measured twice
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert "no two seeds of an arm" in capsys.readouterr().out.splitlines()[-1]


def test_processes_share_the_work(tmp_path: Path) -> None:
    def todo() -> Generator[tuple[str, int, Path], None, None]:
        return missing(tmp_path / "results", ["one", "two"], [0, 1], tmp_path / "runs")

    keep(tmp_path / "results", "two", 0, {})
    mine, other = todo(), todo()
    assert next(mine) == ("one", 0, tmp_path / "runs" / "one-0")
    assert next(other)[:2] == ("one", 1)
    keep(tmp_path / "results", "one", 0, {})
    assert next(mine)[:2] == ("two", 1)
    mine.close()  # as a process that is ended leaves it
    keep(tmp_path / "results", "one", 1, {})
    assert [one[:2] for one in other] == [("two", 1)]


@pytest.mark.slow
def test_every_arm_runs(tmp_path: Path) -> None:
    told = ["--envs", "checkout", "--smoke", "--seeds", "0", "--output", str(tmp_path / "runs")]
    main([*told, "--results", str(tmp_path / "results")])
    assert {path.stem for path in (tmp_path / "results" / "checkout").iterdir()} == arms().keys()


def test_the_table_holds_each_arm_against_its_own() -> None:
    def runs(*panels: list[int]) -> dict[str, dict[str, dict[str, list[int]]]]:
        before = {"student_before": [0, 0, 0, 1], "teacher": [1, 1, 1, 1]}
        return {str(60 + n): {"success": before | {"student_after": panel}} for n, panel in enumerate(panels)}

    half, most, all_ = runs([1, 1, 0, 0], [0, 1, 1, 0]), runs([1, 1, 1, 0], [0, 1, 1, 1]), runs([1] * 4, [1] * 4)
    results: dict[str, Any] = {name: {} for name in arms()} | {
        DEFAULT: half,
        "divergence-jsd": half,
        "divergence-reverse": most,
        "estimator-score": all_,
    }
    lines = table("checkout", results).splitlines()
    assert lines[0] == "**checkout**. Before: 25.0% (25 25). The teacher: 100.0% (100 100)."
    assert lines[-1].startswith("Without two seeds that what they are held against has too: support-top-8, ")
    assert [line.split(" | ")[:3] for line in lines[4:-2]] == [
        ["| default", "50.0% (50 50)", "|"],
        ["| divergence-reverse", "75.0% (75 75)", "default"],
        ["| divergence-jsd", "50.0% (50 50)", "default"],
        ["| estimator-score", "100.0% (100 100)", "divergence-reverse"],
    ]
    assert [line.split(" | ")[3].split(" ")[0] for line in lines[5:-2]] == ["+25.0", "+0.0", "+25.0"]
    assert lines[6].endswith(" | 1.000 | 1.000 |  |")  # nothing is known of what would be found
    assert "+25.0 [-100.0, +100.0]" in lines[5]
    results[DEFAULT] = {}
    assert table("checkout", results).startswith("**checkout**. Before: no runs.")
