"""What is checked before anything expensive: before a stage is fitted and before a run folder is made."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from agentopd import env as environments
from agentopd.adapters import adapted
from agentopd.chat import Chat
from agentopd.config import Config, Lora
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, config_of, head_of, load_tokenizer, new_model
from agentopd.rollout import TaskStream
from agentopd.rollout.looking import look_at
from agentopd.rollout.policy import EXPERT
from agentopd.rollout.preflight import check_first_prompts
from agentopd.training.roles import (
    LOCAL,
    MODELS,
    PRIVILEGED,
    SILENT,
    hints_of,
    learns_from_corrections,
    stage_hint,
    used_teachers,
)


def check_experts(config: Config) -> None:
    """Raises ConfigError where the method learns from experts and an environment has none."""
    lacking = without_experts(config) if learns_from_experts(config) else []
    if lacking:
        raise ConfigError(
            f"objective: this method learns from the environments' experts, and {', '.join(lacking)} has none; define expert() "
            "on it, or choose another method, such as method=grpo"
        )


def learns_from_experts(config: Config) -> bool:
    """Whether the environments' own expert acts, or corrects what the student did."""
    acts = any(EXPERT in source.actors for source in config.objective.sources.values())
    kinds = {choice.kind for choice in config.teachers.values()}
    return acts or (learns_from_corrections(config.objective) and (EXPERT in kinds or kinds <= SILENT))


def without_experts(config: Config) -> list[str]:
    """The environments of ``config`` without an expert.

    Raises:
        ConfigError: One is not registered, or refuses its arguments.
        EnvError: One cannot be made.
    """
    limit = config.rollout.time_limit
    return [settings.id for settings in config.envs if not look_at(settings, environments.has_expert, limit)]


def check_teachers(config: Config) -> None:
    """Raises ConfigError where the method lacks a teacher, or uses one that no stage fits, or not to its hint; or a stage lacks a hint."""
    if any(stage is not None and stage.privileged for stage in (config.stages.teacher, config.stages.cold_start)):
        stage_hint(config)
    for name, choice in used_teachers(config).items():
        if choice.kind in MODELS and choice.settings["new"] is not None and config.stages.teacher is None:
            raise ConfigError(
                f"stages.teacher=null: the method uses teachers.{name}, whose weights are new, and nothing fits them, so it would "
                f"teach noise; add a stage, such as stages.teacher={{episodes: 1000, steps: 300}}, give teachers.{name}.model "
                "trained weights, or choose a method without this teacher, such as method=grpo"
            )
        fit = config.stages.teacher
        if choice.kind == PRIVILEGED and choice.settings["new"] is not None and fit is not None and not fit.privileged:
            raise ConfigError(
                f"stages.teacher.privileged=0: teachers.{name} reads a hint, and its new weights would be fitted without ever seeing "
                "one; set stages.teacher.privileged, such as 0.5"
            )


STARTS = 4
"""Tasks of each environment that are started before a run."""


def check_prompts(
    config: Config, tokenizer: PreTrainedTokenizerBase, taught: bool = True, longest: Mapping[str, int] | None = None
) -> Chat:
    """Starts every environment; returns how conversations are put to the tokenizer. Unless ``taught``, no teacher reads a hint.

    ``longest`` tells how many tokens teachers read, as :func:`check_models` does.

    Raises:
        ConfigError: A first prompt leaves no room for a turn; or a hint names what the environment does not tell, or is too long.
        EnvError: An environment can never be started.
    """
    chat, hints = Chat(tokenizer, config.template_kwargs), hints_of(config) if taught else {}
    for env in config.envs:
        stream = TaskStream([env], config.seed, "train")
        there = {name: hint for name, hint in hints.items() if hint.shown_in(env.id)}
        check_first_prompts([stream[i] for i in range(STARTS)], chat, config.rollout, there, longest)
    return chat


def check_models(config: Config, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Reads the configurations of the models that the run uses, no weights; how many tokens each used teacher with a model reads.

    Raises:
        ConfigError: One is shorter than an episode may get, or a teacher reads other token ids than the student writes.
    """
    given = dict(_local_teachers(config))
    check_length("student", _positions(config.student), config.rollout.max_length)
    for name, model in given.items():
        check_length(f"teachers.{name}", _positions(model), config.rollout.max_length)
        if model.model is not None:
            check_vocabulary(f"teachers.{name}", model.model, tokenizer)
    read = {name: _positions(given.get(name, config.student)) for name in used_teachers(config)}
    return {name: longest for name, longest in read.items() if longest is not None}


def peft_config_of(lora: Lora) -> Any:
    """``lora`` as PEFT's own."""
    from peft import LoraConfig  # heavy, and only needed here

    modules = lora.target_modules
    plain = {**dict(lora), "target_modules": modules if isinstance(modules, str) else list(modules)}
    return LoraConfig(task_type="CAUSAL_LM", **plain)


def check_adapter(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Puts the adapter of ``train.lora`` around a student without weights.

    Raises:
        ConfigError: It does not fit, or is on the output head.
    """
    lora, student = config.train.lora, config.student
    if lora is None:
        return
    if student.new is not None:
        model = new_model(student.new, tokenizer, config.seed)
    else:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config_of(str(student.model)))  # type: ignore[no-untyped-call]
    key = f"train.lora.target_modules={lora.target_modules!r}"
    wrapped = adapted(model, peft_config_of(lora), config.seed, key)
    try:
        head_of(wrapped)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _local_teachers(config: Config) -> Iterator[tuple[str, ModelConfig]]:
    """Those that the method uses, as model settings; each must name one model, used or not."""
    used = used_teachers(config)
    for name, choice in config.teachers.items():
        if choice.kind in MODELS:
            given = {key: choice.settings[key] for key in ("model", "new") if choice.settings[key] is not None}
            if len(given) > 1 or (choice.kind == LOCAL and not given):
                exactly = "exactly" if choice.kind == LOCAL else "at most"
                raise ConfigError(
                    f"teachers.{name}: give {exactly} one of model (a hub id or folder) and new (random weights)"
                )
            if name in used and given:
                yield name, ModelConfig(**given)


def _positions(config: ModelConfig) -> int | None:
    """The longest sequence a model reads; ``None`` where it has no limit."""
    if config.new is not None:
        return config.new.max_positions
    return getattr(config_of(str(config.model)), "max_position_embeddings", None)


def check_length(key: str, longest: int | None, wanted: int) -> None:
    """Raises ConfigError where the model ``key`` reads fewer tokens than ``rollout.max_length``, ``wanted``."""
    if longest is not None and longest < wanted:
        raise ConfigError(
            f"{key}: the model reads at most {longest} tokens, and rollout.max_length={wanted}; lower rollout.max_length, "
            "or choose a model with more positions"
        )


def check_vocabulary(key: str, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """A teacher's folder need not hold a tokenizer; where it does, every id must mean to it what it means to the student.

    Raises:
        ConfigError: It does not.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / "tokenizer_config.json").exists():
        return
    theirs = load_tokenizer(name).get_vocab()
    other = [token for token, i in tokenizer.get_vocab().items() if theirs.get(token) != i]
    if other:
        raise ConfigError(
            f"{key}: the tokenizer of {name!r} differs from the student's, for instance in {other[0]!r}; for now a local teacher "
            "must share the student's tokenizer"
        )
