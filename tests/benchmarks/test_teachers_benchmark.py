"""The benchmark of teachers: its configurations can be read, and its table adds up."""

from pathlib import Path

import pytest

from agentopd.config import load_config
from agentopd.training.checks.roles import used_teachers
from benchmarks import teachers

USED = {
    "privileged": {"teacher"},
    "routed": {"teacher", "second"},
    "ensemble": {"teacher", "second", "panel"},
    "reward": {"judge"},
    "discriminator": {"discriminator"},
}


@pytest.mark.parametrize("arm", teachers.ARMS)
def test_every_arm_has_its_teachers_and_the_same_cold_start(arm: str) -> None:
    config, plain = load_config("quickstart", teachers.overrides(arm, 3, Path("runs"))), load_config("quickstart")
    assert used_teachers(config).keys() == USED[arm]
    assert config.stages.cold_start == plain.stages.cold_start
    assert config.student == plain.student
    assert (config.train.steps, config.seed, config.evaluation.seed) == (teachers.STEPS, 3, 3)


def test_the_two_routed_ones_share_out_the_turns() -> None:
    config = load_config("quickstart", teachers.overrides("routed", 3, Path("runs")))
    selected = [config.teachers[name].settings["where"] for name in ("teacher", "second")]
    turns = [[t for t in range(6) if t >= w.min_turn and (t - w.min_turn) % w.every == 0] for w in selected]
    assert turns == [[0, 2, 4], [1, 3, 5]]
    assert [term.target.settings["name"] for term in config.objective.terms] == ["teacher", "second"]


def test_the_table_pairs_tasks() -> None:
    panels = {"student_before": [0, 0, 1, 1], "student_after": [1, 1, 1, 1]}
    lines = teachers.table({f"reward/{seed}": {"success": panels} for seed in (1, 2)}).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["1", "2", "pooled"]
    assert all("+50.0 points" in line for line in lines[2:])
