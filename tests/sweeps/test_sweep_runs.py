"""The runs of a sweep as processes: a stand-in for ``agentopd train`` leaves what a run leaves, at once."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from agentopd.__main__ import main
from agentopd.errors import TrainingError
from agentopd.sweeps import objective, running, whole
from agentopd.sweeps.running import Job
from agentopd.training.loop.lock import held

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture(autouse=True)
def stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "CHILD", (sys.executable, str(STAND_IN)))
    monkeypatch.setattr(running, "LOOK", 0.01)
    monkeypatch.setattr(whole, "check", lambda config, folder: None)


def sweep(folder: Path, rates: str, *more: str) -> int:
    return main(["sweep", "quickstart", f"train.learning_rate=[{rates}]", "--output", str(folder), *more])


def starts(folder: Path) -> dict[str, list[str]]:
    return {f"{p.parent.parent.name}/{p.parent.name}": p.read_text().splitlines() for p in folder.glob("*/*/starts")}


def test_every_arm_has_every_seed_and_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    assert sweep(folder, "0.1,0.5", "--seeds", "2", "--jobs", "3") == 0
    assert capsys.readouterr().out == (
        "arm\tseed 0\tseed 1\nlearning_rate=0.1\t10.0%\t10.0%\nlearning_rate=0.5\t50.0%\t50.0%\n"
    )
    assert starts(folder)["learning_rate=0.1/seed-1"] == [
        f"train {folder}/learning_rate=0.1/config.yaml seed=1 --output {folder}/learning_rate=0.1/seed-1"
    ]
    assert sweep(folder, "0.1,0.5", "--seeds", "3") == 0
    assert {name: len(lines) for name, lines in starts(folder).items()} == {
        f"learning_rate={rate}/seed-{seed}": 1 for rate in ("0.1", "0.5") for seed in range(3)
    }


def test_threads_are_shared_by_what_runs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    sweep(tmp_path / "sweep", "0.1,0.5", "--jobs", "3")
    [row, _] = [json.loads(file.read_text()) for file in tmp_path.glob("sweep/*/*/metrics.jsonl")]
    assert row["seconds/step"] == 2


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    assert sweep(folder, "13,0.5") == 1
    out, err = capfd.readouterr()
    assert "learning_rate=13\tfailed\nlearning_rate=0.5\t50.0%\n" in out
    assert "learning_rate=13, seed 0 failed:\nagentopd: TrainingError: the loss is nan at step 3" in err
    assert "(exit status 1; " in err
    assert sweep(folder, "13,0.5") == 1  # it is tried again, the other not
    assert len(starts(folder)["learning_rate=0.5/seed-0"]) == 1


def test_a_run_that_was_begun_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert sweep(folder, "0.1,0.5") == 0
    (folder / "learning_rate=0.1" / "seed-0" / "panels.json").unlink()
    assert sweep(folder, "0.1,0.5") == 0
    assert starts(folder)["learning_rate=0.1/seed-0"][1] == f"train {folder}/learning_rate=0.1/seed-0 --resume"


def test_an_interrupt_ends_what_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sweep"
    pid = folder / "learning_rate=99" / "seed-0" / "pid"
    handler = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # it is ignored where tests run in the background

    def interrupt() -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert sweep(folder, "99,0.5") == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    thread.join()
    assert f"the same command with --output {folder} goes on" in capfd.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_look_ahead_sees_what_the_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path / "sweep", "0.1,0.5") == 0
    assert sweep(tmp_path / "sweep", "0.1,0.5", "--check", "train.warmup_steps=3") == 2
    assert "learning_rate=0.1 was begun with train.warmup_steps=20, and this asks for 3" in capsys.readouterr().err


def test_one_sweep_at_a_time_and_nothing_else_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path / "busy", "0.1,0.5") == 0
    with held(tmp_path / "busy"):
        assert sweep(tmp_path / "busy", "0.1,0.5") == 2
    assert "busy is in use by process" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("")
    assert sweep(tmp_path, "0.1,0.5") == 2
    assert "already holds a run or other files" in capsys.readouterr().err
    assert sweep(tmp_path / "sweep", "0.1,0.5", "--jobs", "0") == 2
    assert "--jobs 0: give 1 or more" in capsys.readouterr().err


def test_a_budget_that_was_not_spent_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep(tmp_path / "sweep", "0.1,0.5", "train.steps=4", "--budget", "tokens=100") == 0
    assert "learning_rate=0.1, seed 0 came to the end of train.steps=4 with 70 of 100 tokens" in capfd.readouterr().err


def test_two_runs_of_a_seed_do_not_begin_together_where_others_can(tmp_path: Path) -> None:
    jobs = [Job(tmp_path, arm, seed) for seed in (0, 1) for arm in ("a", "b")]
    jobs[0].state = "running"
    assert running._next(jobs) is jobs[2]
    jobs[2].state = "running"
    assert running._next(jobs) is jobs[1]


def test_optuna_finds_the_better_settings(tmp_path: Path) -> None:
    def suggest(trial: Any) -> dict[str, Any]:
        return {"train.learning_rate": trial.suggest_float("rate", 0.1, 0.9, step=0.2)}

    maximised = objective("quickstart", tmp_path / "search", suggest, overrides=["train.steps=4"], seeds=2)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.GridSampler({"rate": [0.1, 0.3, 0.5, 0.7, 0.9]})
    )
    study.optimize(maximised, n_trials=5)
    assert study.best_params == {"rate": pytest.approx(0.9)}
    assert study.best_value == pytest.approx(0.9)
    kept = json.loads((tmp_path / "search" / "sweep.json").read_text())
    assert [*kept["arms"]] == [f"trial-{n}" for n in range(5)]
    assert kept["seeds"] == [0, 1]


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    maximised = objective("quickstart", tmp_path / "search", lambda trial: {"train.learning_rate": 13})
    with pytest.raises(TrainingError, match="the loss is nan at step 3"):
        maximised(optuna.trial.FixedTrial({}, number=0))
