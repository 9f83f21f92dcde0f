"""A run that was killed and resumed is the run that was not."""

import json
import shlex
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import killed_runs
import pytest
import training_cases as cases

from agentopd import records
from agentopd.__main__ import main
from agentopd.config import load_config
from agentopd.errors import TrainingError
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.river import Drawn, River
from agentopd.training.run import whole as running
from agentopd.training.run.whole import train

STEPS = {"steps": 5, "eval_every": 2, "save_every": 2}
_held: list[Any] = []


@cache
def uninterrupted(method: str) -> Path:
    _held.append(TemporaryDirectory())
    run = Path(_held[-1].name) / "run"
    train(load_config(cases.raw(method=method, **STEPS)), run)
    return run


def _assert_same(run: Path, expected: Path) -> None:
    assert cases.same_weights(cases.saved(run), cases.saved(expected))
    for row, other in zip(cases.metrics(run), cases.metrics(expected), strict=True):
        assert row == other, {name: (row.get(name), value) for name, value in other.items() if row.get(name) != value}
    assert cases.panels(run) == cases.panels(expected)
    assert cases.kept(run) == cases.kept(expected)


@pytest.mark.parametrize(
    ("method", "when", "step", "again"),
    [
        ("gkd", killed_runs.after_the_records, 3, {2, 3}),
        ("gkd", killed_runs.inside_a_checkpoint, 4, {2, 3}),
        ("sft", killed_runs.after_the_records, 1, {0, 1}),
        ("sft", killed_runs.after_the_records, 3, {2, 3}),
    ],
)
def test_invariant_10_a_killed_run_resumes_as_if_nothing_had_happened(
    method: str, when: Callable[[int], None], step: int, again: set[int], tmp_path: Path
) -> None:
    raw, run = cases.raw(method=method, **STEPS), tmp_path / "run"
    assert killed_runs.killed(raw, run, when, step) == -signal.SIGKILL
    checkpoint = RunFolder(run).last_checkpoint()
    assert (checkpoint.name if checkpoint else None) == ("checkpoint-2" if step > 2 else None)
    begun = {record.trajectory.key for record in records.open(run)}
    train(load_config(raw), run, resume=True)
    _assert_same(run, uninterrupted(method))
    for record in records.open(run):
        turns = [turn for turn in record.trajectory.turns if turn.actor == "student"]
        assert {turn.policy_version for turn in turns} <= {record.trajectory.key.step}
    everything = [record.trajectory.key for record in records.open(run, superseded=True)]
    assert begun <= set(everything)
    assert {key.step for key in everything if everything.count(key) == 2} == again


def test_resuming_a_finished_run_gives_its_result_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, run = cases.raw(method="gkd"), tmp_path / "run"
    first = train(load_config(raw), run)
    before = cases.metrics(run), cases.kept(run), (run / "report.html").read_text()
    (run / "report.html").unlink()
    monkeypatch.setattr(running, "build_trainer", lambda *args: pytest.fail("a trainer was built"))
    again = train(load_config(raw), run, resume=True)
    assert "is already finished, so nothing is trained" in " ".join(capsys.readouterr().err.split())
    assert (cases.metrics(run), cases.kept(run), (run / "report.html").read_text()) == before
    assert (again.run_dir, again.metrics, again.panels) == (first.run_dir, first.metrics, first.panels)
    assert cases.same_weights(cases.weights(again.student), cases.weights(first.student))
    assert again.tokenizer.get_vocab() == first.tokenizer.get_vocab()


def test_a_finished_run_whose_student_was_deleted_says_how_to_make_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = load_config(cases.raw(method="gkd")), Path("runs") / "run"  # relative, as a name on the hub may look
    monkeypatch.chdir(tmp_path)
    train(config, run)
    before = cases.saved(run), cases.panels(run)
    (run / "student" / "model.safetensors").unlink()  # the weights in ``before`` are mapped from it: it must not shrink
    (run / "student" / "model.safetensors").touch()
    with pytest.raises(TrainingError, match=r"run is finished, and its student cannot be loaded: .*SafetensorError"):
        train(config, run, resume=True)
    shutil.rmtree(run / "student")
    with pytest.raises(
        TrainingError, match=r"there is no such folder; .*; restore student/.*, or delete runs/run/panels\.json"
    ):
        train(config, run, resume=True)
    (run / "panels.json").unlink()
    train(config, run, resume=True)
    assert cases.same_weights(cases.saved(run), before[0])
    assert cases.panels(run) == before[1]


def test_a_finished_run_without_its_metrics_gives_its_result(tmp_path: Path) -> None:
    config, run = load_config(cases.raw(method="gkd")), tmp_path / "run"
    train(config, run)
    (run / "metrics.jsonl").unlink()
    assert train(config, run, resume=True).metrics == {}


@pytest.mark.parametrize("save_every", [0, 2])
def test_a_run_killed_before_its_last_panel_was_kept_trains_no_further(
    save_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = load_config(cases.raw(method="gkd", steps=3, save_every=save_every)), tmp_path / "run"
    train(config, run)
    before = cases.saved(run), cases.metrics(run), cases.kept(run), cases.panels(run)
    folder = RunFolder(run)
    checkpoint = folder.last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    folder.panels.write_text(json.dumps({n: p for n, p in before[3].items() if n != "student_after"}))
    shutil.rmtree(folder.student)
    monkeypatch.setattr(River, "draw", lambda self, step: pytest.fail("a batch was drawn"))
    train(config, run, resume=True)
    assert cases.same_weights(cases.saved(run), before[0])
    assert (cases.metrics(run), cases.kept(run), cases.panels(run)) == before[1:]


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, draw = tmp_path / "a run", River.draw

    def interrupted(self: River, step: int) -> Drawn:
        if step == 1:
            raise KeyboardInterrupt
        return draw(self, step)

    monkeypatch.setattr(River, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(load_config(cases.raw(method="gkd", save_every=1)), run)
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("interrupted"))
    message, _, command = said.partition(": ")
    assert message == "interrupted; to go on after step 1"
    monkeypatch.undo()
    assert shlex.split(command) == ["agentopd", "train", str(run), "--resume"]
    assert main(shlex.split(command)[1:]) == 0
    assert [row["step"] for row in cases.metrics(run)][-1] == 2


def test_a_frozen_pool_that_a_kill_left_empty_is_filled(tmp_path: Path) -> None:
    raw, run = cases.raw(method="sft"), tmp_path / "run"
    config = load_config(raw)
    RunFolder(run).open(config, resume=False)
    pool = run / "frozen" / "fresh" / "records"
    pool.mkdir(parents=True)
    train(config, run, resume=True)
    assert len(records.open(pool)) == 8
