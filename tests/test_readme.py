"""The README's snippets, word for word. Only the budget of training is cut, by overrides that come after theirs."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agentopd
from agentopd.__main__ import main
from agentopd.config import Config, load_config
from agentopd.testing import check_text_env

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"```(python|bash)\n(.*?)```", re.DOTALL)
BLOCKS = [(language, text) for language, text in FENCE.findall(README)]
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("#")[0].strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.strip()
]
FILES = dict(zip(re.findall(r"[Pp]ut\s+this\s+in `(\w+\.py)`", README), PYTHON[1:], strict=True))
SMALL = [
    "train.steps=2",
    "train.tasks_per_step=4",
    "train.eval_every=0",
    "train.save_every=0",
    "evaluation.tasks=4",
    "stages.teacher.episodes=8",
    "stages.teacher.steps=2",
    "stages.cold_start.episodes=8",
    "stages.cold_start.steps=2",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's working directory with the files that the README tells them to write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    yield tmp_path
    for name in FILES:
        sys.modules.pop(Path(name).stem, None)


def small(folder: Path) -> list[str]:
    return [*SMALL, f"stages.cache={folder / 'cache'}"]


def test_the_python_example(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(source: str, overrides: list[str]) -> Config:
        return load_config(source, [*overrides, *small(folder)])

    monkeypatch.setattr(agentopd, "load_config", cut, raising=False)
    assert len(PYTHON[0].strip().splitlines()) <= 12
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "student_after" in out
    assert "->" in out


def test_the_environment_fits_in_thirty_lines_and_conforms(folder: Path) -> None:
    lines = FILES["guess.py"].strip().splitlines()
    assert len(lines) <= 30
    report = check_text_env("guess:me/Guess-v0")
    assert report.expert_rate == 1.0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("agentopd train configs/quickstart.yaml")])
def test_training_commands(folder: Path, command: str) -> None:
    assert main([*shlex.split(command)[1:], *small(folder), "--output", "run"]) == 0
    assert (folder / "run" / "report.html").exists()


def test_the_other_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] in {"make", "agentopd", "pip"}, command
        assert words[0] != "make" or f"{words[1]}:" in makefile, command
