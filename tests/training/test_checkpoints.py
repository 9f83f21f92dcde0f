"""A checkpoint goes on only with what it was made with, and one that is damaged is told by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd.config import load_config
from agentopd.errors import ConfigError, TrainingError
from agentopd.training.checkpoints import differences, is_complete, newest
from agentopd.training.folder import RunFolder
from agentopd.training.run import train

RAW = cases.raw(method="gkd", steps=2, save_every=1)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lacks its student and its last panel, as after a kill."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    train(load_config(RAW), run)
    folder = RunFolder(run)
    panels = json.loads(folder.panels.read_text())
    folder.panels.write_text(json.dumps({name: panel for name, panel in panels.items() if name != "student_after"}))
    shutil.rmtree(folder.student)
    return run


@pytest.fixture
def run(unfinished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unfinished, tmp_path / "run")


def _resume(run: Path, *overrides: str) -> None:
    train(load_config(RAW, overrides), run, resume=True)


def test_an_edited_configuration_is_told_by_the_checkpoint(run: Path) -> None:
    file = run / "config.yaml"
    text = file.read_text()
    assert "learning_rate: 0.01" in text
    file.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.5"))
    told = r"^--resume: .*/checkpoint-2 was made with train\.learning_rate=0\.01, and this configuration has 0\.5; put "
    with pytest.raises(
        ConfigError, match=told + r"train\.learning_rate=0\.01 back into .*/config\.yaml, or start another"
    ):
        train(load_config(file), run, resume=True)
    file.write_text(text)
    _resume(run)


def test_a_trainer_in_python_resumes_from_its_own_configuration_alone(run: Path, tmp_path: Path) -> None:
    checkpoint = str(run / "checkpoints" / "checkpoint-1")
    trainer = cases.trainer(load_config(RAW), tmp_path / "same")
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 2
    other = cases.trainer(load_config(RAW, ["train.learning_rate=0.5"]), tmp_path / "other")
    with pytest.raises(
        ConfigError, match=r"^resume_from_checkpoint: .*checkpoint-1 was made with train\.learning_rate=0\.01"
    ):
        other.train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", ""), ("model.safetensors", None), ("optimizer.pt", ""), ("optimizer.pt", None), ("scheduler.pt", ""),
        ("rng_state.pth", ""), ("tokenizer.json", ""), ("river.json", "{}"), ("river.json", "[1"), ("river.json", '{"config": 3}'),
        ("trainer_state.json", '{"global_step": 2, "none": 1}'),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_told_with_the_older_one(file: str, content: str | None, run: Path) -> None:
    path = run / "checkpoints" / "checkpoint-2" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    before = {kept: kept.read_bytes() for kept in run.rglob("*") if kept.is_file() and kept.name != "run.lock"}
    with pytest.raises(
        TrainingError, match=r"checkpoint-2: .* cannot be loaded: .*move checkpoint-2 out of .* after step 1$"
    ) as told:
        _resume(run)
    assert file == "tokenizer.json" or content is None or file in str(told.value)
    kept = {path: path.read_bytes() for path in before}
    kept[run / "metrics.jsonl"] = before[run / "metrics.jsonl"]  # is written anew, the same
    assert kept == before


def test_what_is_said_of_a_damaged_checkpoint_works(run: Path, unfinished: Path) -> None:
    (run / "checkpoints" / "checkpoint-2" / "optimizer.pt").write_text("")
    with pytest.raises(TrainingError, match=r"to go on after step 1$"):
        _resume(run)
    (run / "checkpoints" / "checkpoint-2").rename(run / "aside")
    _resume(run)
    assert cases.metrics(run) == cases.metrics(unfinished)
    assert cases.kept(run) == cases.kept(unfinished)


def test_a_damaged_checkpoint_without_an_older_one(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "checkpoint-1")
    (run / "checkpoints" / "checkpoint-2" / "river.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"to go on from the first step$"):
        _resume(run)


def test_a_folder_called_like_a_checkpoint_is_refused_before_training_would_delete_it(run: Path) -> None:
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-old")
    with pytest.raises(ConfigError, match=r"^--resume: .*/checkpoint-old is called like a checkpoint.*move it out of"):
        _resume(run)
    found = newest(checkpoints)
    assert found is not None
    assert found.name == "checkpoint-2"


@pytest.mark.parametrize("content", ["", "{}", "3", '{"global_step"', "\xff"])
def test_a_state_that_is_not_whole_makes_no_checkpoint(content: str, tmp_path: Path) -> None:
    (tmp_path / "river.json").write_text("{}")
    (tmp_path / "trainer_state.json").write_text(content, encoding="latin-1")
    assert not is_complete(tmp_path)


def test_differences_name_the_path() -> None:
    old: Any = {"a": {"b": 1, "c": [1]}, "d": None}
    assert list(differences(old, {"a": {"b": 2, "c": [1]}, "e": 0})) == [("a.b", 1, 2), ("e", None, 0)]
