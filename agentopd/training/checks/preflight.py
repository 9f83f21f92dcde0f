"""What is checked before anything expensive: before a stage is fitted and before a run folder is made."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentopd import env as environments
from agentopd.adapters import adapted, is_adapter
from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.config import Config, Fit, Lora
from agentopd.errors import ConfigError, under
from agentopd.models import ModelConfig, head_of, load_tokenizer, outline_of, positions_of
from agentopd.objective.contract import is_own
from agentopd.rollout import TaskStream
from agentopd.rollout.looking import look_at
from agentopd.rollout.preflight import Reader, check_first_prompts, too_short
from agentopd.rollout.tasks import pinned
from agentopd.settings.choice import Choice
from agentopd.teachers import Examined, is_language_model, traits_of
from agentopd.teachers.cross_tokenizer import own_tokenizer
from agentopd.teachers.hindsight import Hindsight
from agentopd.training.checks.roles import (
    every_hint,
    hints_of,
    is_new,
    may_correct,
    model_of,
    stage_hint,
    used_teachers,
)
from agentopd.types import EXPERT, STUDENT

PANELS = {"evaluation": "evaluation.tasks", "validation": "evaluation.during"}
"""The splits that panels play, and the settings that say how many of their tasks."""


def with_data(config: Config) -> Config:
    """``config`` with the fingerprint of all rows that tasks come from, so that a run goes on only with those it began with.

    Raises:
        ConfigError: A row is wrong, or the rows are others than a fingerprint says; or a panel would play a row twice.
    """
    if all(env.data is None for env in config.envs):
        return config
    config = config.model_copy(update={"envs": pinned(config.envs)})
    counts = {"evaluation": config.evaluation.tasks, "validation": config.evaluation.during}
    for split, count in counts.items():
        if split == "evaluation" or config.train.eval_every:
            TaskStream(config.envs, config.evaluation.seed, split).require_once(count, PANELS[split])
    TaskStream(config.envs, config.seed, "train")
    return config


def check_experts(config: Config) -> None:
    """Raises ConfigError where the method learns from experts and an environment has none."""
    lacking = without_experts(config) if learns_from_experts(config) else []
    if lacking:
        raise ConfigError(
            f"objective: this method learns from the environments' experts, and {', '.join(lacking)} has none; define expert() "
            "on it, or choose another method, such as method=grpo"
        )


def check_acting(config: Config) -> None:
    """Raises ConfigError where a teacher that is to act is of a shipped kind that has no model, or is shown what no actor can know; or is
    the student seen in another way, whose weights are trained while it acts."""
    hints, ahead = every_hint(config), config.rollout.made_mode.ahead is not None
    for name, source in config.objective.sources.items():
        for actor in source.who:
            choice = config.teachers.get(actor)
            if choice is not None and actor != EXPERT and not (is_language_model(choice) or is_own(choice)):
                own = traits_of(choice).own_tokenizer
                what = "has a tokenizer of its own" if own else "is no model that can act"
                raise ConfigError(
                    f"objective.sources.{name}.{source.setting_of(actor)}: {actor!r} is to act, and teachers.{actor}.kind={choice.kind} {what}; name a "
                    f"teacher that {'shares that of the student' if own else 'is one'}, or expert"
                )
            if actor in hints and hints[actor].hindsight:
                raise ConfigError(
                    f"objective.sources.{name}.{source.setting_of(actor)}: {actor!r} is to act, and teachers.{actor}.hint names "
                    f"{', '.join(sorted(hints[actor].hindsight))}, known only once an episode is over; let another act"
                )
            if ahead and choice is not None and traits_of(choice).initial and model_of(actor, choice) is None:
                raise ConfigError(
                    f"objective.sources.{name}.{source.setting_of(actor)}: {actor!r} is to act, and has the student's weights, which are trained "
                    f"meanwhile where rollout.mode.kind={config.rollout.mode.kind}; give teachers.{actor}.model, or set rollout.mode: sync"
                )
            # the hooks of weights that wait know of one reader at a time
            if ahead and choice is not None and choice.settings.get("offload"):
                raise ConfigError(
                    f"objective.sources.{name}.{source.setting_of(actor)}: {actor!r} is to act, and is read meanwhile where rollout.mode.kind="
                    f"{config.rollout.mode.kind}, which weights that wait elsewhere cannot be; leave teachers.{actor}.offload out, or set "
                    "rollout.mode: sync"
                )


def require_several(config: Config, several: str) -> None:
    """Raises ConfigError where ``several``, such as ``2 processes``, cannot each act by the student's engine."""
    if alone := config.rollout.made_engine.single:
        raise ConfigError(
            f"rollout.engine.kind={config.rollout.engine.kind}: {several} would each {alone}; choose kind: vllm, which starts a server for each"
        )


def learns_from_experts(config: Config) -> bool:
    """Whether the environments' own expert acts, or is asked about what the student did."""
    acts = any(source.needs_expert for source in config.objective.sources.values())
    if config.objective.learns_from_corrections and not may_correct(config):
        return True  # there, an expert is what is missing
    return acts or any(traits_of(choice).needs_expert for choice in used_teachers(config).values())


def without_experts(config: Config) -> list[str]:
    """The environments of ``config`` without an expert.

    Raises:
        ConfigError: One is not registered, or refuses its arguments.
        EnvError: One cannot be made.
    """
    limit, isolation = config.rollout.time_limit, config.rollout.isolation
    return [one.id for one in config.envs if not look_at(one, environments.has_expert, limit, isolation)]


def check_teachers(config: Config) -> None:
    """Raises ConfigError where the method lacks a teacher, or uses one that no stage fits, or not to its hint, or whose settings do not
    go together; or a stage lacks a hint.

    Hints are read, also those of teachers that the method does not use.
    """
    hints = hints_of(config)
    if any(stage is not None and stage.privileged for stage in (config.stages.teacher, config.stages.cold_start)):
        stage_hint(config)
    for name, hint in hints.items():
        with under(f"teachers.{name}"):
            Hindsight(hint).require_shown()
    for name, choice in used_teachers(config).items():
        check_fitted(config, name, choice, hinted=name in hints)


def check_fitted(config: Config, name: str, choice: Choice, hinted: bool) -> None:
    """Raises ConfigError where the weights of the teacher ``name`` are new, and no stage fits them, or not behind its hint."""
    fit = config.stages.teacher
    if is_new(choice) and fit is None:
        raise ConfigError(
            f"stages.teacher=null: the method uses teachers.{name}, whose weights are new, and nothing fits them, so it would "
            f"teach noise; add a stage, such as stages.teacher={{episodes: 1000, steps: 300}}, give teachers.{name}.model "
            "trained weights, or choose a method without this teacher, such as method=grpo"
        )
    if is_new(choice) and hinted and fit is not None and not fit.privileged:
        raise ConfigError(
            f"stages.teacher.privileged=0: teachers.{name} reads a hint, and its new weights would be fitted without ever seeing "
            "one; set stages.teacher.privileged, such as 0.5"
        )


STARTS = 4
"""Tasks of each environment that are started before a run."""


def check_prompts(
    config: Config, tokenizer: PreTrainedTokenizerBase, taught: bool = True, readers: Sequence[Reader] = ()
) -> Chat:
    """Starts every environment; returns how conversations are put to the tokenizer. Unless ``taught``, no teacher reads a hint.

    ``readers`` tells what reads the episodes, as :func:`check_models` does.

    Raises:
        ConfigError: A first prompt leaves no room for a turn; or a hint names what the environment does not tell, or is too long.
        EnvError: An environment can never be started.
    """
    chat, hints = config.chat(tokenizer), hints_of(config) if taught else {}
    if config.rollout.thinking_budget is not None:
        chat.budget((), config.rollout.thinking_budget)  # refuses a template without thinking
    for env in config.envs:
        stream = TaskStream([env], config.seed, "train")
        acting = {name: hint for name, hint in hints.items() if hint.shown_in(env.id)}
        there = [reader for reader in readers if reader.hint is None or reader.hint.shown_in(env.id)]
        check_first_prompts([stream[i] for i in range(STARTS)], chat, config.rollout, acting, there)
    return chat


def check_models(config: Config, tokenizer: PreTrainedTokenizerBase) -> list[Reader]:
    """Looks at the models that the run uses, without loading weights, and asks those elsewhere; what reads its episodes, behind which hints.

    Raises:
        ConfigError: One cannot be loaded, as far as that shows without its weights; or is shorter than an episode may get, or knows
            fewer token ids than the tokenizer makes; or a teacher reads other token ids than the student writes.
        TeacherError: A server does not answer.
    """
    models = {STUDENT: config.student} | {f"teachers.{name}": model for name, model in _local_teachers(config)}
    longest = {key: look_at_model(key, model, tokenizer, config.rollout.max_length) for key, model in models.items()}
    longest |= {f"teachers.{name}": read for name, read in _examined(config, tokenizer)}
    readers = [Reader(key, read) for key, read in longest.items()]
    for name, choice in used_teachers(config).items():
        if traits_of(choice).own_tokenizer:
            readers.append(check_other(name, choice, tokenizer))
    for name, hint in hints_of(config).items():
        own = f"teachers.{name}"
        key = own if own in longest else STUDENT
        readers.append(Reader(key, longest[key], "the teacher", name, hint))
    fitted = {"teacher": [key for key, model in models.items() if key != STUDENT and model.new is not None]}
    for what, keys in (fitted | {"cold_start": [STUDENT]}).items():
        stage: Fit | None = getattr(config.stages, what)
        if stage is not None and stage.privileged:
            name, hint = stage_hint(config)
            who = {key: f"{'the student' if key == STUDENT else key} in stages.{what}" for key in keys}
            readers += [Reader(key, longest[key], who[key], name, hint) for key in keys]
    return readers


def _examined(config: Config, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, int]]:
    """How many tokens teachers read that are no model in this process, held against ``rollout.max_length``; all kinds are examined."""
    for name, choice in used_teachers(config).items():
        longest = examined(name, choice, tokenizer, config.temperature)
        if longest is not None:
            check_length(f"teachers.{name}", longest, config.rollout.max_length)
            yield name, longest


def examined(name: str, choice: Choice, tokenizer: PreTrainedTokenizerBase, temperature: float) -> int | None:
    """Looks at the teacher ``name`` as its kind says that one is looked at; how many tokens it reads, where that is known.

    Raises:
        ConfigError: Something is wrong with it.
        TeacherError: A server does not answer.
    """
    examine = traits_of(choice).examine
    if examine is None:
        return None
    with under(f"teachers.{name}"):
        return examine(Examined(name, choice.settings, len(tokenizer), temperature, tokenizer))


def check_teacher(config: Config, name: str, choice: Choice, tokenizer: PreTrainedTokenizerBase) -> None:
    """Looks at one teacher by itself, whatever method asks it, without loading weights.

    Raises:
        ConfigError: As of :func:`check_teachers` and :func:`check_models`.
        TeacherError: A server does not answer.
    """
    check_fitted(config, name, choice, hinted=choice.settings.get("hint") is not None)
    traits = traits_of(choice)
    model = model_of(name, choice) if traits.model else None
    if traits.own_tokenizer:
        check_other(name, choice, tokenizer)
    elif model is not None:
        look_at_model(f"teachers.{name}", model, tokenizer)
    examined(name, choice, tokenizer, config.temperature)


def look_at_model(key: str, model: ModelConfig, tokenizer: PreTrainedTokenizerBase, max_length: int = 0) -> int | None:
    """How many tokens the model ``key`` reads, once it has been held against the student's tokenizer and ``max_length``.

    Raises:
        ConfigError: As of :func:`check_models`.
    """
    if key != STUDENT and model.model is not None:
        check_vocabulary(key, model.model, tokenizer, f"{key}.model")
    with under(key):
        outline = outline_of(model, tokenizer)
    _check_size(key, model, head_of(outline).weight_V_H.shape[0], len(tokenizer))
    longest = positions_of(outline.config)
    check_length(key, longest, max_length)
    return longest


def check_other(name: str, choice: Choice, student: PreTrainedTokenizerBase) -> Reader:
    """Holds a teacher with a tokenizer of its own against that, and sees whether its text can be laid beside the student's.

    Returns:
        The teacher as what reads episodes by a chat of its own.

    Raises:
        ConfigError: It does not fit, or it cannot.
    """
    model = model_of(name, choice)
    assert model is not None
    with under(f"teachers.{name}"):
        tokenizer = own_tokenizer(str(model.model), choice.settings.get("tokenizer"))
        chat = Chat(tokenizer, choice.settings.get("template_kwargs"), choice.settings.get("call_format"))
        for one in (student, tokenizer):
            TokenBytes(one)
        outline = outline_of(model, tokenizer)
    size = head_of(outline).weight_V_H.shape[0]
    if size < len(tokenizer):
        raise ConfigError(
            f"teachers.{name}.model={model.model!r}: the model knows {size} token ids, and its tokenizer makes {len(tokenizer)}; give the "
            f"model's own tokenizer, teachers.{name}.tokenizer"
        )
    return Reader(f"teachers.{name}", positions_of(outline.config), chat=chat)


def _check_size(key: str, model: ModelConfig, size: int, ids: int) -> None:
    if size < ids:
        whose, remedy = "the student's", "choose a model that shares the student's tokenizer"
        if key == STUDENT:
            whose, remedy = (
                "its",
                f"give the model's own tokenizer, or save it after model.resize_token_embeddings({ids})",
            )
        raise ConfigError(
            f"{key}.model={model.model!r}: the model knows {size} token ids, and {whose} tokenizer makes {ids}; {remedy}"
        )


def peft_config_of(lora: Lora) -> Any:
    """``lora`` as PEFT's own."""
    from peft import LoraConfig  # heavy, and only needed here

    modules = lora.target_modules
    plain = {**dict(lora), "target_modules": modules if isinstance(modules, str) else list(modules)}
    return LoraConfig(task_type="CAUSAL_LM", **plain)


def check_adapter(config: Config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Puts the adapter of ``train.lora`` around a student, both without weights.

    Raises:
        ConfigError: It does not fit, or is on the output head.
    """
    lora = config.train.lora
    if lora is None:
        return
    model = outline_of(config.student, tokenizer)
    key = f"train.lora.target_modules={lora.target_modules!r}"
    with warnings.catch_warnings(action="ignore"):  # what PEFT warns of is an error below, or told again in training
        wrapped = adapted(model, peft_config_of(lora), config.seed, key, weightless=True)
    try:
        head_of(wrapped)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error


def _local_teachers(config: Config) -> Iterator[tuple[str, ModelConfig]]:
    """Those that the method uses and that share the student's tokenizer, as model settings; each must name one model, used or not."""
    used = used_teachers(config)
    for name, choice in config.teachers.items():
        model = model_of(name, choice) if traits_of(choice).model else None
        if name in used and model is not None and not traits_of(choice).own_tokenizer:
            yield name, model


def check_length(key: str, longest: int | None, wanted: int) -> None:
    """Raises ConfigError where the model ``key`` reads fewer tokens than ``rollout.max_length``, ``wanted``."""
    if longest is not None and longest < wanted:
        raise too_short(key, longest, wanted)


def check_vocabulary(key: str, name: str, tokenizer: PreTrainedTokenizerBase, setting: str = "teacher_model") -> None:
    """A teacher's folder need not hold a tokenizer; where it does, every id must mean to it what it means to the student.

    Args:
        key: What the message calls the teacher.
        name: Its model.
        tokenizer: The student's.
        setting: What names the teacher's model.

    Raises:
        ConfigError: It does not.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not is_adapter(name) and not (folder / "tokenizer_config.json").exists():
        return
    with under(key):
        theirs = load_tokenizer(name).get_vocab()
    other = [token for token, i in tokenizer.get_vocab().items() if theirs.get(token) != i]
    if other:
        raise ConfigError(
            f"{key}: the tokenizer of {name!r} differs from the student's, for instance in {other[0]!r}; a teacher that is a model "
            f"must share the student's tokenizer, unless it is of kind cross_tokenizer, for methods such as gold and uld: set {setting} to a "
            "model of the student's tokenizer family, or choose a method that needs no such teacher, such as method=grpo, sft or dagger"
        )
