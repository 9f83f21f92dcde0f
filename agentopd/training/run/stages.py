"""The stages before training, each cached by the content of what decides it: a tokenizer, a fitted teacher, a cold start."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.adapters import is_wrapped, merged_copy
from agentopd.chat import Hint
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.config import Config, Fit, Stages, Train
from agentopd.config.shipped import load_recipe
from agentopd.errors import ConfigError, under
from agentopd.models import ModelConfig, load_model, load_tokenizer, new_model, positions_of
from agentopd.objective.spec import Objective
from agentopd.quantization import is_quantized
from agentopd.rollout import EnvConfig
from agentopd.rollout.looking import look_at
from agentopd.rollout.tasks import pinned
from agentopd.training.checks.roles import stage_hint
from agentopd.training.loop.arguments import arguments
from agentopd.training.loop.trainer import AgentOPDTrainer
from agentopd.training.run.cache import cached, place
from agentopd.training.run.callbacks import Progress
from agentopd.training.run.code import code_of
from agentopd.training.run.hinted import partly_hinted
from agentopd.training.run.traces import Say, corpus, traces
from agentopd.types import STUDENT, Trajectory

SEEDS = 1_000_003
"""How far apart runs whose models have a ``new.seed`` are, so that no other run's seed falls between."""


def tokenizer_of(config: Config, say: Say) -> PreTrainedTokenizerBase:
    """The student's tokenizer: its own, or for new weights one built from the environments' texts."""
    if config.student.new is None:
        with under(STUDENT):
            return load_tokenizer(str(config.student.model))
    size = config.student.new.vocab_size
    content = [_envs(config), size, config.seed, config.rollout.max_turns]

    def make(folder: Path) -> None:
        say("tokenizer: reading the environments' texts")
        build_tokenizer(corpus(config, say), size).save_pretrained(folder)

    return load_tokenizer(str(cached(config.stages.cache, "tokenizer", content, make, say)))


def student_of(config: Config, tokenizer: PreTrainedTokenizerBase, say: Say, fits: bool = True) -> PreTrainedModel:
    """The student at the start of training: loaded or new, after its cold start where there is one.

    Unless ``fits``, a stage that no run has made before is left out, and ``say`` is told.
    """
    stage = config.stages.cold_start
    with under(STUDENT):
        return _fitted(config, config.student, config.seed, stage, "cold start", tokenizer, say, fits)


def teacher_of(
    config: Config, wanted: ModelConfig, tokenizer: PreTrainedTokenizerBase, say: Say, fits: bool = True
) -> PreTrainedModel:
    """A local teacher: loaded; or new, and fitted on the experts' traces, all of its weights, where a stage does that.

    ``fits`` is as for :func:`student_of`.
    """
    config = config.model_copy(update={"train": config.train.model_copy(update={"lora": None})})
    stage = config.stages.teacher if wanted.new is not None else None
    own = SEEDS * wanted.new.seed if wanted.new is not None else 0
    config = config.model_copy(update={"seed": config.seed + own})  # it draws its traces in an order of its own
    seed = config.seed + 1  # so that it does not start as the student does
    return _fitted(config, wanted, seed, stage, "teacher", tokenizer, say, fits)


def _fitted(
    config: Config,
    wanted: ModelConfig,
    seed: int,
    stage: Fit | None,
    what: str,
    tokenizer: PreTrainedTokenizerBase,
    say: Say,
    fits: bool,
) -> PreTrainedModel:
    """The model that is ``wanted``, after its stage, from the cache where some run has made it before; before it, unless it ``fits``."""
    if stage is None:
        return fresh(wanted, tokenizer, seed)
    fitted_as = wanted if wanted.new is None else wanted.model_copy(update={"dtype": "float32"})
    known = wanted.model_dump(exclude={"offload"} if wanted.quantization else {"offload", "quantization"})
    content = [known, seed, *_decides_fit(config, stage, tokenizer)]

    name = what.replace(" ", "-")
    if not fits and not place(config.stages.cache, name, content).exists():
        say(f"{what}: no run has fitted it yet, so its weights are those from before the stage")
        return fresh(wanted, tokenizer, seed)

    def make(folder: Path) -> None:
        fit(config, stage, fresh(fitted_as, tokenizer, seed), tokenizer, say, what).save_pretrained(folder)

    folder = cached(config.stages.cache, name, content, make, say)
    return load_model(wanted.model_copy(update={"model": str(folder), "new": None}))


def fresh(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """The model that ``config`` names, before any stage."""
    if config.new is None:
        return load_model(config)
    return new_model(config.new, tokenizer, seed, config.dtype, config.attention)


def fit(
    config: Config, stage: Fit, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, say: Say, what: str
) -> PreTrainedModel:
    """Supervised fine-tuning of ``model`` in place, on the expert's traces: the recipe ``sft`` in the ordinary trainer.

    With ``train.lora`` an adapter is trained, and merged into the weights. Where these are in four bits, it is merged into what they were
    made of, and the sum is what is returned: packed anew, it keeps most of what was fitted, whereas weights that stand on the
    values of four bits already are rounded back to them.
    """
    chat = config.chat(tokenizer)
    played = traces(config, stage.episodes, chat, what, say)
    if stage.privileged:
        name, hint = stage_hint(config)
        with under(f"teachers.{name}"):
            played = partly_hinted(played, stage.privileged, chat, hint)
        _check_room(played, model, f"teachers.{name}.hint", what)
    train = Train(
        steps=stage.steps,
        tasks_per_step=min(stage.episodes_per_step, stage.episodes),
        learning_rate=stage.learning_rate,
        schedule="cosine",
        warmup_steps=max(1, stage.steps // 20),
        max_tokens=config.train.max_tokens,
        layout=config.train.layout,
        lora=config.train.lora,
        eval_every=0,
        save_every=0,
    )
    objective = Objective.model_validate(load_recipe("sft"))
    staged = config.model_copy(update={"objective": objective, "train": train, "teachers": {}, "stages": Stages()})
    say(f"{what}: {stage.steps} steps of supervised fine-tuning on {len(played)} traces of the expert")
    args = arguments(staged, None)
    trainer = AgentOPDTrainer(model, args, tokenizer, train_dataset=played, callbacks=[Progress(what)])
    trainer.train()
    if is_wrapped(trainer.student) and is_quantized(trainer.student):
        whole = ModelConfig(model=model.name_or_path, dtype=config.student.dtype, attention=config.student.attention)
        return merged_copy(trainer.student, load_model(whole))
    return trainer.merge()


def _check_room(played: Sequence[Trajectory], model: PreTrainedModel, key: str, what: str) -> None:
    """Raises ConfigError where a trace behind the hint ``key`` is longer than the model reads: the tasks looked at before were not."""
    longest, most = positions_of(model.config), max(len(one.tokens_T) for trace in played for one in trace.segments)
    if longest is not None and most > longest:
        raise ConfigError(
            f"{key}: behind it, a trace of the {what} has {most} tokens, and the model reads at most {longest}; shorten the hint, lower "
            f"rollout.max_length by {most - longest}, or choose a model with more positions"
        )


EPISODE = {"max_new_tokens", "max_length", "max_turns", "max_episode_tokens", "on_overflow", "temperature"}
"""The settings of ``rollout`` that decide an expert's trace, and (the temperature) the loss on it."""


def _decides_fit(config: Config, stage: Fit, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    """What decides the outcome of :func:`fit`, beside the weights it starts from; micro-batches by rounding alone."""
    tokens = [tokenizer.get_vocab(), tokenizer.chat_template, config.template_kwargs]
    tokens += [one for one in (config.call_format, config.past_thinking) if one not in (None, "template")]
    batches = [config.train.max_tokens, config.train.layout]
    lora = config.train.lora
    adapter = [] if lora is None else [lora.model_dump(), version("peft")]
    hint = _told(stage_hint(config)[1]) if stage.privileged else []
    return [
        *[_envs(config), stage.model_dump(), config.rollout.model_dump(include=EPISODE), tokens, batches],
        *adapter,
        *hint,
    ]


def _told(hint: Hint) -> list[Any]:
    more = [hint.place, hint.facts] if hint.place != "opening" or hint.facts else []
    return [hint.text, *([hint.envs] if hint.envs else []), *more]


def _envs(config: Config) -> list[Any]:
    """The environments as settings, as code and as data: one that is edited gets stages of its own."""
    limit, isolation = config.rollout.time_limit, config.rollout.isolation
    return [[_plain(env), look_at(env, code_of, limit, isolation)] for env in pinned(config.envs)]


def _plain(env: EnvConfig) -> dict[str, Any]:
    return env.model_dump(mode="json", exclude=set() if env.data else {"data"})
