"""Runs that train an adapter: its stages, its folder, what the rollouts see, and that a kill changes nothing."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import torch
import training_cases as cases
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentopd.adapters import is_wrapped
from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, load_model
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run import stages
from agentopd.training.run.whole import evaluate, train

LORA = "train.lora={r: 2, lora_alpha: 8}"
COLD = "stages.cold_start={episodes: 4, steps: 2, episodes_per_step: 4}"


def _raw(**train: Any) -> dict[str, Any]:
    raw = cases.raw(method="gkd", lora={"r": 2, "lora_alpha": 8}, **train)
    raw["stages"] |= {"cold_start": {"episodes": 4, "steps": 2, "episodes_per_step": 4}}
    return raw


def test_a_run_leaves_a_plain_student_and_its_adapter(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(load_config(_raw()), run)
    base = json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base).name.startswith("cold-start-")
    assert not (run / "adapter" / "model.safetensors").exists()
    assert not (run / "student" / "adapter_config.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(run / "student")
    assert AutoTokenizer.from_pretrained(run / "student").get_vocab() == cases.tokenizer().get_vocab()
    cold = load_model(ModelConfig(model=base))
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run / "adapter").merge_and_unload()
    assert cases.same_weights(cases.weights(plain), cases.weights(merged))
    assert cases.same_weights(cases.weights(plain), cases.weights(result.student))
    assert not cases.same_weights(cases.weights(plain), cases.weights(cold))
    assert all(p.requires_grad for p in result.student.parameters())
    assert json.loads((run / "weights.json").read_text()) == {"student": {"path": "student", "step": 2}}
    assert evaluate(load_config(run / "config.yaml"), run / "student").success == result.panels["student_after"].success
    again = load_model(ModelConfig(model=str(run / "adapter")))  # as a model of its own
    assert cases.same_weights(cases.weights(again), cases.weights(plain))


def test_the_cold_start_trains_an_adapter_and_keeps_plain_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, merge = [], AgentOPDTrainer.merge

    def watched(self: AgentOPDTrainer) -> Any:
        trained.append(sum(p.numel() for p in self.student.parameters() if p.requires_grad))
        return merge(self)

    monkeypatch.setattr(AgentOPDTrainer, "merge", watched)
    config = cases.tiny(LORA, COLD, f"stages.cache={tmp_path}")
    student = stages.student_of(config, cases.tokenizer(), print)
    assert not is_wrapped(student)
    assert all(p.requires_grad for p in student.parameters())
    start = cases.weights(stages.fresh(config.student, cases.tokenizer(), config.seed))
    moved = {name for name, value in cases.weights(student).items() if not torch.equal(value, start[name])}
    assert moved
    assert all("proj" in name for name in moved)
    wanted = ModelConfig(new=config.teachers["teacher"].settings["new"])
    stages.teacher_of(config, wanted, cases.tokenizer(), print)
    assert trained[0] < trained[1] == student.num_parameters()  # a teacher is fitted whole


def test_a_cold_start_is_known_by_its_adapter_and_a_teacher_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[str]] = {"cold-start": set(), "teacher": set()}
    cases.tokenizer()  # is one of the stages

    def ask(cache: str, name: str, content: Any, *rest: Any) -> Path:
        asked[name].add(json.dumps(content, default=str, sort_keys=True))
        raise InterruptedError

    monkeypatch.setattr(stages, "cached", ask)
    wanted = ModelConfig(new=cases.tiny().teachers["teacher"].settings["new"])
    for lora in ("null", "{r: 2}", "{r: 3}"):
        config = cases.tiny(COLD, f"train.lora={lora}")
        with pytest.raises(InterruptedError):
            stages.student_of(config, cases.tokenizer(), print)
        with pytest.raises(InterruptedError):
            stages.teacher_of(config, wanted, cases.tokenizer(), print)
    assert {name: len(keys) for name, keys in asked.items()} == {"cold-start": 3, "teacher": 1}


def test_invariant_10_a_killed_run_with_an_adapter_resumes_as_if_nothing_had_happened(tmp_path: Path) -> None:
    raw = _raw(steps=4, eval_every=2, save_every=2)
    whole, run = tmp_path / "whole" / "run", tmp_path / "run"  # records keep the name
    train(load_config(raw), whole)
    assert killed_runs.killed(raw, run, killed_runs.after_the_records, 3) == -signal.SIGKILL
    checkpoint = RunFolder(run).last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert not (checkpoint / "model.safetensors").exists()
    train(load_config(raw), run, resume=True)
    assert cases.same_weights(cases.saved(run), cases.saved(whole))
    assert cases.metrics(run) == cases.metrics(whole)
    assert cases.panels(run) == cases.panels(whole)
    assert cases.kept(run) == cases.kept(whole)


def test_rollouts_act_by_the_adapters_weights(tmp_path: Path) -> None:
    trainer = cases.trainer(cases.tiny(LORA), tmp_path)
    with torch.no_grad():
        for name, parameter in trainer.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    acted = trainer.river.draw(0).records
    plain = cases.trainer(cases.tiny(), tmp_path, model=trainer.merge()).river.draw(0).records
    bare = cases.trainer(cases.tiny(), tmp_path).river.draw(0).records
    for mine, merged, without in zip(acted, plain, bare, strict=True):
        (segment,), (same,), (other,) = (one.trajectory.segments for one in (mine, merged, without))
        assert segment.tokens_T.tolist() == same.tokens_T.tolist() != other.tokens_T.tolist()
        torch.testing.assert_close(torch.tensor(segment.logprob_T), torch.tensor(same.logprob_T), rtol=1e-3, atol=1e-4)


def test_dropout_and_gradient_checkpointing_are_the_learners_alone(tmp_path: Path) -> None:
    """A rollout keeps its cache and draws no mask, also in the midst of training."""
    plain = cases.trainer(cases.tiny(LORA), tmp_path)
    dropping = cases.trainer(cases.tiny("train.lora={r: 2, lora_alpha: 8, lora_dropout: 0.5}"), tmp_path)
    dropping.student.gradient_checkpointing_enable({"use_reentrant": False})
    for trainer in (plain, dropping):
        trainer.student.train()
        with torch.no_grad():
            for name, parameter in trainer.student.named_parameters():
                parameter.fill_(0.01) if "lora_B" in name else None
    turns = [
        [(turn.text, turn.prefilled) for record in trainer.river.draw(0).records for turn in record.trajectory.turns]
        for trainer in (plain, dropping)
    ]
    assert turns[0] == turns[1]
    assert dropping.student.training


@pytest.mark.parametrize("more", [{}, {"every_n_layers": 2}], ids=str)
def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, more: dict[str, Any]) -> None:
    losses = []
    for checkpointing in (False, True):
        arguments = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": more} if checkpointing else {}
        trainer = cases.trainer(cases.tiny(LORA, arguments=arguments, steps=3), tmp_path)
        trainer.train()
        assert trainer.student.is_gradient_checkpointing is checkpointing
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_dropout_in_an_adapter_is_refused_where_a_ratio_reads_recomputed_probabilities(tmp_path: Path) -> None:
    config = cases.tiny(
        "objective.estimator.logprobs=recomputed", "train.lora={r: 2, lora_dropout: 0.5}", method="thinking-machines"
    )
    with pytest.raises(ConfigError, match=r"it has dropout \(.*lora_dropout"):
        cases.trainer(config, tmp_path)


@pytest.mark.parametrize("student", ["new", "folder"])
@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("[nosuch]", r"^train\.lora\.target_modules=\('nosuch',\): no such adapter for .*give target_modules that the"),
        ("[q_proj, k_prj]", r"^train\.lora\.target_modules=.*it has no module called 'k_prj'"),
        ("[q_proj, lm_head]", r"^train\.lora\.target_modules=.*leave lm_head out of adapters"),
    ],
)
def test_an_adapter_that_does_not_fit_is_told_before_a_stage_is_fitted(
    student: str, modules: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "fit", lambda *_: pytest.fail("a stage was fitted"))
    overrides = [COLD, f"train.lora={{target_modules: {modules}}}"]
    if student == "folder":
        cases.model(0).save_pretrained(tmp_path / "model")
        cases.tokenizer().save_pretrained(tmp_path / "model")
        overrides.append(f"student={{model: {tmp_path / 'model'}}}")
    with pytest.raises(ConfigError, match=message):
        train(cases.tiny(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_merged_student_whose_folder_was_deleted_is_made_again(tmp_path: Path) -> None:
    config, run = load_config(_raw()), tmp_path / "run"
    train(config, run)
    before = (run / "student" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "student")
    (run / "panels.json").unlink()
    train(config, run, resume=True)
    assert (run / "student" / "model.safetensors").read_bytes() == before
