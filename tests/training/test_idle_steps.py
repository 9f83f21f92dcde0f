"""Steps that train nothing are counted; a run that only has such steps ends with an error, unless a reward is all that is missing."""

from pathlib import Path
from typing import Any

import pytest
import training_cases as cases

from agentopd.errors import TrainingError
from agentopd.training.loop import trainer as trainers

SHUT = "objective.weight={kind: gate, statistic: teacher_entropy, threshold: 100.0}"


def _idle_steps(trainer: Any) -> list[float]:
    return [row[trainers.IDLE_STEPS] for row in trainer.state.log_history if trainers.IDLE_STEPS in row]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("objective.where={tool: nosuch}", "term 'loss': it has no row to learn from; look at objective.where"),
        (SHUT, r"term 'loss': each of its \d+ rows has weight 0; look at objective.weight"),
    ],
)
def test_a_run_that_finds_nothing_to_train_ends_with_the_reason(override: str, reason: str, tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(override), tmp_path)
    with pytest.raises(TrainingError, match=f"none of the first 2 steps trained anything: {reason}"):
        trainer.train()


def test_patience_is_for_the_first_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers, "PATIENCE", 2)
    late = "objective.coefficient={kind: step, values: [0.0, 1.0, 0.0], boundaries: [1, 2]}"
    trainer = cases.trainer(cases.tiny(SHUT.replace("100.0", "0.0"), late, steps=3), tmp_path)
    trainer.train()  # a coefficient of 0 wants nothing, so its steps are not idle
    assert _idle_steps(trainer) == [0.0, 0.0, 0.0]
    gate = {"kind": "step", "values": [0.0, 100.0], "boundaries": [1]}
    closing = SHUT.replace("100.0", str(gate).replace("'", ""))
    trainer = cases.trainer(cases.tiny(closing, steps=4), tmp_path / "closing")
    trainer.train()
    assert _idle_steps(trainer) == [0.0, 1.0, 2.0, 3.0]


def test_a_reward_that_never_differs_is_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = cases.trainer(cases.tiny(method="grpo", steps=3), tmp_path)
    trainer.train()
    assert _idle_steps(trainer) == [1.0, 2.0, 3.0]
    (told,) = [entry.getMessage() for entry in caplog.records if "trains nothing" in entry.getMessage()]
    assert "from step 0 on: each of its" in told
    assert "has advantage 0, as where all episodes of a group end alike" in told


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    config = cases.tiny(method="grpo", steps=2, save_every=1)
    cases.trainer(config, tmp_path).train()
    trainer = cases.trainer(config, tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.step_metrics[trainers.IDLE_STEPS] == 2.0
