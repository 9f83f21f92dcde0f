"""The trainer as a person uses it from Python: with their own models, arguments, callbacks and adapters."""

import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import training_cases as cases
from transformers import TrainerCallback

import agentopd
from agentopd.config import load_config
from agentopd.errors import ConfigError, TrainingError
from agentopd.training.loop.trainer import AgentOPDTrainer


class Diary(TrainerCallback):
    def __init__(self) -> None:
        self.events: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(f"step {state.global_step}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(f"evaluate {sorted(kwargs['metrics'])}")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.events.append(f"save {state.global_step}")


def _arguments(output: Path, **options: Any) -> agentopd.AgentOPDConfig:
    config = load_config(cases.raw(steps=77))
    return agentopd.AgentOPDConfig(
        output_dir=str(output),
        max_steps=2,
        learning_rate=0.01,
        report_to=[],
        disable_tqdm=True,
        agentopd=config,
        **options,
    )


def test_the_public_surface(tmp_path: Path) -> None:
    student, diary = cases.model(0), Diary()
    before = cases.weights(student)
    trainer = agentopd.AgentOPDTrainer(
        model=student,
        teacher_model=cases.model(1),
        env="agentopd/Calculator-v0",
        args=_arguments(tmp_path),
        processing_class=cases.tokenizer(),
        callbacks=[diary],
    )
    trainer.train()
    assert not cases.same_weights(before, cases.weights(student))
    assert diary.events[:2] == ["step 1", "step 2"]
    assert trainer.config.envs[0].id == "agentopd/Calculator-v0"
    assert trainer.config.train.steps == 2  # what schedules read is what the arguments say
    metrics = trainer.evaluate()
    assert metrics.keys() == {"eval_success", "eval_low", "eval_high"}
    assert 0 <= metrics["eval_low"] <= metrics["eval_success"] <= metrics["eval_high"] <= 1
    assert trainer.play_panel(3).success.n == 3
    assert trainer.play_panel(2, actor="teacher").success.n == trainer.play_panel(2, actor="expert").success.n == 2


def test_evaluation_and_checkpoints_happen_on_time(tmp_path: Path) -> None:
    diary = Diary()
    cases.trainer(cases.tiny(steps=2, eval_every=1, save_every=2), tmp_path, callbacks=[diary]).train()
    evaluated = "evaluate ['eval_high', 'eval_low', 'eval_success']"
    assert diary.events == ["step 1", evaluated, "save 1", "step 2", evaluated, "save 2"]


def test_the_best_checkpoint_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The panel is best after step 1, when no checkpoint is due; it outlives the rotation of the others."""
    trainer = cases.trainer(cases.tiny(steps=5, eval_every=1, save_every=2), tmp_path)
    rates = {1: 2, 2: 1, 3: 0, 4: 1, 5: 2}

    def panel(*args: Any, **kwargs: Any) -> Any:
        return cases.panel_of(rates[trainer.state.global_step])

    monkeypatch.setattr(AgentOPDTrainer, "play_panel", panel)
    trainer.train()
    assert trainer.state.best_metric == 1.0
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert (tmp_path / "checkpoint-1" / "model.safetensors").exists()
    assert (tmp_path / "checkpoint-5").exists()


def test_an_adapter_is_trained_and_saved(tmp_path: Path) -> None:
    base = cases.model(0)
    before = cases.weights(base)
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = AgentOPDTrainer(
        base, _arguments(tmp_path), cases.tokenizer(), teacher_model=cases.model(1), peft_config=lora
    )
    untouched = cases.weights(trainer.student)
    trainer.train()
    after = cases.weights(trainer.student)
    changed = {name for name in after if not torch.equal(after[name], untouched[name])}
    assert changed
    assert all("lora" in name for name in changed)
    for name, value in before.items():
        twin = next(
            v for n, v in after.items() if n.endswith(name) or n.endswith(name.replace(".weight", ".base_layer.weight"))
        )
        assert torch.equal(twin, value)
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    student = cases.model(0)
    with pytest.raises(ConfigError, match="teacher_model is the student itself"):
        AgentOPDTrainer(student, _arguments(tmp_path), cases.tokenizer(), teacher_model=student)
    with pytest.raises(ConfigError, match=r"args\.agentopd is None"):
        AgentOPDTrainer(student, agentopd.AgentOPDConfig(output_dir=str(tmp_path), max_steps=1), cases.tokenizer())
    with pytest.raises(ConfigError, match="a run has no epochs"):
        agentopd.AgentOPDConfig(output_dir=str(tmp_path))


def test_a_panel_that_cannot_be_played_is_refused(tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny("teachers.judge.kind=reward", "objective.target.name=judge",
        "objective.target.kind=reward", method="grpo"), tmp_path)  # fmt: skip
    for tasks in (0, -1):
        with pytest.raises(ConfigError, match=rf"^tasks={tasks}: a panel has at least 1 task"):
            trainer.play_panel(tasks)
    for actor in ("judge", "nobody"):  # the one says rewards, and cannot act
        with pytest.raises(ConfigError, match=rf"^actor='{actor}': nobody .*; there are: student, expert$"):
            trainer.play_panel(1, actor=actor)


def test_schedules_read_what_the_last_step_measured(tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(), tmp_path)
    assert trainer.river.clock(0).metrics == {}
    loss = trainer.training_step(trainer.student, trainer.river.draw(0))
    metrics = trainer.river.clock(1).metrics
    assert metrics == {"loss": float(loss), **trainer.step_metrics}
    again = cases.trainer(cases.tiny(), tmp_path)
    again.river.restore(trainer.river.state(), again.student)
    assert again.river.clock(1).metrics == metrics


def test_what_is_given_in_python_must_agree_with_the_configuration(tmp_path: Path) -> None:
    fading = cases.tiny("objective.sampler={actors: {student: {kind: linear, start: 1.0, end: 0.0, steps: 2}}}")
    args = agentopd.AgentOPDConfig(output_dir=str(tmp_path), agentopd=fading, max_steps=4)
    with pytest.raises(ConfigError, match="at step 2 all shares are 0"):
        cases.trainer(fading, tmp_path, args=args)
    bound = cases.tiny("objective.where={env: agentopd/Checkout-v0}")
    with pytest.raises(ConfigError, match=r"objective\.where\.env: there is no 'agentopd/Checkout-v0'"):
        cases.trainer(bound, tmp_path, env="agentopd/Calculator-v0")


def test_a_student_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    student = cases.model(0)
    trainer = cases.trainer(cases.tiny(), tmp_path, model=student)
    student.requires_grad_(False)
    with pytest.raises(TrainingError, match="the loss of step 0 reaches no trainable parameter"):
        trainer.training_step(student, trainer.river.draw(0))
    with pytest.raises(ConfigError, match="the student has no parameter with requires_grad"):
        cases.trainer(cases.tiny(), tmp_path, model=student)


def detached(logp: torch.Tensor, logq: torch.Tensor) -> torch.Tensor:
    """No divergence: nothing of it reaches the student."""
    return (logp - logq).detach().abs().sum(-1)


def test_a_divergence_without_a_gradient_stops_the_first_step(tmp_path: Path) -> None:
    config = cases.tiny("objective.divergence={kind: 'test_trainer_in_python:detached'}", method="gkd")
    with pytest.raises(ConfigError, match="detached returned a tensor without a gradient"):
        cases.trainer(config, tmp_path).train()


def test_a_gradient_that_is_zero_is_no_mistake(tmp_path: Path) -> None:
    """The teacher says what the student says: the divergence is at its least, and nothing moves."""
    trainer = cases.trainer(cases.tiny(method="gkd"), tmp_path, model=cases.model(0), teacher_model=cases.model(0))
    assert abs(trainer.train().training_loss) < 1e-6


def test_a_gradient_that_is_not_finite_stops_the_run_unless_a_loss_scale_made_it(tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(), tmp_path)
    for parameter in trainer.student.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    with pytest.raises(TrainingError, match="the gradient norm is"):
        trainer._clip_grad_norm(trainer.student)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    assert not math.isfinite(trainer._clip_grad_norm(trainer.student))


def test_callbacks_see_a_river_that_knows_of_the_step(tmp_path: Path) -> None:
    versions = []

    class Versions(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            versions.append((state.global_step, trainer.river.policies["student"].version))

    trainer = cases.trainer(cases.tiny(), tmp_path, callbacks=[Versions()])
    trainer.train()
    assert versions == [(1, 1), (2, 2)]


def test_dropout_is_refused_where_a_ratio_reads_recomputed_probabilities(tmp_path: Path) -> None:
    student = cases.model(0)
    student.add_module("dropout", torch.nn.Dropout(0.1))
    assert cases.trainer(cases.tiny(), tmp_path, model=student)
    recomputed = cases.tiny("objective.estimator.logprobs=recomputed", method="thinking-machines")
    with pytest.raises(ConfigError, match=r"it has dropout \(dropout\)"):
        cases.trainer(recomputed, tmp_path, model=student)
    student = cases.model(0)
    student.config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match=r"it has dropout \(attention_dropout\)"):
        cases.trainer(recomputed, tmp_path, model=student)
