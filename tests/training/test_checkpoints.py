"""A checkpoint goes on only with what it was made with, and one that is damaged is told by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import training_cases as cases
from peft import LoraConfig

from agentopd.config import load_config
from agentopd.config.differing import differences
from agentopd.config.shipped import parse
from agentopd.errors import ConfigError, TrainingError
from agentopd.training.loop.arguments import AgentOPDConfig
from agentopd.training.loop.checkpoints import is_complete, newest
from agentopd.training.loop.folder import RunFolder
from agentopd.training.run.whole import train

RAW = cases.raw(method="gkd", steps=2, save_every=1)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lacks its student and its last panel, as after a kill."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    train(load_config(RAW), run)
    folder = RunFolder(run)
    panels = json.loads(folder.panels.read_text())
    folder.panels.write_text(json.dumps({name: panel for name, panel in panels.items() if name != "student_after"}))
    shutil.rmtree(folder.student)
    return run


@pytest.fixture
def run(unfinished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(unfinished, tmp_path / "run")


def _resume(run: Path, *overrides: str) -> None:
    train(load_config(RAW, overrides), run, resume=True)


def test_an_edited_configuration_is_told_by_the_checkpoint(run: Path) -> None:
    file = run / "config.yaml"
    text = file.read_text()
    assert "learning_rate: 0.01" in text
    file.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.5"))
    told = r"^--resume: .*/checkpoint-2 was made with train\.learning_rate=0\.01, and this configuration has 0\.5; put "
    with pytest.raises(
        ConfigError, match=told + r"train\.learning_rate=0\.01 back into .*/config\.yaml, or start another"
    ):
        train(load_config(file), run, resume=True)
    file.write_text(text)
    _resume(run)


def test_a_run_of_a_version_that_had_fewer_settings_goes_on(run: Path) -> None:
    def without(plain: dict[str, Any]) -> dict[str, Any]:
        del plain["teachers"]["teacher"]["offload"], plain["rollout"]["max_failures"], plain["train"]["profile"]
        return plain

    (run / "config.yaml").write_text(json.dumps(without(parse((run / "config.yaml").read_text(), "config"))))
    for file in run.glob("checkpoints/*/river.json"):
        river = json.loads(file.read_text())
        file.write_text(json.dumps(river | {"config": without(river["config"])}))
    with pytest.raises(
        ConfigError, match=r"was made with rollout\.max_failures=0\.\d+, and this configuration has 0\.7"
    ):
        _resume(run, "rollout.max_failures=0.7")
    _resume(run)


def test_a_trainer_in_python_resumes_from_its_own_configuration_alone(run: Path, tmp_path: Path) -> None:
    checkpoint = str(run / "checkpoints" / "checkpoint-1")
    trainer = cases.trainer(load_config(RAW), tmp_path / "same")
    trainer.train(resume_from_checkpoint=checkpoint)
    assert trainer.state.global_step == 2
    other = cases.trainer(load_config(RAW, ["train.learning_rate=0.5"]), tmp_path / "other")
    with pytest.raises(
        ConfigError, match=r"^resume_from_checkpoint: .*checkpoint-1 was made with train\.learning_rate=0\.01"
    ):
        other.train(resume_from_checkpoint=checkpoint)


def _resumed(made: Path, output: Path, peft_config: Any = None, **given: Any) -> None:
    shutil.copytree(made, output)
    args = AgentOPDConfig(str(output), agentopd=load_config(RAW), report_to=[], disable_tqdm=True, **given)
    trainer = cases.trainer(load_config(RAW), output, args=args, peft_config=peft_config)
    trainer.train(resume_from_checkpoint=str(output / "checkpoint-1"))
    assert trainer.state.global_step == 2


def _lora(**changed: Any) -> LoraConfig:
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]} | changed
    return LoraConfig(**settings)


def _refused(key: str, was: str, is_: str) -> Any:
    message = (
        rf"^resume_from_checkpoint: .*checkpoint-1 was made with {key}={was}, and this trainer has {is_}; give the"
    )
    return pytest.raises(ConfigError, match=message)


@pytest.mark.parametrize(
    ("given", "key", "was", "is_"),
    [
        ({"learning_rate": 0.5}, r"args\.learning_rate", r"0\.01", r"0\.5"),
        ({"lr_scheduler_type": "linear"}, r"args\.lr_scheduler_type", "'cosine'", "'linear'"),
        ({"weight_decay": 0.1}, r"args\.weight_decay", r"0\.0", r"0\.1"),
        ({"neftune_noise_alpha": 5.0}, r"args\.neftune_noise_alpha", "None", r"5\.0"),
    ],
)
def test_arguments_given_in_python_are_those_of_the_checkpoint(
    given: dict[str, Any], key: str, was: str, is_: str, run: Path, tmp_path: Path
) -> None:
    with _refused(key, was, is_):
        _resumed(run / "checkpoints", tmp_path / "other", **given)
    _resumed(run / "checkpoints", tmp_path / "same", logging_steps=2, save_steps=2)  # change no weight


def test_an_adapter_goes_on_as_it_was_made(run: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    cases.trainer(load_config(RAW), made, peft_config=_lora()).train()
    modules = _lora(target_modules=["q_proj"])
    for i, (other, key, was, is_) in enumerate(
        [
            (_lora(lora_alpha=8), r"peft_config\.lora_alpha", "4", "8"),
            (_lora(r=4), r"peft_config\.r", "2", "4"),
            (modules, r"peft_config\.target_modules", r"\['q_proj', 'v_proj'\]", r"\['q_proj'\]"),
            (None, "peft_config", "'LORA'", "None"),
        ]
    ):
        with _refused(key, was, is_):
            _resumed(made, tmp_path / f"other-{i}", other)
    with _refused("peft_config", "None", "'LORA'"):
        _resumed(run / "checkpoints", tmp_path / "full", _lora())
    _resumed(made, tmp_path / "same", _lora(target_modules=["v_proj", "q_proj"], inference_mode=False))


def test_a_checkpoint_that_does_not_say_how_it_was_made_goes_on(run: Path, tmp_path: Path) -> None:
    river = run / "checkpoints" / "checkpoint-1" / "river.json"
    kept = json.loads(river.read_text())
    assert kept.pop("made")["args"]["learning_rate"] == 0.01
    river.write_text(json.dumps(kept))
    _resumed(run / "checkpoints", tmp_path / "same")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", ""), ("model.safetensors", None), ("optimizer.pt", ""), ("optimizer.pt", None), ("scheduler.pt", ""),
        ("rng_state.pth", ""), ("tokenizer.json", ""), ("river.json", "{}"), ("river.json", "[1"), ("river.json", '{"config": 3}'),
        ("trainer_state.json", '{"global_step": 2, "none": 1}'),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_told_with_the_older_one(file: str, content: str | None, run: Path) -> None:
    path = run / "checkpoints" / "checkpoint-2" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    before = {kept: kept.read_bytes() for kept in run.rglob("*") if kept.is_file() and kept.name != "run.lock"}
    with pytest.raises(
        TrainingError, match=r"checkpoint-2: .* cannot be loaded: .*move checkpoint-2 out of .* after step 1$"
    ) as told:
        _resume(run)
    assert file == "tokenizer.json" or content is None or file in str(told.value)
    kept = {path: path.read_bytes() for path in before}
    kept[run / "metrics.jsonl"] = before[run / "metrics.jsonl"]  # is written anew, the same
    assert kept == before


def test_what_is_said_of_a_damaged_checkpoint_works(run: Path, unfinished: Path) -> None:
    (run / "checkpoints" / "checkpoint-2" / "optimizer.pt").write_text("")
    with pytest.raises(TrainingError, match=r"to go on after step 1$"):
        _resume(run)
    (run / "checkpoints" / "checkpoint-2").rename(run / "aside")
    _resume(run)
    assert cases.metrics(run) == cases.metrics(unfinished)
    assert cases.kept(run) == cases.kept(unfinished)


def test_a_damaged_checkpoint_without_an_older_one(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "checkpoint-1")
    (run / "checkpoints" / "checkpoint-2" / "river.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"to go on from the first step$"):
        _resume(run)


def test_a_folder_called_like_a_checkpoint_is_refused_before_training_would_delete_it(run: Path) -> None:
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "checkpoint-2", checkpoints / "checkpoint-old")
    with pytest.raises(ConfigError, match=r"^--resume: .*/checkpoint-old is called like a checkpoint.*move it out of"):
        _resume(run)
    found = newest(checkpoints)
    assert found is not None
    assert found.name == "checkpoint-2"


@pytest.mark.parametrize("content", ["", "{}", "3", '{"global_step"', "\xff"])
def test_a_state_that_is_not_whole_makes_no_checkpoint(content: str, tmp_path: Path) -> None:
    (tmp_path / "river.json").write_text("{}")
    (tmp_path / "trainer_state.json").write_text(content, encoding="latin-1")
    assert not is_complete(tmp_path)


def test_differences_name_the_path() -> None:
    old: Any = {"a": {"b": 1, "c": [1]}, "d": None}
    assert list(differences(old, {"a": {"b": 2, "c": [1]}, "e": 0})) == [("a.b", 1, 2), ("e", None, 0)]
