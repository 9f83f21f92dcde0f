"""The README's snippets, word for word. Only the budget of training is cut, by overrides that come after theirs."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from page_cases import ROOT, SMALL, commands, files, python, read

import agentopd
from agentopd.__main__ import main
from agentopd.cli import VERBS
from agentopd.config import Config, load_config
from agentopd.testing import check_text_env

README = read("README.md")
FILES, COMMANDS = files(README), commands(README)
USES = README.partition("## Three uses, in ten lines each")[2].partition("\n## ")[0]


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
    gymnasium.registry.pop("me/Sums-v0", None)


def small(folder: Path) -> list[str]:
    return [*SMALL, f"stages.cache={folder / 'cache'}"]


def test_the_page_is_short_and_its_uses_are() -> None:
    assert len(README.splitlines()) < 200
    uses = re.findall(r"```python\n(.*?)```", USES, re.DOTALL)
    assert [sum(bool(line.strip()) for line in use.splitlines()) <= 10 for use in uses] == [True] * 3
    assert uses == [FILES["sums.py"], *python(README)]
    assert README.index("## Three uses") < README.index("## A first result")


def test_an_environment_is_registered(folder: Path) -> None:
    assert check_text_env("sums:me/Sums-v0").tools == ("answer",)
    env = agentopd.make("sums:me/Sums-v0")
    asked, _ = env.reset(seed=3)
    total = sum(map(int, re.findall(r"\d+", asked)))
    assert env.step(agentopd.call("answer", number=total))[1:3] == (1.0, True)


def test_an_agent_is_trained_and_its_episodes_played_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(source: str, overrides: list[str]) -> Config:
        return load_config(source, [*overrides, *small(folder)])

    monkeypatch.setattr(agentopd, "load_config", cut, raising=False)
    train, replay = python(README)
    names: dict[str, Any] = {}
    exec(compile(train, "README.md", "exec"), names)
    assert re.search(r"^student_after .*%", capsys.readouterr().out, re.MULTILINE)
    assert (names["config"].seed, names["result"].run_dir) == (1, Path("runs/first"))
    exec(compile(replay, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "->" in out
    assert out.endswith("{'agentopd/Checkout-v0': Counter({'same': 4})} True\n")


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
        assert words[0] != "agentopd" or words[1] in VERBS, command
