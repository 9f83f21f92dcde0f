"""The trainer keeps the conventions of transformers, PEFT and TRL: names, folders, callbacks, trackers, pushes, launchers."""

import math
import os
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import training_cases as cases
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    TrainerCallback,
)

import agentopd
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.whole import train

ARCHITECTURES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8, "tie_word_embeddings": False}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 5.0},
    ),
}
LORA = LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
IDS_B_T = torch.tensor([[5, 6, 7, 8]])


def _folder(architecture: str, seed: int, path: Path) -> str:
    """A model of random weights with its tokenizer, as ``save_pretrained`` leaves them."""
    kind, model, own = ARCHITECTURES[architecture]
    tokenizer = cases.tokenizer()
    config = kind(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=24, max_position_embeddings=640, initializer_range=0.3, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **own,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def _arguments(output: Path, **options: Any) -> agentopd.AgentOPDConfig:
    given: dict[str, Any] = {"max_steps": 2, "save_steps": 1, "report_to": [], "disable_tqdm": True, **options}
    config = cases.tiny("rollout.max_turns=2", method="gkd")
    return agentopd.AgentOPDConfig(output_dir=str(output), agentopd=config, **given)


class Diary(TrainerCallback):
    """Every event that it sees, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("begin")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("step")

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("log")

    def on_save(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("save")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("end")


def _trained(base: str, teacher: str, output: Path, peft_config: Any, resume: str | None = None) -> AgentOPDTrainer:
    diary = Diary()
    trainer = AgentOPDTrainer(
        model=base, args=_arguments(output), teacher_model=teacher, peft_config=peft_config, callbacks=[diary]
    )
    trainer.train(resume_from_checkpoint=resume)
    step = ["step", "log", "save"]
    assert diary.events == ["begin", *step * (1 if resume else 2), "log", "end"]
    return trainer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_by_its_folder_is_trained_saved_and_resumed(architecture: str, tmp_path: Path) -> None:
    base, teacher = (_folder(architecture, seed, tmp_path / f"model-{seed}") for seed in (0, 1))
    trainer = _trained(base, teacher, tmp_path / "whole", None)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert cases.same_weights(cases.weights(loaded), cases.weights(trainer.student))
    assert not cases.same_weights(cases.weights(loaded), cases.weights(AutoModelForCausalLM.from_pretrained(base)))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == cases.tokenizer().get_vocab()
    again = _trained(base, teacher, tmp_path / "again", None, str(tmp_path / "whole" / "checkpoint-1"))
    assert cases.same_weights(cases.weights(again.student), cases.weights(trainer.student))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_is_trained_saved_resumed_and_merged(architecture: str, tmp_path: Path) -> None:
    base, teacher = (_folder(architecture, seed, tmp_path / f"model-{seed}") for seed in (0, 1))
    trainer = _trained(base, teacher, tmp_path / "whole", LORA)
    trainer.save_model(str(tmp_path / "adapter"))
    again = _trained(base, teacher, tmp_path / "again", LORA, str(tmp_path / "whole" / "checkpoint-1"))
    assert cases.same_weights(cases.weights(again.student), cases.weights(trainer.student))
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = plain(IDS_B_T).logits
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS_B_T).logits, trainer.student.eval()(IDS_B_T).logits)
        assert not torch.allclose(loaded(IDS_B_T).logits, before)
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "exported")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert cases.same_weights(cases.weights(exported), cases.weights(trainer.merge()))
    assert trainer.play_panel(1).success.n == 1  # the plain student acts
    trainer.save_model(str(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "adapter_config.json").exists()


class Writer:
    """Stands in for TensorBoard's."""

    def __init__(self, log_dir: str) -> None:
        self.texts: dict[str, str] = {}
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        WRITERS[log_dir] = self

    def add_text(self, name: str, text: str, *step: int) -> None:
        self.texts[name] = text

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append((step, value))

    def flush(self) -> None:
        """Has nothing to flush."""

    def close(self) -> None:
        """Has nothing to close."""


WRITERS: dict[str, Writer] = {}


@pytest.mark.parametrize("lora", ["null", "{r: 2}"])
def test_a_tracker_gets_arguments_and_metrics(lora: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: True)
    WRITERS.clear()
    config = cases.tiny(f"train.lora={lora}", eval_every=1, arguments={"report_to": "tensorboard"})
    train(config, tmp_path / "run")
    ((place, writer),) = WRITERS.items()
    assert Path(place).is_relative_to(tmp_path / "run" / "checkpoints")
    assert '"method"' not in writer.texts["args"]
    assert '"max_new_tokens": 24' in writer.texts["args"]
    for name in ("train/loss", "train/rollout/success", "eval/success"):
        assert [step for step, _ in writer.scalars[name]] == [1, 2]
        assert all(math.isfinite(value) for _, value in writer.scalars[name])


def test_training_stops_early_where_the_panel_gets_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cases.tiny(steps=6, eval_every=1, save_every=1, arguments={"load_best_model_at_end": True})
    trainer = cases.trainer(config, tmp_path, callbacks=[EarlyStoppingCallback(early_stopping_patience=2)])
    rates, seen = {1: 0, 2: 1, 3: 1, 4: 0}, {}

    def panel(*args: Any, **kwargs: Any) -> Any:
        seen[trainer.state.global_step] = cases.weights(trainer.student)
        return cases.panel_of(rates[trainer.state.global_step])

    monkeypatch.setattr(AgentOPDTrainer, "play_panel", panel)
    trainer.train()
    assert trainer.state.global_step == 4
    assert trainer.weights_of == 2
    assert cases.same_weights(cases.weights(trainer.student), seen[2])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be uploaded, instead of uploading it."""
    uploads: list[dict[str, Any]] = []

    def create(self: HfApi, repo_id: str, **options: Any) -> Any:
        uploads.append({"repo": repo_id, "private": options["private"]})
        return SimpleNamespace(repo_id=repo_id)

    def upload(self: HfApi, folder_path: str, repo_id: str, **options: Any) -> Any:
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()}
        uploads.append({"repo": repo_id, "message": options["commit_message"], "files": files})
        done: Future[None] = Future()
        done.set_result(None)
        return done

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("agentopd.training.loop.arguments.get_token", lambda: "hf_it")
    return uploads


def _assert_card(files: dict[str, bytes], library: str) -> str:
    text = files["README.md"].decode()
    head = vars(ModelCard(text).data)
    assert head["tags"][:2] == ["agentopd", "on-policy-distillation"]
    assert (head["library_name"], head["model_name"]) == (library, "it")
    assert "agentopd/Checkout-v0" in text
    assert "divergence:\n      kind: " in text
    return text


def test_a_run_is_pushed_with_its_card(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    arguments = {"push_to_hub": True, "hub_model_id": "me/it", "hub_private_repo": True}
    run = tmp_path / "run"
    train(cases.tiny(save_every=1, eval_every=1, arguments=arguments), run)
    assert hub[0] == {"repo": "me/it", "private": True}
    assert [upload["message"] for upload in hub[1:]] == [
        "Training in progress, step 1", "Training in progress, step 2", "Model save",
    ]  # fmt: skip
    for upload in hub[1:]:
        text = _assert_card(upload["files"], "transformers")
        assert upload["repo"] == "me/it"
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= upload["files"].keys()
        assert "Best validation success: " in text
    assert hub[-1]["files"]["model.safetensors"] == (run / "student" / "model.safetensors").read_bytes()


def test_the_trainer_pushes_an_adapter_when_it_is_asked_to(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    base = _folder("llama", 0, tmp_path / "model")
    args = _arguments(tmp_path / "out", hub_model_id="me/it", max_steps=1)
    trainer = AgentOPDTrainer(model=base, args=args, teacher_model=base, peft_config=LORA)
    trainer.train()
    assert not hub
    trainer.push_to_hub(tags="mine", license="apache-2.0")
    files = hub[-1]["files"]
    assert hub[-1]["message"] == "End of training"
    assert "adapter_model.safetensors" in files
    assert "model.safetensors" not in files
    head = vars(ModelCard(_assert_card(files, "peft")).data)
    assert head["tags"][2:] == ["mine"]
    assert head["license"] == "apache-2.0"
    assert head["base_model"] is None  # a folder of this machine says nothing to others


SCRIPT = """
import sys
import agentopd, training_cases as cases
args = agentopd.AgentOPDConfig(sys.argv[1], agentopd=cases.tiny(method="gkd"), max_steps=1, report_to=[], disable_tqdm=True)
trainer = agentopd.AgentOPDTrainer(cases.model(0), args, cases.tokenizer(), teacher_model=cases.model(1))
trainer.train()
print("trained", trainer.state.global_step, "of", trainer.accelerator.num_processes)
"""


def test_accelerate_launches_one_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = [str(Path(__file__).parent), *sys.path]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", str(script), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, *launch],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "trained 1 of 1" in done.stdout, done.stderr
