"""The verbs, run as a person runs them."""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from agentopd import __version__, cli, evaluate, records
from agentopd.__main__ import main
from agentopd.cli import source
from agentopd.cli.envs import few
from agentopd.envs import ENVS
from agentopd.evaluation import Panel
from agentopd.models import ModelConfig, load_model
from agentopd.training.run import whole as running
from agentopd.training.show.display import attended

NEW = "{hidden_size: 16, layers: 1, heads: 2, intermediate_size: 24, max_positions: 640, vocab_size: 400}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The quickstart, made so small that it takes a second."""
    return [
        "configs/quickstart.yaml", f"student.new={NEW}", f"teachers.teacher.new={NEW}", "stages.teacher={episodes: 8, steps: 1}",
        "stages.cold_start=null", f"stages.cache={tmp_path_factory.mktemp('cache')}", "rollout.max_length=640",
        "rollout.max_new_tokens=24", "rollout.max_turns=5", "train.steps=2", "train.tasks_per_step=2",
        "train.eval_every=2", "train.save_every=2", "evaluation.tasks=3", "evaluation.during=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", *tiny, "--output", str(folder)]) == 0
    return folder


def _fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a mistake leaves on stderr."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    lines = [line for line in captured.err.splitlines() if not line.startswith("tokenizer: ")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("agentopd: ")
    return lines[0]


def test_train_writes_a_run_and_says_where(run: Path, tiny: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    folder = run.with_name("again")
    assert main(["train", *tiny, "--output", str(folder)]) == 0
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert said["run"] == str(folder)
    assert said.keys() == {"run", "student_before", "student_after", "teacher"}
    assert "training 2/2  loss" in err
    for noise in ("Writing model shards", "Loading weights", "it/s", "Warning", "warn"):
        assert noise not in err
    assert (folder / "report.html").stat().st_size > 1000
    assert (folder / "student" / "tokenizer_config.json").exists()
    assert records.open(folder).steps == (0, 1)


def test_a_check_trains_nothing_and_leaves_no_folder(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "run")
    assert main(["train", *tiny, "--output", output, "--check"]) == 0
    assert capsys.readouterr().out == "nothing was found wrong\n"
    assert main(["train", *tiny, "rollout.max_length=30", "--output", output, "--check"]) == 2
    assert "rollout.max_length=30 is too small" in capsys.readouterr().err
    assert not Path(output).exists()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"agentopd {__version__}\n"


def test_resume_from_the_runs_own_configuration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(run / "config.yaml"), "--output", str(run), "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(run)
    line = _fails(capsys, "train", str(run / "config.yaml"), "train.steps=9", "--output", str(run), "--resume")
    assert "was made with train.steps=2, and this configuration has 9" in line
    assert main(["train", str(run), "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == str(run)
    assert "is a folder: add --resume" in _fails(capsys, "train", str(run))
    assert "--resume: which run?" in _fails(capsys, "train", str(run / "config.yaml"), "--resume")


def test_eval_plays_the_panel_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run), "--tasks", "2"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tasks"] == 2
    assert said["success"].endswith("]")
    assert main(["eval", str(run), "evaluation.temperature=1.0"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == 3


def test_eval_agrees_with_the_panel_of_training(run: Path) -> None:
    reported = Panel.from_dict(json.loads((run / "panels.json").read_text())["student_after"])
    assert evaluate(*source.load(str(run), [])) == reported


def test_eval_and_rollout_keep_the_type_and_the_attention_of_the_student(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[ModelConfig] = []

    def load(wanted: ModelConfig) -> PreTrainedModel:
        loaded.append(wanted)
        return load_model(wanted)

    monkeypatch.setattr(running, "load_model", load)
    settings = ["student.dtype=bfloat16", "student.attention=eager"]
    assert main(["eval", str(run), *settings, "--tasks", "1"]) == 0
    assert main(["rollout", str(run), *settings, "--episodes", "1", "--output", str(tmp_path / "episodes")]) == 0
    as_it_was = ModelConfig(model=str(run / "student"), dtype="bfloat16", attention="eager")
    assert loaded == [as_it_was, as_it_was]


@pytest.mark.parametrize("actor", ["expert", "student"])
def test_rollout_keeps_episodes(
    actor: str, run: Path, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "episodes"
    begin = tiny if actor == "expert" else [str(run)]
    argv = ["rollout", *begin, "rollout.max_turns=10", "--actor", actor, "--episodes", "3", "--output", str(output)]
    assert main(argv) == 0
    metrics = json.loads(capsys.readouterr().out)
    played = list(records.open(output))
    assert len(played) == 3
    assert {turn.actor for record in played for turn in record.trajectory.turns} == {actor}
    assert metrics["turns"] == sum(len(record.trajectory.turns) for record in played) / 3
    if actor == "expert":
        assert metrics["success"] == 1.0
    assert "already holds a run or other files" in _fails(capsys, *argv)


def test_nothing_to_play_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = _fails(capsys, "eval", "quickstart", "student={model: nowhere}", "--tasks", "0")
    assert "tasks=0: a panel has at least 1 task" in line
    line = _fails(capsys, "rollout", "quickstart", "--episodes", "-1", "--output", str(tmp_path / "episodes"))
    assert "episodes=-1: play at least 1" in line


def test_mistakes_are_one_line_and_status_2(
    run: Path, tmp_path: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.yaml").write_text((run / "config.yaml").read_text())
    broken = tmp_path / "broken.yaml"
    broken.write_text("train: {steps: 3\nenv: [")
    output = ["--output", str(tmp_path / "out")]
    for argv, message in (
        (["train", *tiny, "train.stepz=1", *output], "train.stepz: unknown key (did you mean 'steps'?)"),
        (["train", *tiny, "method=gdk", *output], "no recipe is called 'gdk' (did you mean 'gkd'?)"),
        (["train", *tiny, "env.id=agentopd/Chekout-v0", *output], "agentopd/Checkout-v0"),
        (["train", *tiny, "rollout.max_length=70", *output], "rollout.max_length=70 is too small"),
        (["train", *tiny, "train.steps", *output], "'train.steps' is not an override"),
        (["train", "quickstrat", *output], "no configuration at 'quickstrat'"),
        (["train", str(broken), *output], "is not valid YAML"),
        (["train", *tiny, "--output", str(run)], "already holds a run"),
        (["train", *tiny, "--output", str(broken / "x")], "cannot be written"),
        (["eval", str(unfinished)], "the run has not finished"),
        (["eval", *tiny], "student.new has no weights to evaluate"),
        (["eval", "configs/quickstart.yaml", f"student.model={tmp_path / 'nothing'}"], "there is no such folder"),
        (["methods", "gdk"], "no recipe is called 'gdk'"),
    ):
        assert message in _fails(capsys, *argv), argv
        assert not (tmp_path / "out").exists()


def test_settings_may_stand_after_the_options(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = ["train", *tiny, "--output", str(tmp_path / "run"), "train.stepz=3"]
    assert main(late) == 2
    assert "train.stepz: unknown key (did you mean 'steps'?)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", *tiny, "--outptu", "x"])
    assert "unrecognized arguments: --outptu" in capsys.readouterr().err


def test_envs_lists_what_is_shipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs"]) == 0
    head, *lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert head == ["id", "what it is", "tools", "expert"]
    assert [fields[0] for fields in lines] == list(ENVS)
    assert {fields[0]: fields[2:] for fields in lines}["agentopd/Checkout-v0"] == ["price, calculate, submit", "yes"]


def test_the_tools_of_an_environment_with_many_are_told_in_part() -> None:
    names = [f"t{number}" for number in range(14)]
    assert few(names[:13]) == ", ".join(names[:13])
    assert few(names) == f"{', '.join(names[:12])} and 2 more"


def test_envs_says_what_an_environment_still_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    assert main(["envs"]) == 0
    assert "pip install reasoning-gym" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 60])
def test_a_table_folds_to_the_width_of_the_terminal_and_cuts_nothing(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["envs"]) == 0
    whole = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["envs"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    letters = Counter(filter(str.isalnum, whole))
    assert letters <= Counter(filter(str.isalnum, shown))


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_shows_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown
    assert f"agentopd {verb}" in shown.split("examples:")[1]


def test_the_libraries_speak_again_afterwards() -> None:
    from transformers.utils import logging

    logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    verbosity = logging.get_verbosity()
    with attended():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == verbosity


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.VERBS["envs"], "run", interrupted)
    assert main(["envs"]) == 130
    assert capsys.readouterr().err == "agentopd: interrupted\n"
