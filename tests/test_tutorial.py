"""``docs/tutorial.md``, word for word and in order, with less training."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from page_cases import ROOT, SMALL, commands, files, python, read

from agentopd.__main__ import main
from agentopd.testing import check_text_env

PAGE = read("docs/tutorial.md")
COMMANDS = [command for command in commands(PAGE) if command.startswith("agentopd ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a reader stands: with the file that the page tells them to write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in files(PAGE).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("guess", None)
    gymnasium.registry.pop("me/Guess-v0", None)


def test_every_command_and_snippet_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbs = []
    for command in COMMANDS:
        _, verb, *arguments = shlex.split(command)
        cut = [*SMALL, f"stages.cache={folder / 'cache'}"] if verb == "train" else []
        assert main([verb, *arguments, *cut]) == 0, command
        verbs.append(verb)
        out = capsys.readouterr()
        if verb == "view":
            assert (folder / "runs" / "first" / "view.html").exists()
            for text in python(PAGE):
                exec(compile(text, "tutorial.md", "exec"), {})
            assert "system | Look up each price" in capsys.readouterr().out
        if verb == "compare":
            assert "with one seed in common only tasks can be resampled" in out.out
            assert (folder / "runs" / "both" / "compare.html").exists()
        if verb == "train":
            assert ("cold-start: taken from " in out.err) == ("runs/second" in command)
    assert verbs == ["train", "view", "replay", "train", "compare", "play", "train"]


def test_the_environment_fits_in_thirty_lines_and_conforms(folder: Path) -> None:
    lines = files(PAGE)["guess.py"].strip().splitlines()
    assert len(lines) <= 30
    report = check_text_env("guess:me/Guess-v0")
    assert report.expert_rate == 1.0


def test_the_make_target_is_one() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (target,) = re.findall(r"^make (\S+)", "\n".join(commands(PAGE)), re.MULTILINE)
    assert f"{target.replace('.venv', '$(VENV)')}: " in makefile
