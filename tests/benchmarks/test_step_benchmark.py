"""The table of training steps by hand; both sides learn the same."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import step
from benchmarks.measured import add
from benchmarks.rollout_kv import MODELS


def _result(seconds: float, loss: float = 1.0) -> dict[str, Any]:
    """Three steps, of which one took long; half of each generates."""
    spent = [seconds, 10 * seconds, seconds]
    stages = ({stage: one / 2 if stage == "generate" else one / 6 for stage in step.STAGES} for one in spent)
    return {
        "episodes": "a", "losses": [loss], "tokens": 8, "trained": 4,
        "steps": [{"seconds": one, "cpu_seconds": one / 2, **each} for one, each in zip(spent, stages, strict=True)],
    }  # fmt: skip


def test_the_table_shows_medians_ratios_pair_by_pair_and_exponents() -> None:
    results = {
        "2/agentopd/0": _result(1.2), "2/trl/0": _result(1.2),
        "8/agentopd/0": _result(4.8), "8/trl/0": _result(19.2),
        "8/agentopd/1": _result(4.8), "8/trl/1": _result(9.6), "8/trl/2": _result(1000.0),
    }  # fmt: skip
    lines = step.table(results).splitlines()
    assert "| 2 | 1.20 | 1.20 | 1.00 | 1.00 | 1.00 |" in lines
    assert "| 8 | 4.80 | 14.40 | 3.00 | 2.00 | 4.00 |" in lines
    assert "| 8 | 2.40 | 7.20 | 3.00 | 2.00 | 4.00 |" in lines
    assert "| 8 | trl | 7.20 | 2.40 | 2.40 | 2.40 |" in lines
    assert sum("agentopd 1.00, trl 1.79" in line for line in lines) == 2  # log 12 / log 4
    assert not any(line.startswith("| 4 |") for line in lines)


def test_of_two_points_the_exponent_is_exact_and_of_three_the_least_squares() -> None:
    assert step.exponent({2: 3.0, 16: 24.0}) == pytest.approx(1.0)
    assert step.exponent({1: 1.0, 2: 2.0, 4: 16.0}) == pytest.approx(
        2.0
    )  # (4 - 0) / 2: the middle one changes no slope


def test_nothing_measured_is_an_empty_table() -> None:
    assert "| 2 |" not in step.table({})


def test_sides_alternate_and_each_case_is_named_once() -> None:
    names = step.cases()
    assert len(set(names)) == len(names) == len(step.TURNS) * len(step.SIDES) * step.REPEATS
    assert names[:2] == ["2/agentopd/0", "2/trl/0"]
    assert names[8:10] == ["2/trl/1", "2/agentopd/1"]


def test_losses_and_tokens_of_a_pair_are_compared() -> None:
    ours = {"2/agentopd/0": _result(1.0, 1.0)}
    assert step.compared("2/trl/1", _result(1.0), ours) == {}
    assert step.compared("2/trl/0", _result(1.0, 1.00001), ours)["loss_differences"] == [pytest.approx(1e-5)]
    with pytest.raises(RuntimeError, match="not learned the same"):
        step.compared("2/trl/0", _result(1.0, 1.01), ours)
    with pytest.raises(RuntimeError, match="not learned the same"):
        step.compared("2/trl/0", _result(1.0) | {"episodes": "b"}, ours)


def test_what_is_kept_is_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.json"
    for name in step.cases():
        add(path, name, _result(1.0))
    before = path.read_text()
    step.main(["--results", str(path)])
    assert path.read_text() == before
    assert "| 16 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |" in capsys.readouterr().out


def test_both_sides_learn_from_the_same_tokens_with_the_same_losses() -> None:
    found = {f"2/{side}/0": step.measured(2, side, MODELS["tokens"], steps=2) for side in step.SIDES}
    apart = step.compared("2/trl/0", found["2/trl/0"], found)
    assert len(apart["loss_differences"]) == 3
    assert found["2/trl/0"]["losses"][0] > 1e-3
    for result in found.values():
        assert [result[name] for name in ("tokens", "trained")] == [8 * (200 + 2 * 32 + 60), 8 * 2 * 32]
        for one in result["steps"]:
            assert sum(one[stage] for stage in step.STAGES) == pytest.approx(one["seconds"], abs=1e-3)
