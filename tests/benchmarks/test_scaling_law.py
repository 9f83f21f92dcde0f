"""The scaling law's benchmark trains what it says, keeps it once, and reads a law out of what is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling_law import STEPS, WIDTHS, arms, main, plan_of, table

TASKS = 200


def test_sizes_and_budgets_are_a_grid(tmp_path: Path) -> None:
    configs = plan_of(tmp_path).configs
    assert {(one.student.new.hidden_size, one.train.steps) for one in configs.values() if one.student.new} == {
        (width, steps) for width in WIDTHS for steps in STEPS
    }
    first, *others = configs.values()
    assert all(one.teachers == first.teachers for one in others)


def test_a_run_is_kept_once_with_its_size_and_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--smoke", "--arms", "8-1", "--output", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    main(told)
    [file] = (tmp_path / "results").iterdir()
    [run] = json.loads(file.read_text()).values()
    words = json.loads((tmp_path / "runs" / "8-1-0" / "student" / "config.json").read_text())["vocab_size"]
    # embeddings, shared with the head; in each of two layers 4 x 8 x 8 of attention, 3 x 8 x 21 of its network and two norms; one norm more
    assert run["x"]["parameters"] == words * 8 + 2 * (4 * 8 * 8 + 3 * 8 * 21 + 2 * 8) + 8
    assert run["x"]["episodes"] == 2
    assert len(run["success"]["student_after"]) == 4
    capsys.readouterr()
    before = file.stat().st_mtime_ns
    main(told)
    assert file.stat().st_mtime_ns == before
    assert "no law: the 1 points are of one size" in capsys.readouterr().out


def test_an_arm_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--arms", "32-41", "--table"])
    assert "--arms 32-41: the arms are 32-40, 32-80" in capsys.readouterr().err


def test_the_table_finds_a_law_that_is_there() -> None:
    generator, results = np.random.default_rng(0), {}
    for arm in arms():
        width, steps = map(int, arm.split("-"))
        x = {"parameters": 20.0 * width**2, "episodes": 16.0 * steps, "teacher_tokens": 900.0 * steps}
        error = 0.05 + 0.1 * (width / 64) ** -1.4 + 0.1 * (steps / 113) ** -1.0
        panels = {str(70 + n): (generator.random(TASKS) > error).astype(int).tolist() for n in range(3)}
        results[arm] = {seed: {"x": x, "success": {"student_after": panel}} for seed, panel in panels.items()}
    lines = table(results).splitlines()
    assert lines[0].startswith("law: y = E + A (N/8.59e+04)^-a_N + B (D/1.81e+03)^-b_D, y the share")
    assert lines[1].startswith("fit: 20 points, 60 runs")
    [exponent] = [line for line in lines if line.startswith("| b_D |")]
    low, high = json.loads(exponent.split(" | ")[2].rstrip("| "))
    assert low < 1.0 < high
    [saturating] = [line for line in lines if line.startswith("| saturating |")]
    assert saturating.endswith("within chance |")
    assert table({"32-40": {}}).startswith("no law: ")
