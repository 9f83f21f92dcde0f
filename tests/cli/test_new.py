"""An environment to start from: what is written runs, keeps the rules and passes the linters."""

import subprocess
import sys
from pathlib import Path

import pytest

from agentopd.__main__ import main


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [pytest.param("maze", "maze", "Maze", marks=pytest.mark.slow), ("my-shop", "my_shop", "MyShop")],
)
def test_what_is_written_runs(
    name: str, module: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made" / "here"
    assert main(["new", "env", name, "--folder", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [str(folder / f"{module}.py"), str(folder / f"test_{module}.py")]
    assert said[-1] == f"cd {folder} && agentopd train quickstart env.id={module}:me/{kind}-v0"
    for command in (
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{module}.py"],
        [sys.executable, "-m", "agentopd", "play", f"{module}:me/{kind}-v0", "--expert"],
        [sys.executable, "-m", "agentopd", "train", "quickstart", f"env.id={module}:me/{kind}-v0", "--check"],
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--isolated", "."],
        [sys.executable, "-m", "ruff", "format", "--no-cache", "--isolated", "--line-length=120", "--check", "."],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_maze.py").write_text("mine")
    assert main(["new", "env", "maze", "--folder", str(tmp_path)]) == 2
    assert "test_maze.py is there already; take another name or --folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_maze.py"]


@pytest.mark.parametrize("name", ["2d", "a.b", "../x", "class", "", "a b", "é"])
def test_names_that_are_none(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "env", name, "--folder", str(tmp_path)]) == 2
    assert f"name={name!r}: it becomes a file and a class" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["true", "None", "json", "gymnasium", "agentopd"])
def test_names_that_python_has_already(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "env", name, "--folder", str(tmp_path)]) == 2
    assert f"name={name!r}: " in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_places_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "maze.py").symlink_to(tmp_path / "elsewhere.py")
    for name, folder in (("maze", "file"), ("maze", "file/below"), ("x" * 300, "here"), ("maze", ".")):
        assert main(["new", "env", name, "--folder", str(tmp_path / folder)]) == 2
        assert "take another name or --folder" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere.py").exists()
