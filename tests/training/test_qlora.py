"""Runs whose student is in four bits, beside an adapter: what they learn, act by, leave behind, and refuse."""

import copy
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import killed_runs
import pytest
import torch
import training_cases as cases
from processes_cases import together
from torch import Tensor
from transformers import PreTrainedModel

from agentopd import quantization
from agentopd.adapters import is_wrapped, merged_copy
from agentopd.config import Config, load_config
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, NewModel, load_model, new_model
from agentopd.packing import padded
from agentopd.quantization import is_quantized, unpack
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run import stages, whole
from agentopd.training.run.traces import traces
from agentopd.training.run.whole import evaluate, train
from agentopd.types import Trajectory

WIDE = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "max_positions": 1024}
LORA = {"r": 2, "lora_alpha": 8}
ON_POLICY: dict[str, Any] = {"terms": [{"target": {"name": "teacher"}}]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student's folder, beside which its teacher's lies."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "taught")):
        new_model(NewModel(**WIDE), cases.tokenizer(), seed).save_pretrained(folder / name)
        cases.tokenizer().save_pretrained(str(folder / name))
    return folder / "base"


def raw(base: Path, **train: Any) -> dict[str, Any]:
    """A student in four bits under another in four bits."""
    found = cases.raw(method=ON_POLICY, **({"lora": LORA} | train))
    found["student"] = {"model": str(base), "quantization": "nf4"}
    found["teachers"] = {"teacher": {"kind": "local", "model": str(base.parent / "taught"), "quantization": "nf4"}}
    found["stages"] |= {"teacher": None}
    found["rollout"] |= {"max_new_tokens": 12, "max_turns": 2}
    found["evaluation"] = {"tasks": 2, "during": 2}
    return found


def trained(config: Config, output: Path, student: PreTrainedModel, **options: Any) -> AgentOPDTrainer:
    trainer = cases.trainer(config, output, model=student, **options)
    trainer.train()
    return trainer


def losses(trainer: AgentOPDTrainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def adapter(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def logits(model: Any) -> Tensor:
    ids_B_T = torch.arange(40)[None] + torch.tensor([[1], [60]])
    with torch.no_grad():
        found: Tensor = model(input_ids=ids_B_T, use_cache=False).logits
    return found


def test_a_run_leaves_a_whole_student_that_acts_as_the_one_in_four_bits(base: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", load_config(raw(base, eval_every=1, save_every=2))
    result = train(config, run)
    assert is_quantized(result.student)
    plain = load_model(ModelConfig(model=str(run / "student")))
    assert not is_quantized(plain)
    torch.testing.assert_close(logits(plain), logits(result.student), rtol=0.0, atol=1e-4)
    assert "quantization_config" not in json.loads((run / "student" / "config.json").read_text())
    beside = load_model(ModelConfig(model=str(run / "adapter"), quantization="nf4"))
    assert torch.equal(logits(beside), logits(result.student))
    start = load_model(config.student)
    assert not torch.allclose(logits(start), logits(result.student), atol=1e-3)
    again = load_config(run / "config.yaml")
    for folder in (run / "student", run / "adapter", run / "checkpoints" / "checkpoint-2"):
        assert evaluate(again, folder).success == result.panels["student_after"].success
    assert not is_quantized(train(config, run, resume=True).student)  # which is finished


@pytest.mark.slow
def test_invariant_10_a_killed_run_in_four_bits_resumes_as_if_nothing_had_happened(base: Path, tmp_path: Path) -> None:
    settings = raw(base, steps=4, eval_every=2, save_every=2)
    unbroken, run = tmp_path / "whole" / "run", tmp_path / "run"  # records keep the name
    train(load_config(settings), unbroken)
    assert killed_runs.killed(settings, run, killed_runs.after_the_records, 3) == -signal.SIGKILL
    checkpoint = RunFolder(run).last_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"
    assert not (checkpoint / "model.safetensors").exists()
    train(load_config(settings), run, resume=True)
    assert cases.same_weights(cases.saved(run), cases.saved(unbroken))
    assert cases.metrics(run) == cases.metrics(unbroken)
    assert cases.panels(run) == cases.panels(unbroken)
    assert cases.kept(run) == cases.kept(unbroken)


METHODS: Mapping[str, tuple[str, ...]] = {
    "agentopd": (),
    "thinking-machines": ("objective.estimator.logprobs=recomputed",),  # reads all episodes once more before the step
}


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_as_its_unpacked_weights_do(method: str, base: Path, tmp_path: Path) -> None:
    found = raw(base, steps=3) | {"method": method}
    found["teachers"]["expert"] = {"kind": "expert"}
    config = load_config(found, METHODS[method])
    four, plain = load_model(config.student), unpack(load_model(config.student))
    mine, theirs = (trained(config, tmp_path, one, teacher_model=base.parent / "taught") for one in (four, plain))
    assert losses(mine) == pytest.approx(losses(theirs), rel=1e-5, abs=1e-7)
    assert adapter(mine.student).keys() == adapter(theirs.student).keys()
    for name, value in adapter(mine.student).items():
        assert "lora" in name
        torch.testing.assert_close(value, adapter(theirs.student)[name], rtol=1e-3, atol=1e-5)


def test_rollouts_with_a_cache_act_as_a_plain_forward_pass_says(base: Path, tmp_path: Path) -> None:
    trainer = cases.trainer(load_config(raw(base)), tmp_path, model=load_model(load_config(raw(base)).student))
    _wear(trainer, seed=0)
    alone = copy.deepcopy(trainer.student)
    for record in trainer.river.draw(0).records:
        for segment in record.trajectory.segments:
            tokens_1_T = padded([segment.tokens_T])
            with torch.no_grad():
                logprob_T_V = alone(input_ids=tokens_1_T, use_cache=False).logits[0].log_softmax(-1)
            acted = torch.from_numpy(segment.trainable_T[1:])
            said = logprob_T_V[:-1].gather(1, tokens_1_T[0, 1:, None])[:, 0][acted]
            behaved = torch.from_numpy(segment.logprob_T[1:])[acted]
            assert len(said)
            torch.testing.assert_close(behaved, said, rtol=0.0, atol=1e-4)


def _wear(trainer: AgentOPDTrainer, seed: int) -> None:
    """Gives an adapter, which begins as nothing, something to say."""
    with torch.no_grad():
        for name, parameter in trainer.student.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))


def test_it_teaches_itself_without_its_adapter_and_by_an_earlier_one(base: Path, tmp_path: Path) -> None:
    settings = raw(base, steps=3)
    settings["teachers"] = {
        "teacher": {"kind": "ensemble", "members": ["first", "slow"]},
        "first": {"kind": "self"},
        "slow": {"kind": "self", "average": 0.5, "hint": "Psst: {answer}."},
    }
    config = load_config(settings)
    four, plain = load_model(config.student), unpack(load_model(config.student))
    mine, theirs = (trained(config, tmp_path, one) for one in (four, plain))
    assert losses(mine) == pytest.approx(losses(theirs), rel=1e-4, abs=1e-6)
    assert any(losses(mine))


def test_it_acts_ahead_of_learning_by_a_copy(base: Path, tmp_path: Path) -> None:
    settings = raw(base, steps=3)
    usual = train(load_config(settings), tmp_path / "usual")
    settings["rollout"] |= {"mode": {"kind": "async", "max_staleness": 0}}
    ahead = train(load_config(settings), tmp_path / "ahead")
    torch.testing.assert_close(logits(ahead.student), logits(usual.student), rtol=0.0, atol=1e-3)


@pytest.mark.slow
def test_two_processes_train_it_as_one_does(base: Path, tmp_path: Path) -> None:
    alone = _both_losses(base, tmp_path / "alone")
    for told, values in together(_both_losses, base, tmp_path / "two"):
        assert told == pytest.approx(alone[0], rel=1e-5, abs=1e-7)
        for name, value in values.items():
            torch.testing.assert_close(value, alone[1][name], rtol=1e-3, atol=1e-5)


def _both_losses(base: Path, output: Path) -> tuple[list[float], dict[str, Tensor]]:
    config = load_config(raw(base, steps=3, tasks_per_step=3, max_tokens=400))
    trainer = trained(config, output, load_model(config.student), teacher_model=base.parent / "taught")
    return losses(trainer), adapter(trainer.student)


def test_a_cold_start_is_kept_where_it_is_packed_anew(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good share of what was fitted, where it is small; merged into the values of four bits, hardly anything would be."""
    settings = raw(base, lora={"r": 4, "lora_alpha": 16})
    settings["rollout"] |= {"max_turns": 4, "max_new_tokens": 24}  # which the expert needs
    settings["stages"] = {"cache": str(tmp_path), "cold_start": {"episodes": 8, "steps": 3, "episodes_per_step": 8}}
    config, seen, played = load_config(settings), dict[str, float](), list[Trajectory]()

    def merging(model: Any, into: Any = None) -> PreTrainedModel:
        seen["beside"] = surprise(model.eval())
        return merged_copy(model, into)

    def playing(*given: Any) -> Any:
        played.extend(found := traces(*given))
        return found

    def surprise(model: Any) -> float:
        total, count = 0.0, 0
        for segment in (one for trace in played for one in trace.segments):
            tokens_1_T = padded([segment.tokens_T])
            with torch.no_grad():
                logprob_T_V = model(input_ids=tokens_1_T, use_cache=False).logits[0].log_softmax(-1)
            written = torch.from_numpy(segment.trainable_T[1:])
            total -= float(logprob_T_V[:-1].gather(1, tokens_1_T[0, 1:, None])[:, 0][written].sum())
            count += int(written.sum())
        return total / count

    monkeypatch.setattr(stages, "merged_copy", merging)
    monkeypatch.setattr(stages, "traces", playing)
    student = stages.student_of(config, cases.tokenizer(), print)
    before = surprise(load_model(config.student))
    assert is_quantized(student)
    assert not is_wrapped(student)
    assert seen["beside"] < before - 0.02
    assert before - surprise(student) > 0.3 * (before - seen["beside"])
    [kept] = tmp_path.glob("cold-start-*/config.json")
    assert "quantization_config" not in json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lora=null", r"^train\.lora=null: the student is in four bits .*set train\.lora, or leave"),
        ("train.sharded=true", r"^train\.sharded=true: the student is in four bits.*set train\.sharded: false"),
        (
            "rollout.engine=vllm",
            r"^rollout\.engine\.kind=vllm: .*another model's.*choose rollout\.engine\.kind: transformers",
        ),
        ("rollout.engine={kind: vllm_server, url: 'http://x', share: /s}", r"^rollout\.engine\.kind=vllm_server: "),
        ("cluster.rollout={actors: 1}", r"^cluster\.rollout: the student is in four bits.*leave cluster\.rollout out"),
        ("cluster.teachers={teacher: {actors: 1}}", r"^cluster\.teachers\.teacher: weights in four bits are not sent"),
    ],
)
def test_what_cannot_be_had_with_it_is_told_before_a_model_is_loaded(
    override: str, message: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "build_trainer", lambda *_: pytest.fail("a model was loaded"))
    config = load_config(raw(base), [override])
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run")
    if "cluster" not in override:  # which a trainer joins first
        with pytest.raises(ConfigError, match=message):  # nor for a model that is given
            cases.trainer(config, tmp_path, model=load_model(config.student))


@pytest.mark.parametrize("who", ["student", "teachers.teacher"])
def test_what_packs_it_is_asked_for_by_name(
    who: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    other = "teachers.teacher" if who == "student" else "student"
    config = load_config(raw(base), [f"{other}.quantization=null"])
    with pytest.raises(ConfigError, match=rf'^{who}\.quantization=nf4: .*pip install "agentopd\[qlora\]"'):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_adapter_is_no_student_in_four_bits(base: Path, tmp_path: Path) -> None:
    cases.trainer(load_config(raw(base)), tmp_path, model=load_model(load_config(raw(base)).student)).save_model(
        str(tmp_path)
    )
    config = load_config(raw(tmp_path))
    with pytest.raises(
        ConfigError, match=r"^student\.quantization=nf4: .* is an adapter.*into which it has been merged"
    ):
        train(config, tmp_path / "run")
