"""Which weights a run leaves where: the last, the best by the panels, and when panels are played."""

import json
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases
from safetensors.torch import load_file

from agentopd.evaluation import Panel
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import train


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which a validation panel was played; it is best after step 1."""
    steps: list[int] = []

    def panel(self: AgentOPDTrainer, *args: Any, split: str = "evaluation", **kwargs: Any) -> Panel:
        if split == "validation":
            steps.append(self.state.global_step)
        return cases.panel_of(2 if self.state.global_step == 1 else 1)

    monkeypatch.setattr(AgentOPDTrainer, "play_panel", panel)
    return steps


def saved(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize("save_every", [0, 2])
def test_the_run_folder_says_which_weights_are_the_last_and_which_the_best(save_every: int, tmp_path: Path) -> None:
    train(cases.tiny(steps=3, eval_every=1, save_every=save_every), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert json.loads(folder.weights.read_text()) == {
        "student": {"path": "student", "step": 3},
        "best": {"path": "checkpoints/checkpoint-1", "step": 1, "validation_success": 1.0},
    }
    assert {path.name for path in folder.checkpoints.iterdir()} == {"checkpoint-1", "checkpoint-3"}
    last, best = saved(folder.checkpoints / "checkpoint-3"), saved(folder.path / "checkpoints/checkpoint-1")
    assert cases.same_weights(saved(folder.student), last)
    assert not cases.same_weights(last, best)


@pytest.mark.usefixtures("played")
def test_load_best_model_at_end_makes_the_student_the_best(tmp_path: Path) -> None:
    best_at_end = {"load_best_model_at_end": True}
    result = train(cases.tiny(steps=2, eval_every=1, save_every=1, arguments=best_at_end), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert json.loads(folder.weights.read_text())["student"] == {"path": "student", "step": 1}
    best = saved(folder.checkpoints / "checkpoint-1")
    assert cases.same_weights(saved(folder.student), best)
    assert cases.same_weights(cases.weights(result.student), cases.weights(result.student) | best)


@pytest.mark.parametrize(
    ("eval_every", "expected"),
    [(0, []), (1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (50, [3])],
)
def test_when_panels_are_played(eval_every: int, expected: list[int], played: list[int], tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(steps=3, eval_every=eval_every), tmp_path)
    trainer.train()
    assert played == expected
    assert trainer.best == ((expected[0], 1.0 if expected[0] == 1 else 0.5) if expected else None)
    assert trainer.weights_of == 3
