"""One optimiser step: how it is cut changes nothing, what it learns from is fresh, every recipe moves the student."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from talking_cases import said, talking

from agentopd import records
from agentopd.config.shipped import load_recipe, recipes
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.river import Drawn
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import train


def _gradients(drawn: Drawn, output: Path, method: str, **cut: Any) -> tuple[float, dict[str, torch.Tensor], float]:
    trainer = cases.trainer(cases.tiny(method=method, **cut), output, model=cases.model(0).double())
    loss = trainer.training_step(trainer.student, drawn)
    gradients = {name: p.grad for name, p in trainer.student.named_parameters() if p.grad is not None}
    return float(loss), gradients, trainer.step_metrics["train/micro_batches"]


@pytest.mark.parametrize("method", ["agentopd", "gkd", "thinking-machines"])
def test_invariant_5_a_step_does_not_depend_on_how_it_is_cut(method: str, tmp_path: Path) -> None:
    drawn = cases.trainer(cases.tiny(method=method, tasks_per_step=4), tmp_path).river.draw(0)
    loss, expected, whole = _gradients(drawn, tmp_path, method, max_tokens=100_000)
    assert whole == 1
    assert any(gradient.abs().max() > 1e-4 for gradient in expected.values())
    for cut in (
        {"max_tokens": 500},
        {"max_tokens": 100_000, "layout": "packed"},
        {"max_tokens": 900, "layout": "packed"},
    ):
        again, gradients, pieces = _gradients(drawn, tmp_path, method, **cut)
        assert pieces > 1 or cut["max_tokens"] == 100_000
        assert again == pytest.approx(loss, abs=1e-6)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-6)


def test_every_draw_happens_under_the_weights_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = cases.trainer(cases.tiny(steps=3), tmp_path)
    draw, step = trainer.river.draw, AgentOPDTrainer.training_step
    drawn_under, trained_under = [], []

    def watched_draw(at: int) -> Drawn:
        drawn_under.append((at, cases.weights(trainer.student)))
        return draw(at)

    def watched_step(self: AgentOPDTrainer, model: Any, inputs: Drawn, *rest: Any) -> torch.Tensor:
        trained_under.append((inputs.step, cases.weights(trainer.student)))
        assert len(drawn_under) == len(trained_under)  # nothing is drawn ahead
        versions = {turn.policy_version for record in inputs.records for turn in record.trajectory.turns}
        assert versions == {inputs.step}
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(trainer.river, "draw", watched_draw)
    monkeypatch.setattr(AgentOPDTrainer, "training_step", watched_step)
    trainer.train()
    assert [at for at, _ in drawn_under] == [at for at, _ in trained_under] == [0, 1, 2]
    for (_, drawn), (_, trained) in zip(drawn_under, trained_under, strict=True):
        assert cases.same_weights(drawn, trained)
    assert not cases.same_weights(drawn_under[0][1], drawn_under[1][1])


def smaller(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe with as few episodes as it can be tried on."""
    sources = {
        name: dict(source) for name, source in recipe.pop("sources", {"fresh": recipe.pop("sampler", {})}).items()
    }
    for source in sources.values():
        source |= {"episodes": 8, "per_task": min(source.get("per_task", 1), 4)}
    return recipe | {"sources": sources}


@pytest.mark.parametrize("method", [name for name in recipes() if "needs" not in load_recipe(name)])
def test_every_recipe_moves_the_student(method: str, tmp_path: Path) -> None:
    paying = "env.id=training_envs:tests/Paying-v0"  # random weights earn nothing in the Checkout
    recipe = smaller(load_recipe(method))
    with talking(lambda asked: said(str(len(str(asked)) % 10))) as server:
        for teacher in recipe.get("teachers", {}).values():
            teacher |= {"url": server.base} if teacher["kind"] == "openai" else {}
        folder = RunFolder(tmp_path / "run")  # a recipe may draw from the run's own records
        trainer = cases.trainer(cases.tiny(paying, method=recipe, tasks_per_step=4), tmp_path, folder=folder)
        before = cases.weights(trainer.student)
        result = trainer.train()
    assert trainer.state.global_step == 2
    assert math.isfinite(result.training_loss)
    assert not cases.same_weights(before, cases.weights(trainer.student))


def test_a_run_of_one_step_leaves_everything_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    result = train(cases.tiny(steps=1), run)
    assert list(result.panels) == ["student_before", "teacher", "student_after"]
    assert "teacher is no better than the student already is, so it can hardly teach it" in capsys.readouterr().err
    assert {"rollout/truncated", "rollout/parsed", "depth/tokens/1", "depth/errors/1"} <= result.metrics.keys()
    by_turn = {
        f"depth/{name}/1"
        for name in ("loss/divergence", "student_entropy", "teacher_entropy/teacher", "disagreement/teacher")
    }
    assert by_turn <= result.metrics.keys()
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "metrics.jsonl",
        "panels.json",
        "records",
        "report.html",
        "student",
        "weights.json",
    }
    assert json.loads((run / "weights.json").read_text()) == {"student": {"path": "student", "step": 1}}
    assert result.run_dir == run
    assert result.metrics["step"] == 1
    assert records.open(run).signal_steps == (0,)


def test_the_student_is_played_sampled_beside_greedy_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", cases.tiny("evaluation.sampled=3", "rollout.temperature=0.7", steps=1)
    panels = train(config, run).panels
    order = [
        "student_before",
        "student_before_sampled",
        "teacher",
        "teacher_sampled",
        "student_after_sampled",
        "student_after",
    ]
    assert list(panels) == order
    for when in ("student_before", "teacher", "student_after"):
        sampled, greedy = panels[f"{when}_sampled"], panels[when]
        assert [e.task for e in sampled.episodes] == [e.task for e in greedy.episodes][:3]
        assert [e.errors for e in sampled.episodes] != [e.errors for e in greedy.episodes][:3]
    said = capsys.readouterr().err
    assert "student_after_sampled: success 0.0% [0.0, 56.1] on 3 held-out tasks, sampled as in training" in said
    kept = json.loads((run / "panels.json").read_text())
    (run / "panels.json").write_text(
        json.dumps({n: kept[n] for n in order[:2]})
    )  # as after a kill, with no checkpoint since
    train(config, run, resume=True)
    assert json.loads((run / "panels.json").read_text()) == kept
