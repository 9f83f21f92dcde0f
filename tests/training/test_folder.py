"""The run folder: who owns it, and what a resumed run finds there."""

from pathlib import Path

import pytest

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.training.folder import RunFolder, is_complete


def _checkpoint(folder: RunFolder, step: int, complete: bool = True) -> Path:
    path = folder.checkpoints / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "river.json").write_text("{}")
    (path / "trainer_state.json").write_text('{"global_step": 1}' if complete else '{"global_st')
    return path


def test_a_folder_that_holds_another_run_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(load_config("quickstart"), resume=False)
    with pytest.raises(ConfigError, match="already holds a run"):
        RunFolder(tmp_path).open(load_config("quickstart"), resume=False)


def test_resuming_with_another_configuration_names_the_difference(tmp_path: Path) -> None:
    RunFolder(tmp_path).open(load_config("quickstart", ["train.steps=30"]), resume=False)
    with pytest.raises(ConfigError, match=r"train\.steps=30, and this configuration has 7"):
        RunFolder(tmp_path).open(load_config("quickstart", ["train.steps=7"]), resume=True)
    with pytest.raises(
        ConfigError, match=r"further, give that run student={model: .*/student} stages\.cold_start=null"
    ):
        RunFolder(tmp_path).check(load_config("quickstart", ["train.steps=60"]), resume=True)


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
