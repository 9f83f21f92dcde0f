"""What a person gives in Python, or names in a configuration, is held together before anything expensive starts."""

from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases as cases
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, TrainingArguments

import agentopd
from agentopd.errors import ConfigError
from agentopd.freezing import share_weights
from agentopd.models import ModelConfig, NewModel, build_tokenizer, load_model, new_model
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run import stages
from agentopd.training.run.whole import train

LORA = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # transformers makes the output folder of every trainer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cases.model(0).save_pretrained(tmp_path / "model")
    cases.tokenizer().save_pretrained(str(tmp_path / "model"))
    return tmp_path / "model"


def _trainer(*overrides: str, **given: Any) -> AgentOPDTrainer:
    config = cases.tiny(*overrides, method="gkd")
    args = agentopd.AgentOPDConfig("output", agentopd=config, report_to=[], disable_tqdm=True)
    default: dict[str, Any] = {"args": args, "model": cases.model(0), "processing_class": cases.tokenizer()}
    return AgentOPDTrainer(**default | given)


def test_names_stand_for_models_and_their_tokenizers(folder: Path) -> None:
    trainer = _trainer("student.dtype=bfloat16", model=str(folder), teacher_model=str(folder), processing_class=None)
    assert str(trainer.student.dtype) == "torch.bfloat16"
    teacher = trainer.river.teachers["teacher"].model
    assert teacher is not None
    assert str(teacher.dtype) == "torch.float32"  # as the teacher's own settings say
    assert trainer.river.chat.tokenizer.get_vocab() == cases.tokenizer().get_vocab()
    assert trainer.processing_class is trainer.river.chat.tokenizer
    loaded = _trainer(model=trainer.student, processing_class=None, teacher_model=cases.model(1))
    assert loaded.river.chat.tokenizer.get_vocab() == cases.tokenizer().get_vocab()


def test_without_a_tokenizer_there_is_no_student(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^processing_class is None, and the model was loaded from nowhere; give its tok"
    ):
        _trainer(processing_class=None, teacher_model=cases.model(1))
    (folder / "tokenizer_config.json").unlink()
    message = r"has no tokenizer_config\.json; give one that save_pretrained of a model and of its tokenizer wrote"
    with pytest.raises(ConfigError, match=message):
        _trainer(model=str(folder), processing_class=None, teacher_model=cases.model(1))
    with pytest.raises(ConfigError, match=message):
        train(cases.tiny(f"student={{model: {folder}}}"), folder / "run")


def test_a_tokenizer_without_a_chat_template_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "fit", lambda *_: pytest.fail("a stage was fitted"))
    (folder / "chat_template.jinja").unlink()
    message = "has no chat template; use an instruction-tuned model, or set tokenizer.chat_template"
    with pytest.raises(ConfigError, match=message):
        _trainer(model=str(folder), processing_class=None, teacher_model=cases.model(1))
    with pytest.raises(ConfigError, match=message):
        train(cases.tiny(f"student={{model: {folder}}}"), folder / "run")


def test_a_teacher_with_other_token_ids_is_refused(folder: Path) -> None:
    build_tokenizer(["quite other words"], 300).save_pretrained(str(folder))
    with pytest.raises(
        ConfigError, match=r"^teacher_model: the tokenizer of .*differs from the student's.*must share the student's"
    ):
        _trainer(teacher_model=str(folder))
    small = new_model(NewModel(**cases.TINY), build_tokenizer(["quite other words"], 300), 0)
    with pytest.raises(ConfigError, match=r"^teacher 'teacher': its model knows \d+ token ids and the student's"):
        _trainer(teacher_model=small)


def test_a_student_that_does_not_know_its_tokenizers_ids_is_refused() -> None:
    small = new_model(NewModel(**cases.TINY), build_tokenizer(["quite other words"], 300), 0)
    with pytest.raises(
        ConfigError, match=r"^the student knows \d+ token ids, and its tokenizer makes \d+; .*resize_token"
    ):
        _trainer(model=small, teacher_model=cases.model(1))


def test_a_teacher_inside_the_student_is_refused(folder: Path) -> None:
    message = "^teacher_model is the student itself, or shares its weights"
    student = cases.model(0)
    with pytest.raises(ConfigError, match=message):
        _trainer(model=student, teacher_model=student)
    with pytest.raises(ConfigError, match=message):  # the adapter's layers are put into that very model
        _trainer(model=student, teacher_model=student, peft_config=LORA)
    wrapped: Any = get_peft_model(cases.model(0), LORA)
    with pytest.raises(ConfigError, match=message):
        _trainer(model=wrapped, teacher_model=wrapped.get_base_model())
    assert _trainer(model=str(folder), teacher_model=str(folder))  # of one folder, and two models


def test_a_teacher_given_as_a_model_is_held_against_the_tokenizer_in_its_folder(folder: Path) -> None:
    teacher = load_model(ModelConfig(model=str(folder)))
    assert _trainer(teacher_model=teacher)
    build_tokenizer(["quite other words"], 300).save_pretrained(str(folder))
    with pytest.raises(ConfigError, match=r"^teacher_model: the tokenizer of .*differs from the student's"):
        _trainer(teacher_model=teacher)
    (folder / "tokenizer_config.json").unlink()  # nothing is known of it then
    assert _trainer(teacher_model=teacher)


def test_a_teacher_in_the_students_memory_is_refused() -> None:
    student, teacher = cases.model(0), cases.model(1)
    teacher.load_state_dict(student.state_dict(), assign=True)
    with pytest.raises(ConfigError, match=r"^teacher_model is the student itself, or shares its weights"):
        _trainer(model=student, teacher_model=teacher)
    teacher.load_state_dict({name: value.clone() for name, value in student.state_dict().items()}, assign=True)
    assert not share_weights(student, teacher)
    nowhere = [nn.ParameterList([torch.empty(0), torch.empty(2, device="meta")]) for _ in range(2)]
    assert not share_weights(*nowhere)


def test_what_is_too_short_is_told_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"^model: the model reads at most 512 tokens, and rollout\.max_length=640"):
        _trainer(
            model=new_model(NewModel(**cases.TINY | {"max_positions": 512}), cases.tokenizer(), 0),
            teacher_model=cases.model(1),
        )
    short = new_model(NewModel(**cases.TINY | {"max_positions": 512}), cases.tokenizer(), 1)
    short.save_pretrained("short")
    for teacher in (short, "short", Path("short")):
        with pytest.raises(
            ConfigError, match=r"^teacher_model: the model reads at most 512 tokens, and rollout\.max_le"
        ):
            _trainer(teacher_model=teacher)
    with pytest.raises(ConfigError, match=r"^teachers\.teacher: the model reads at most 512 tokens"):
        _trainer("teachers.teacher={kind: local, model: short}")
    with pytest.raises(ConfigError, match=r"^rollout\.max_length=60 is too small for agentopd/Checkout-v0"):
        _trainer("rollout.max_length=60", teacher_model=cases.model(1))


@pytest.mark.parametrize("teacher", [None, 1])
def test_a_hint_that_leaves_its_teacher_no_room_is_refused(teacher: int | None) -> None:
    given = None if teacher is None else cases.model(teacher)
    hinted = "teachers.teacher={kind: privileged, hint: 'It is {answer}.'}"
    with pytest.raises(ConfigError, match=r"^teachers\.teacher\.hint: it adds \d+ tokens .*max_length=1020.* 1024"):
        _trainer(hinted, "rollout.max_length=1020", teacher_model=given)
    assert _trainer(hinted, teacher_model=given)


def test_what_a_run_refuses_before_its_stages_the_trainer_refuses_too() -> None:
    with pytest.raises(ConfigError, match="learns from the environments' experts, and training_envs:tests/Lengthy-v0"):
        _trainer("method=dagger", env="training_envs:tests/Lengthy-v0", teacher_model=cases.model(1))
    with pytest.raises(
        ConfigError, match=r"^objective\.divergence\.kind=test_trainer_in_python:detached .*made-up rows"
    ):
        _trainer("objective.divergence={kind: 'test_trainer_in_python:detached'}", teacher_model=cases.model(1))


def test_a_teacher_whose_weights_a_stage_would_make_is_asked_for() -> None:
    with pytest.raises(
        ConfigError, match=r"^teachers\.teacher\.new: .* belongs to agentopd\.train.*; give teacher_model, a"
    ):
        _trainer()
    made = _trainer(load=lambda wanted: cases.model(1)).river.teachers["teacher"].model  # a person's own may know how
    assert made is not None


def test_paths_stand_for_names(folder: Path) -> None:
    trainer = _trainer(model=folder, teacher_model=folder, processing_class=None, callbacks=None)
    assert cases.same_weights(cases.weights(trainer.student), cases.weights(cases.model(0)))
    for tokenizer in (folder, str(folder)):
        made = _trainer(model=folder, teacher_model=folder, processing_class=tokenizer)
        assert made.river.chat.tokenizer.get_vocab() == cases.tokenizer().get_vocab()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model": None},
            "model is None; give a causal language model of transformers, or its name: a folder, a hub id",
        ),
        ({"model": None, "processing_class": None}, "model is None; give"),
        ({"model": AutoModelForCausalLM}, "model is the class AutoModelForCausalLM; give a causal language model"),
        ({"teacher_model": {}}, "teacher_model is of type dict; give a causal language model"),
        (
            {"processing_class": 3},
            "processing_class is of type int; give the student's tokenizer, or the folder of one",
        ),
        ({"env": ["agentopd/Checkout-v0"]}, "env is of type list; give the id .*, and several by envs"),
        ({"env": object()}, "env is of type object; give the id that one environment is registered under"),
        (
            {"peft_config": LoraConfig},
            r"peft_config is the class LoraConfig; give a configuration of PEFT's, such as Lo",
        ),
        ({"peft_config": {"r": 2}}, "peft_config is of type dict; give a configuration of PEFT's"),
        ({"args": None}, r"args is None; give agentopd\.AgentOPDConfig\(output_dir="),
        ({"args": TrainingArguments("output")}, r"args is of type TrainingArguments; give agentopd\.AgentOPDConfig\("),
    ],
)
def test_what_is_no_such_thing_is_told_by_its_argument(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        _trainer(**({"teacher_model": cases.model(1)} | given))


def test_an_adapter_of_the_configuration_is_trained_unless_another_is_given() -> None:
    for peft_config, trained in ((None, "down_proj"), (LORA, "q_proj")):
        trainer = _trainer("train.lora={r: 2}", teacher_model=cases.model(1), peft_config=peft_config)
        names = {name.split(".")[-4] for name, p in trainer.student.named_parameters() if p.requires_grad}
        assert trained in names
        assert len(names) == (7 if peft_config is None else 1)
    with pytest.raises(ConfigError, match=r"^peft_config: no such adapter for LlamaForCausalLM: .*nosuch"):
        _trainer(teacher_model=cases.model(1), peft_config=LoraConfig(target_modules=["nosuch"]))
    wrapped: Any = get_peft_model(cases.model(0), LORA)
    with pytest.raises(
        ConfigError, match=r"^train\.lora: the model is inside an adapter already; leave train\.lora out"
    ):
        _trainer("train.lora={r: 2}", model=wrapped, teacher_model=cases.model(1))
    assert _trainer(model=wrapped, teacher_model=cases.model(1)).student is wrapped


def test_the_head_stays_out_of_an_adapter() -> None:
    with pytest.raises(ConfigError, match="leave lm_head out of adapters"):
        _trainer(teacher_model=cases.model(1), peft_config=LoraConfig(target_modules=["lm_head"]))


@pytest.mark.parametrize("name", ["no_such_package:It.gguf", "nowhere/It.gguf"])
def test_a_gguf_file_that_is_not_there_is_told_before_anything_is_made(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^student\.model='{name}': "):
        train(cases.tiny(f"student={{model: '{name}'}}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
