"""What runs take, counted, and budgets that end them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import training_cases as cases
from transformers import TrainerControl, TrainerState

from agentopd import records
from agentopd.config.sections import Budget
from agentopd.errors import ConfigError
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.river import River
from agentopd.training.loop.spent import Spend, totals
from agentopd.training.run.whole import train


def test_a_budget_of_tokens_ends_a_run_with_a_panel_and_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cases.tiny("train.budget={tokens: 300}", steps=9, eval_every=5, save_every=5)
    train(config, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    history, checkpoint = folder.history(), folder.last_checkpoint()
    steps = [row for row in history if "spent/student_tokens" in row]
    taken = [row["spent/student_tokens"] for row in steps]
    assert sum(taken) >= 300 > sum(taken[:-1])
    assert 1 < len(taken) < 9
    assert history[-1]["step"] == len(taken)
    assert "panel/success" in history[-1]
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{len(taken)}"
    # killed before its last panel it has no step left
    panels = json.loads(folder.panels.read_text())
    del panels["student_after"]
    folder.panels.write_text(json.dumps(panels))
    monkeypatch.setattr(River, "draw", lambda self, step: pytest.fail("a batch was drawn"))
    train(config, tmp_path / "run", resume=True)
    assert folder.history() == history
    assert "student_after" in folder.load_panels()


def test_what_a_step_takes_is_what_its_records_hold(tmp_path: Path) -> None:
    train(cases.tiny(method="dagger"), tmp_path / "run")
    history = RunFolder(tmp_path / "run").history()
    for step, row in enumerate(row for row in history if "spent/episodes" in row):
        kept = list(records.open(tmp_path / "run").step(step))
        written = sum(turn.stop - turn.start for one in kept for turn in one.trajectory.turns)
        told = sum(len(said.segment_N) for one in kept for said in one.annotations)
        assert row["spent/episodes"] == len(kept) == 2
        assert row["spent/student_tokens"] + row["spent/teacher_tokens"] == written + told
    assert totals(history)["episodes"] == 4.0


def _after(spend: Spend, logs: dict[str, Any]) -> TrainerControl:
    control, args = TrainerControl(), SimpleNamespace(eval_strategy="no", save_strategy="steps")
    spend.on_log(args, None, control, logs=logs)  # type: ignore[arg-type]
    return control


def test_a_budget_of_seconds_counts_those_before_a_resume() -> None:
    spend, state = Spend(Budget(seconds=10.0)), TrainerState()
    state.log_history = [{"seconds/step": 4.0, "spent/student_tokens": 9.0}, {"eval_success": 1.0}]
    spend.on_train_begin(None, state, TrainerControl())
    assert not _after(spend, {"seconds/step": 5.0, "spent/student_tokens": 9.0}).should_training_stop
    assert not _after(spend, {"seconds/step": 1.0}).should_training_stop  # no step's row
    ended = _after(spend, {"seconds/step": 0.0, "spent/student_tokens": 9.0})
    assert ended.should_training_stop
    assert ended.should_save
    assert not ended.should_evaluate


def test_a_budget_bounds_something() -> None:
    with pytest.raises(ConfigError, match=r"train.budget: .*give tokens, seconds or both"):
        cases.tiny("train.budget={}")
    with pytest.raises(ConfigError, match=r"train\.budget\.tokens"):
        cases.tiny("train.budget={tokens: 0}")
