"""What a person gives the trainer in Python, made into what it works with: models by name, a tokenizer, episodes."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.adapters import adapted
from agentopd.config import Config, Lora
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, head_of, load_model, load_tokenizer
from agentopd.training.build import Load
from agentopd.training.preflight import check_length, check_vocabulary, peft_config_of
from agentopd.types import Record, Trajectory


def student_given(model: PreTrainedModel | str, config: Config) -> PreTrainedModel:
    """The student before its adapter: ``model``, or what it names, loaded as ``config.student`` says."""
    return load_model(_named(config.student, model)) if isinstance(model, str) else model


def tokenizer_given(
    processing_class: PreTrainedTokenizerBase | None, model: PreTrainedModel | str
) -> PreTrainedTokenizerBase:
    """``processing_class``, or the tokenizer that lies with ``model``.

    Raises:
        ConfigError: There is none.
    """
    if processing_class is not None:
        return processing_class
    name = model if isinstance(model, str) else model.name_or_path
    if not name:
        raise ConfigError("processing_class is None, and the model was loaded from nowhere; give its tokenizer")
    return load_tokenizer(name)


def teachers_given(
    teacher: PreTrainedModel | str | None, load: Load, student: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> Load:
    """How the configuration's local teachers get their weights: as ``load`` says, unless ``teacher`` is given for all of them.

    Raises:
        ConfigError: The teacher is the student itself, or inside it; or it reads other token ids.
    """
    if teacher is None:
        return load
    if isinstance(teacher, str):
        check_vocabulary("teacher_model", teacher, tokenizer)
        return lambda wanted: load(_named(wanted, teacher))
    theirs = set(map(id, teacher.parameters()))
    if any(id(parameter) in theirs for parameter in student.parameters()):
        raise ConfigError(
            "teacher_model is the student itself, or shares its weights, so it has nothing to teach it; load it a second time (the "
            "same folder will do), or give other weights"
        )
    return lambda _: teacher


def _named(wanted: ModelConfig, name: str) -> ModelConfig:
    return wanted.model_copy(update={"model": name, "new": None})


def adapter_given(model: PreTrainedModel, peft_config: Any, lora: Lora | None, seed: int) -> Any:
    """``model`` inside the adapter that is asked for, in Python or by the configuration; itself where none is."""
    if peft_config is not None:
        return adapted(model, peft_config, seed)
    return model if lora is None else adapted(model, peft_config_of(lora), seed, "train.lora")


def check_student(model: nn.Module, tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
    """Holds a student against its tokenizer and the configuration.

    Raises:
        ConfigError: It does not know all of the tokenizer's ids; or it is shorter than an episode may get; or its head is not one
            plain linear layer.
    """
    size, ids = head_of(model).weight_V_H.shape[0], len(tokenizer)
    if size < ids:
        raise ConfigError(
            f"the student knows {size} token ids, and its tokenizer makes {ids}; give the model's own tokenizer, or call "
            f"model.resize_token_embeddings({ids})"
        )
    config_of_text = getattr(model, "config", None)
    if config_of_text is not None:
        longest = getattr(config_of_text.get_text_config(), "max_position_embeddings", None)
        check_length("model", longest, config.rollout.max_length)


def episodes_given(given: Iterable[Trajectory | Record], vocabulary: int) -> list[Trajectory]:
    """The trajectories of ``train_dataset``."""
    found = [one.trajectory if isinstance(one, Record) else one for one in given]
    other = [one for one in found if not isinstance(one, Trajectory)]
    if other or not found:
        kind = type(other[0]).__name__ if other else "nothing"
        raise ConfigError(
            f"train_dataset holds {kind}; give trajectories, or records such as agentopd.records.open('runs/first') gives"
        )
    largest = max((int(segment.tokens_T.max(initial=0)) for one in found for segment in one.segments), default=0)
    if largest >= vocabulary:
        raise ConfigError(
            f"train_dataset holds the token id {largest}, and the tokenizer has {vocabulary} ids; give episodes that were written "
            "with the student's own tokenizer"
        )
    return found
