"""The stages before training, each cached by the content of what decides it: a tokenizer, a fitted teacher, a cold start."""

import hashlib
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.chat import Chat
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.config import Config, Fit, Stages, Train
from agentopd.config.shipped import load_recipe
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, NewModel, load_model, load_tokenizer, new_model
from agentopd.objective.spec import Objective
from agentopd.rollout.looking import look_at
from agentopd.training.arguments import arguments
from agentopd.training.callbacks import Progress
from agentopd.training.traces import Say, corpus, traces
from agentopd.training.trainer import AgentOPDTrainer


def cached(config: Config, name: str, content: Any, make: Callable[[Path], None], say: Say) -> Path:
    """The folder of a stage's result, made if no run with the same ``content`` has made it before."""
    versions = {package: version(package) for package in ("agentopd", "torch", "transformers")}
    digest = hashlib.sha256(json.dumps([content, versions], sort_keys=True, default=str).encode()).hexdigest()[:16]
    folder = Path(config.stages.cache).expanduser() / f"{name}-{digest}"
    if folder.exists():
        say(f"{name}: taken from {folder}")
        return folder
    with _aside(folder.parent) as aside:
        make(aside)
        if not folder.exists():  # another run may have been quicker
            aside.replace(folder)
    return folder


@contextmanager
def _aside(cache: Path) -> Iterator[Path]:
    """A folder of this process alone, so that two runs may make the same stage at once; it is gone afterwards."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix="making-", dir=cache))
    except OSError as error:
        raise ConfigError(f"stages.cache: {cache} cannot be written: {error.strerror}") from None
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def tokenizer_of(config: Config, say: Say) -> PreTrainedTokenizerBase:
    """The student's tokenizer: its own, or for new weights one built from the environments' texts."""
    if config.student.new is None:
        return load_tokenizer(str(config.student.model))
    size = config.student.new.vocab_size
    content = [_envs(config), size, config.seed, config.rollout.max_turns]

    def make(folder: Path) -> None:
        say("tokenizer: reading the environments' texts")
        build_tokenizer(corpus(config, say), size).save_pretrained(folder)

    return load_tokenizer(str(cached(config, "tokenizer", content, make, say)))


def student_of(config: Config, tokenizer: PreTrainedTokenizerBase, say: Say) -> PreTrainedModel:
    """The student at the start of training: loaded or new, after its cold start where there is one."""
    fit_settings = config.stages.cold_start
    if fit_settings is None:
        return fresh(config.student, tokenizer, config.seed)
    content = [config.student.model_dump(), config.seed, *_decides_fit(config, fit_settings, tokenizer)]

    def make(folder: Path) -> None:
        model = fresh(config.student, tokenizer, config.seed)
        fit(config, fit_settings, model, tokenizer, say, "cold start")
        model.save_pretrained(folder)

    return load_model(ModelConfig(model=str(cached(config, "cold-start", content, make, say))))


def teacher_of(config: Config, tokenizer: PreTrainedTokenizerBase, new: NewModel, say: Say) -> PreTrainedModel:
    """A local teacher with new weights, fitted on the expert's traces."""
    fit_settings = config.stages.teacher
    seed = config.seed + 1  # so that it does not start as the student does
    if fit_settings is None:
        return new_model(new, tokenizer, seed)
    content = [new.model_dump(), seed, *_decides_fit(config, fit_settings, tokenizer)]

    def make(folder: Path) -> None:
        model = new_model(new, tokenizer, seed)
        fit(config, fit_settings, model, tokenizer, say, "teacher")
        model.save_pretrained(folder)

    return load_model(ModelConfig(model=str(cached(config, "teacher", content, make, say))))


def fresh(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model that ``config`` names, before any stage."""
    return load_model(config) if config.new is None else new_model(config.new, tokenizer, seed)


def fit(
    config: Config, stage: Fit, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, say: Say, what: str
) -> None:
    """Supervised fine-tuning of ``model`` in place, on the expert's traces: the recipe ``sft`` in the ordinary trainer."""
    played = traces(config, stage.episodes, Chat(tokenizer, config.template_kwargs), what, say)
    train = Train(
        steps=stage.steps,
        tasks_per_step=min(stage.episodes_per_step, stage.episodes),
        learning_rate=stage.learning_rate,
        schedule="cosine",
        warmup_steps=max(1, stage.steps // 20),
        max_tokens=config.train.max_tokens,
        layout=config.train.layout,
        eval_every=0,
        save_every=0,
    )
    objective = Objective.model_validate(load_recipe("sft"))
    staged = config.model_copy(update={"objective": objective, "train": train, "teachers": {}, "stages": Stages()})
    say(f"{what}: {stage.steps} steps of supervised fine-tuning on {len(played)} traces of the expert")
    args = arguments(staged, None)
    AgentOPDTrainer(model, args, tokenizer, train_dataset=played, callbacks=[Progress(what)]).train()


EPISODE = {"max_new_tokens", "max_length", "max_turns", "on_overflow", "temperature"}
"""The settings of ``rollout`` that decide an expert's trace, and (the temperature) the loss on it."""


def _decides_fit(config: Config, stage: Fit, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What decides the outcome of :func:`fit`, beside the weights it starts from; micro-batches by rounding alone."""
    tokens = [tokenizer.get_vocab(), tokenizer.chat_template, config.template_kwargs]
    batches = [config.train.max_tokens, config.train.layout]
    return [_envs(config), stage.model_dump(), config.rollout.model_dump(include=EPISODE), tokens, batches]


def _envs(config: Config) -> list[Any]:
    """The environments as settings and as code: one that is edited gets stages of its own."""
    limit = config.rollout.time_limit
    return [[env.model_dump(mode="json"), look_at(env, _source, limit)] for env in config.envs]


def _source(env: gymnasium.Env[Any, Any]) -> str:
    """The file that defines an environment; empty where there is none, as in an interactive session."""
    try:
        return inspect.getsource(sys.modules[type(env.unwrapped).__module__])
    except (OSError, TypeError):
        return ""
