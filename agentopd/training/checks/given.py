"""What a person gives the trainer in Python, made into what it works with: models by name, a tokenizer, episodes."""

from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.adapters import adapted, is_wrapped
from agentopd.config import Config, Lora
from agentopd.config.imported import require_no_draws
from agentopd.errors import ConfigError
from agentopd.freezing import share_weights
from agentopd.models import ModelConfig, config_of, head_of, load_model, load_tokenizer, positions_of
from agentopd.objective.spec import Objective
from agentopd.quantization import is_quantized, settled
from agentopd.rollout.preflight import Reader
from agentopd.settings.choice import Choice
from agentopd.teachers import members_of, traits_of
from agentopd.teachers.traits import thinks_by
from agentopd.training.checks.packed import require_trainable
from agentopd.training.checks.preflight import (
    check_acting,
    check_experts,
    check_length,
    check_other,
    check_prompts,
    check_vocabulary,
    peft_config_of,
)
from agentopd.training.checks.recorded import check_recorded
from agentopd.training.checks.roles import hints_of, model_of, names_weights, used_teachers
from agentopd.training.checks.trial import try_own_parts
from agentopd.types import Record, Trajectory

Named = PreTrainedModel | str | Path
"""A model, or its name: a folder, a hub id or a GGUF file."""
Load = Callable[[ModelConfig], PreTrainedModel]
"""How a model that a configuration names is got."""


def env_given(env: str | None) -> str | None:
    """``env`` itself.

    Raises:
        ConfigError: It is no id.
    """
    if env is None or isinstance(env, str):
        return env
    raise ConfigError(
        f"env is of type {type(env).__name__}; give the id that one environment is registered under, such as "
        "'agentopd/Checkout-v0', and several by envs in the configuration"
    )


def student_given(model: Named, config: Config) -> PreTrainedModel:
    """The student before its adapter: ``model``, or what it names, loaded as ``config.student`` says.

    Raises:
        ConfigError: There is no such model.
    """
    return load_model(_named(config.student, model)) if isinstance(model, str | Path) else _model("model", model)


def tokenizer_given(
    processing_class: PreTrainedTokenizerBase | str | Path | None, model: Named
) -> PreTrainedTokenizerBase:
    """``processing_class``, or what it names; by default the tokenizer that lies with ``model``.

    Raises:
        ConfigError: There is none.
    """
    if isinstance(processing_class, PreTrainedTokenizerBase):
        return processing_class
    if isinstance(processing_class, str | Path):
        return load_tokenizer(str(processing_class))
    if processing_class is not None:
        raise ConfigError(
            f"processing_class is {_kind(processing_class)}; give the student's tokenizer, or the folder of one"
        )
    name = str(model) if isinstance(model, str | Path) else _model("model", model).name_or_path
    if not name:
        raise ConfigError("processing_class is None, and the model was loaded from nowhere; give its tokenizer")
    return load_tokenizer(name)


def teachers_given(teacher: Named | None, load: Load, student: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Load:
    """How the configuration's teachers that are models get their weights: as ``load`` says, unless ``teacher`` is given for all of them.

    Raises:
        ConfigError: The teacher is the student itself, or inside it; or it reads other token ids.
    """
    if teacher is None:
        return load
    if isinstance(teacher, str | Path):
        check_vocabulary("teacher_model", str(teacher), tokenizer)
        return lambda wanted: load(_named(wanted, teacher))
    if share_weights(_model("teacher_model", teacher), student):
        raise ConfigError(
            "teacher_model is the student itself, or shares its weights, so it has nothing to teach it; load it a second time (the "
            "same folder will do), or give other weights"
        )
    if (
        teacher.name_or_path and Path(teacher.name_or_path).expanduser().is_dir()
    ):  # of the hub nothing is fetched for this
        check_vocabulary("teacher_model", teacher.name_or_path, tokenizer)
    return lambda _: teacher


def _named(wanted: ModelConfig, name: str | Path) -> ModelConfig:
    return wanted.model_copy(update={"model": str(name), "new": None})


def _model(key: str, given: Any) -> PreTrainedModel:
    """``given``, which must be a model of transformers', in an adapter of PEFT's or not."""
    if isinstance(given, PreTrainedModel) or is_wrapped(given):
        return settled(given)
    raise ConfigError(
        f"{key} is {_kind(given)}; give a causal language model of transformers, or its name: a folder, a hub id or a GGUF file"
    )


def _kind(given: Any) -> str:
    if given is None:
        return "None"
    return f"the class {given.__name__}" if isinstance(given, type) else f"of type {type(given).__name__}"


def adapter_given(model: PreTrainedModel, peft_config: Any, lora: Lora | None, seed: int) -> Any:
    """``model`` inside the adapter that is asked for, in Python or by the configuration; itself where none is.

    Raises:
        ConfigError: ``peft_config`` is none of PEFT's, or does not fit.
    """
    if peft_config is None:
        return model if lora is None else adapted(model, peft_config_of(lora), seed, "train.lora")
    from peft import PeftConfig  # heavy, and only needed here

    if not isinstance(peft_config, PeftConfig):
        raise ConfigError(
            f"peft_config is {_kind(peft_config)}; give a configuration of PEFT's, such as "
            "LoraConfig(r=8, lora_alpha=16, target_modules='all-linear')"
        )
    return adapted(model, peft_config, seed)


def check_given(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    teacher: Named | None,
    load: Load,
    plays: bool,
) -> None:
    """What a whole run checks before its stages, for models that are given in Python. Unless it ``plays``, no environment is started.

    Raises:
        ConfigError: A teacher has no weights, or reads other token ids, or too few; or environments, experts, hints or parts of
            one's own do not fit.
        EnvError: An environment can never be started.
    """
    longest = _check_teachers(config, tokenizer, student, teacher, load)
    if plays:
        check_acting(config)
        check_experts(config)
        try_own_parts(config, len(tokenizer))
        hints = hints_of(config).items()
        readers = [Reader(f"teachers.{name}", longest.get(name), "the teacher", name, hint) for name, hint in hints]
        check_recorded(config, check_prompts(config, tokenizer, readers=readers))


def _check_teachers(
    config: Config, tokenizer: PreTrainedTokenizerBase, student: PreTrainedModel, teacher: Named | None, load: Load
) -> dict[str, int]:
    """How many tokens each used teacher with a model reads, by its name, where there is a limit."""
    read: dict[str, int | None] = {}
    for name, choice in used_teachers(config).items():
        if not traits_of(choice).model:
            continue
        key = f"teachers.{name}"
        if traits_of(choice).own_tokenizer:
            _check_other(name, choice, teacher, tokenizer)
            continue
        if teacher is not None and names_weights(choice):
            key, read[name] = "teacher_model", _positions(teacher)
        elif (own := model_of(name, choice)) is None:
            read[name] = _positions(student)
        elif own.new is None:
            check_vocabulary(key, str(own.model), tokenizer)
            read[name] = _positions(str(own.model))
        elif load is load_model:
            raise ConfigError(
                f"{key}.new: the stage that fits new weights belongs to agentopd.train, and the Trainer has none; give "
                f"teacher_model, a model or its name, or {key}.model"
            )
        else:
            read[name] = own.new.max_positions
        check_length(key, read[name], config.rollout.max_length)
    if teacher is not None:
        _require_different_members(config)
    return {name: longest for name, longest in read.items() if longest is not None}


def _require_different_members(config: Config) -> None:
    """Raises ConfigError where ``teacher_model`` would make two members of an ensemble one model."""
    used = used_teachers(config)
    for name, choice in used.items():
        members = [member for member in members_of(choice) if names_weights(used[member])]
        for one, other in combinations(members, 2):
            if _but_weights(used[one]) == _but_weights(used[other]):
                raise ConfigError(
                    f"teacher_model would stand for teachers.{one} and teachers.{other}, of which teachers.{name} is the mean, and they would be one "
                    "model twice; leave teacher_model out, and give each its model"
                )


def _but_weights(choice: Choice) -> dict[str, Any]:
    return {name: value for name, value in thinks_by(choice).items() if name not in ModelConfig.model_fields}


def _check_other(name: str, choice: Choice, teacher: Named | None, tokenizer: PreTrainedTokenizerBase) -> None:
    if teacher is not None:
        raise ConfigError(
            f"teacher_model would stand for teachers.{name}, of kind {choice.kind}, whose tokenizer is its own; leave teacher_model out, and "
            f"give teachers.{name}.model"
        )
    check_other(name, choice, tokenizer)


def _positions(model: Named) -> int | None:
    """The longest sequence that a model reads; ``None`` where it has no limit."""
    return positions_of(config_of(str(model)) if isinstance(model, str | Path) else model.config)


def check_student(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
    """Holds a student against its tokenizer and the configuration.

    Raises:
        ConfigError: It does not know all of the tokenizer's ids; or it is shorter than an episode may get; or its head is not one
            plain linear layer; or it is in four bits, and cannot be trained so.
    """
    if is_quantized(model):
        require_trainable(config, is_wrapped(model))
    size, ids = head_of(model).weight_V_H.shape[0], len(tokenizer)
    if size < ids:
        raise ConfigError(
            f"the student knows {size} token ids, and its tokenizer makes {ids}; give the model's own tokenizer, or call "
            f"model.resize_token_embeddings({ids})"
        )
    check_length("model", _positions(model), config.rollout.max_length)


def episodes_given(given: Iterable[Trajectory | Record], vocabulary: int, objective: Objective) -> list[Trajectory]:
    """The trajectories of ``train_dataset``, from which ``objective`` is to learn."""
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
    require_no_draws(objective, found, "train_dataset")
    return found
