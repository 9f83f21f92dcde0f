"""The snippets of docs/records.md, word for word, on a tiny run."""

import re
from pathlib import Path

import numpy as np
import pytest

import agentopd
from agentopd.records.files import StepFile
from agentopd.records.schema import PLAIN
from agentopd.types import Trajectory

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text()
TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 24, "max_positions": 640, "vocab_size": 400}


def _snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of one step in ``runs/first``."""
    path = tmp_path_factory.mktemp("workplace")
    config = {
        "env": {"id": "agentopd/Checkout-v0"},
        "student": {"new": TINY},
        "teachers": {"teacher": {"kind": "local", "new": TINY}},
        "stages": {"cache": str(path / "cache"), "teacher": {"episodes": 2, "steps": 1}},
        "rollout": {"max_new_tokens": 24, "max_length": 640, "max_turns": 8},
        "method": "agentopd",
        "train": {"steps": 1, "tasks_per_step": 2, "eval_every": 0, "save_every": 0},
        "evaluation": {"tasks": 1, "during": 1},
    }
    agentopd.train(agentopd.load_config(config), output=path / "runs" / "first")
    return path


def test_the_snippets_run(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(workplace)
    names: dict[str, object] = {}
    for snippet in _snippets("python"):
        exec(snippet, names)
    records = agentopd.records.open("runs/first")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{len(records)} episodes of steps (0,)"
    cells = [line.split("|")[1] for line in PAGE.partition("print(repr")[2].splitlines() if line.startswith("| `")]
    listed = [name for cell in cells for name in re.findall(r"`(\S+)`", cell.replace("<teacher>", "teacher"))]
    tokens, trajectory = names["tokens"], names["trajectory"]
    assert isinstance(tokens, dict)
    assert isinstance(trajectory, Trajectory)
    assert list(tokens)[:7] == listed[:7]
    assert {"current_logprob", "loss/divergence"} <= set(tokens)
    assert any(line.split() == list(tokens) for line in lines)
    assert len(tokens["text"]) == sum(turn.stop - turn.start for turn in trajectory.turns)
    assert any(re.fullmatch(r"'.*' in turn \d+", line) for line in lines)
    assert all(f"{role} | " in "\n".join(lines) for role in ("system", "user", "assistant"))
    assert names["again"] == []


def test_the_columns_of_the_page_are_those_of_the_files(workplace: Path) -> None:
    listed = re.findall(r"`([a-z]+)`", PAGE.partition("agentopd: ")[2].partition(".\n")[0])
    assert listed == list(PLAIN)
    signals = agentopd.records.open(workplace / "runs" / "first").signals(0)
    known = {"trajectory", "segment", "index", "turn", "current_logprob", "student_entropy", "teacher_entropy/teacher"}
    assert set(signals) == known | {f"loss/{what}" for what in ("coef", "weight", "divergence")}
    assert np.isfinite(signals["loss/divergence"]).any()


def test_six_question_marks_are_the_files_that_count() -> None:
    files = [StepFile(12), StepFile(12, signals=True), StepFile(12, superseded=1), StepFile(12, 1, signals=True)]
    assert [Path(str(file)).match("step-??????.parquet") for file in files] == [True, False, False, False]
    assert "step-??????.parquet" in _snippets("sql")[0]
