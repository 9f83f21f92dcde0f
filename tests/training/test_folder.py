"""The run folder: who owns it, and what a resumed run finds there."""

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import training_cases as cases

from agentopd.config import load_config
from agentopd.errors import ConfigError, TrainingError
from agentopd.training.loop import lock
from agentopd.training.loop.checkpoints import is_complete, river_text
from agentopd.training.loop.folder import RunFolder, require_free
from agentopd.training.loop.lock import held
from agentopd.training.run.whole import train


def _checkpoint(folder: RunFolder, step: int, complete: bool = True) -> Path:
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "river.json").write_text(river_text(load_config("quickstart"), {}))
    (path / "trainer_state.json").write_text('{"global_step": 1}' if complete else '{"global_st')
    return path


def test_a_folder_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(load_config("quickstart"), resume=False)
    with pytest.raises(ConfigError, match="already holds a run"):
        RunFolder(tmp_path).open(load_config("quickstart"), resume=False)


def test_resuming_with_another_configuration_names_the_difference(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(load_config("quickstart", ["train.steps=30"]), resume=False)
    with pytest.raises(ConfigError, match=r"train\.steps=30, and this configuration has 7") as caught:
        RunFolder(tmp_path).open(load_config("quickstart", ["train.steps=7"]), resume=True)
    assert "student" not in str(caught.value)  # there is none before a run has finished
    RunFolder(tmp_path).student.mkdir()
    with pytest.raises(
        ConfigError, match=r"further, give that run student={model: .*/student} stages\.cold_start=null"
    ):
        RunFolder(tmp_path).check(load_config("quickstart", ["train.steps=60"]), resume=True)


@pytest.mark.parametrize(("content", "said"), [("", "holds NoneType"), ("train: {steps: 3", "is not valid YAML")])
def test_a_damaged_configuration_is_told_by_name(content: str, said: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.config.write_text(content)
    with pytest.raises(ConfigError, match=rf"^--resume: .*config\.yaml {said}(.|\n)*; restore it from a copy"):
        folder.check(load_config("quickstart"), resume=True)
    folder.config.unlink()
    folder.config.mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*config\.yaml: .*restore it"):
        folder.check(load_config("quickstart"), resume=True)


@pytest.mark.parametrize(
    "content", ["", "null", "[1]", '{"a": {"epis', '{"a": {}}', '{"a": {"episodes": [{"task": 1}]}}', "\xff"]
)
def test_damaged_panels_are_told_by_name(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_panel("a", cases.panel_of(1))
    folder.save_panel("b", cases.panel_of(2))
    assert folder.load_panels() == {"a": cases.panel_of(1), "b": cases.panel_of(2)}
    folder.panels.write_text(content, encoding="latin-1")
    with pytest.raises(
        TrainingError, match=r"panels\.json cannot be read: .*; restore it from a copy, or delete it and resume"
    ):
        folder.load_panels()


def test_metrics_that_are_no_rows_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"step": 1}\n\xff\n3\n{"loss": 1.0}\n{"st')
    assert folder.history() == [{"step": 1}]


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder(tmp_path / "empty").open(load_config("quickstart"), resume=True)


def test_a_checkpoint_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _checkpoint(folder, 2)
    assert not is_complete(_checkpoint(folder, 4, complete=False))
    (folder.checkpoints / "checkpoint-6").mkdir()
    found = folder.last_checkpoint()
    assert found is not None
    assert found.name == "checkpoint-2"


def test_metrics_past_the_checkpoint_are_kept_aside_and_not_counted_twice(tmp_path: Path) -> None:
    config, folder = load_config("quickstart"), RunFolder(tmp_path)
    folder.open(config, resume=False)
    for step in (1, 2, 3):
        folder.log({"step": step, "train/loss": step / 2})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "train/lo')
    _checkpoint(folder, 2)
    assert folder.open(config, resume=True) == 2
    assert [row["step"] for row in folder.history()] == [1, 2]
    assert '"step": 3' in (tmp_path / "metrics.superseded.jsonl").read_text()
    folder.log({"step": 3, "train/loss": 9.0})
    assert [row["step"] for row in folder.history()] == [1, 2, 3]


def test_a_folder_in_which_a_process_is_at_work_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    config, run = cases.tiny(), tmp_path / "run"
    with held(run):
        RunFolder(run).open(config, resume=False)
        before = {path: path.read_bytes() for path in run.iterdir()}
        for resume in (False, True):
            with pytest.raises(
                ConfigError, match=r"^output: .*run is in use by process \d+ on .*choose another folder"
            ):
                train(config, run, resume=resume)
        with pytest.raises(ConfigError, match="is in use by"), held(run):
            pytest.fail("two hold it")
        assert {path: path.read_bytes() for path in run.iterdir()} == before
    RunFolder(run).check(config, resume=True)


def test_a_run_holds_its_folder_until_its_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = tmp_path / "run", []

    def report(path: Path) -> Path:
        with pytest.raises(ConfigError, match="is in use by"):
            RunFolder(path).check(cases.tiny(steps=1, method="sft"), resume=True)
        seen.append(path)
        return path

    monkeypatch.setattr("agentopd.training.run.whole.write_report", report)
    train(cases.tiny(steps=1, method="sft"), run)
    assert seen == [run]
    with held(run):
        pass


def test_a_kill_gives_a_folder_back(tmp_path: Path) -> None:
    code = f"from agentopd.training.loop.lock import *\nwith held(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"in use by process {child.pid} on "):
        lock.require_unheld(tmp_path)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    lock.require_unheld(tmp_path)
    require_free(tmp_path)  # what is left of it is no run
    with held(tmp_path):
        pass


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock, "take", refuse)
    with caplog.at_level(logging.WARNING), held(tmp_path):
        assert "cannot be locked (Function not implemented)" in caplog.text


def test_a_folder_that_cannot_be_made_is_told_before_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"output: .*file/run cannot be written: .*file takes no new folders"):
        RunFolder(tmp_path / "file" / "run").check(load_config("quickstart"), resume=False)
