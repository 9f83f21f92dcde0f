"""Sweeps of real runs, small ones, ended in the middle and gone on with."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentopd import load_config, records, train
from agentopd.__main__ import main
from agentopd.run_files import seed_folder
from agentopd.sweeps.arms import grid
from agentopd.sweeps.plan import keep, planned
from agentopd.sweeps.running import Job
from agentopd.training.loop.river import Drawn, River

NEW = "{hidden_size: 16, layers: 1, heads: 2, intermediate_size: 24, max_positions: 640, vocab_size: 400}"
ARMS = "objective.divergence.kind=[forward_kl,jsd]"


def tiny(cache: Path, steps: int) -> list[str]:
    """Settings that make the quickstart a run of seconds."""
    return [
        f"student.new={NEW}", f"teachers.teacher.new={NEW}", "stages.teacher={episodes: 8, steps: 1}", "stages.cold_start=null",
        f"stages.cache={cache}", "rollout.max_length=640", "rollout.max_new_tokens=24", "rollout.max_turns=5", f"train.steps={steps}",
        "train.tasks_per_step=2", "train.eval_every=2", "train.save_every=2", "evaluation.tasks=3", "evaluation.during=2",
    ]  # fmt: skip


def test_a_sweep_goes_on_where_it_was_ended_and_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, draw = tmp_path / "sweep", River.draw
    settings = tiny(tmp_path / "cache", steps=4)
    arms, fixed = grid([*settings, ARMS])
    plan = planned("quickstart", fixed, arms)
    keep(plan, folder)

    def interrupted(self: River, step: int) -> Drawn:
        if step == 3:
            raise KeyboardInterrupt
        return draw(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(River, "draw", interrupted)
        begun = seed_folder(folder, "kind=jsd", 0)
        with pytest.raises(KeyboardInterrupt):
            train(load_config(folder / "kind=jsd" / "config.yaml", ["seed=0"]), begun)
    assert main(["sweep", "quickstart", *settings, ARMS, "--output", str(folder), "--jobs", "2"]) == 0
    assert f"{begun}: goes on after step 2 of 4" in Job(folder, "kind=jsd", 0).log.read_text()
    for arm in ("kind=forward_kl", "kind=jsd"):
        run = seed_folder(folder, arm, 0)
        assert records.open(run).steps == (0, 1, 2, 3)
        assert load_config(run / "config.yaml") == plan.configs[arm]
    capsys.readouterr()
    assert main(["compare", str(folder)]) == 0
    kept = json.loads((folder / "compare.json").read_text())
    assert [arm["costs"]["episodes"] for arm in kept["arms"].values()] == [8.0, 8.0]
    assert kept["comparisons"][0]["settings"] == ["objective.terms.0.divergence"]


def test_every_arm_is_looked_at_before_the_first_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(tmp_path / "cache", steps=4)
    others = [text for text in settings if not text.startswith("rollout.max_length")]
    argv = ["sweep", "quickstart", *others, "rollout.max_length=[640,30,20]", "--output", str(tmp_path / "sweep")]
    assert main(argv) == 2
    [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("agentopd: ")]
    assert "arm max_length=30: rollout.max_length=30 is too small" in line
    assert "arm max_length=20: rollout.max_length=20 is too small" in line
    assert not (tmp_path / "sweep").exists()
    argv = ["sweep", "quickstart", *settings, ARMS, "--output", str(tmp_path / "sweep"), "--check"]
    assert main(argv) == 0
    assert 'kind=jsd\tobjective.divergence.kind="jsd"' in capsys.readouterr().out
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_sweep_that_is_killed_takes_its_runs_with_it_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    command = [
        *(sys.executable, "-m", "agentopd", "sweep", "quickstart", *tiny(tmp_path / "cache", steps=60), ARMS),
        *("--output", str(folder), "--jobs", "2"),
    ]
    process = subprocess.Popen(command)
    runs = [seed_folder(folder, arm, 0) for arm in ("kind=forward_kl", "kind=jsd")]
    _wait(lambda: all((run / "checkpoints" / "checkpoint-2").exists() for run in runs))
    pids = [int((run / "run.lock").read_text().split()[1]) for run in runs]
    process.kill()
    process.wait()
    _wait(lambda: not any(map(_lives, pids)))
    assert subprocess.run(command, check=False).returncode == 0
    assert [records.open(run).steps for run in runs] == [tuple(range(60))] * 2
    assert all("goes on after step" in run.with_suffix(".log").read_text() for run in runs)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").exists() else True


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)
