"""The mapping between our configuration and transformers' TrainingArguments: the one place that knows both."""

import os
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, cast, get_type_hints

import torch
from accelerate.state import AcceleratorState
from huggingface_hub import get_token
from pydantic import TypeAdapter, ValidationError
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from agentopd.config import Config, Train, changed, load_config
from agentopd.errors import ConfigError, describe
from agentopd.settings.problems import nearest
from agentopd.training.checks.checkpointed import KEY, checkpoints
from agentopd.training.checks.preflight import require_several
from agentopd.training.loop.ranks import joined

FIXED: dict[str, Any] = {
    "ignore_data_skip": True,  # or a resumed run would play every past episode again
    "logging_nan_inf_filter": False,  # it hides a loss that is not finite
    "remove_unused_columns": False,
    "auto_find_batch_size": False,  # train.max_tokens bounds memory; a retry would make recorded steps again
    "include_num_input_tokens_seen": "no",  # it reads batches that are mappings of tensors
    "dataloader_num_workers": 0,
    "save_only_model": False,  # a checkpoint without the river and the optimiser cannot be resumed
    "num_train_epochs": 1,
}
"""Arguments on which the trainer's correctness rests."""

UNREAD: dict[str, str] = {
    "per_device_train_batch_size": "a step is one global batch; set train.tasks_per_step, and train.max_tokens for the micro-batches",
    "gradient_accumulation_steps": "a step is one global batch, which is cut into micro-batches of train.max_tokens; set that",
    "per_device_eval_batch_size": "a panel plays rollout.concurrency episodes at once; set that",
    "label_smoothing_factor": "the method is the loss; set objective",
    "resume_from_checkpoint": "give it to trainer.train(resume_from_checkpoint=...), or resume a run by agentopd train --resume",
    "data_seed": "set seed, which decides what is drawn",
    "train_sampling_strategy": "tasks are drawn as envs.weight and objective.sources say; set those",
}
"""Arguments that nothing here reads, and what to set in the configuration, or to do, instead."""


DECISIVE = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "optim_target_modules",
    "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm", "bf16", "fp16", "neftune_noise_alpha",
)  # fmt: skip
"""Arguments with which a run must be resumed as it began; ``max_steps`` and ``seed`` are part of the configuration."""


@dataclass
class AgentOPDConfig(TrainingArguments):
    """TrainingArguments with one field more: the whole configuration of the run.

    What its ``train`` decides (steps, learning rate, schedule, betas, when to evaluate and to save, ...) and its seed are taken from it,
    unless they are given here.
    """

    _given = frozenset[str]()
    """Names of the arguments that were passed: a class attribute, not a field."""
    agentopd: Config | Mapping[str, Any] | str | Path | None = field(
        default=None, metadata={"help": "The configuration, or what agentopd.load_config takes."}
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Notes what is passed: a value may equal transformers' default and be meant."""
        made = super().__new__(cls)
        made._given = frozenset(kwargs) | {f.name for f, _ in zip(fields(cls), args, strict=False)}
        return made

    def __post_init__(self) -> None:
        if isinstance(self.agentopd, Mapping | str | Path):
            self.agentopd = load_config(self.agentopd)
        if not isinstance(self.agentopd, Config | None):
            raise ConfigError(
                f"agentopd is of type {type(self.agentopd).__name__}; give the configuration, such as "
                "agentopd.load_config('quickstart'), or what load_config takes"
            )
        if self.agentopd is not None:
            self._follow(self.agentopd)
        if self.metric_for_best_model is None and self.eval_strategy != "no":
            self.metric_for_best_model = "success"  # transformers would look for a loss, which a panel does not have
        for name, value in FIXED.items():
            if getattr(self, name) not in (value, getattr(TrainingArguments, name)):
                raise ConfigError(f"{name}={getattr(self, name)!r}: the trainer needs {value!r}; leave it out")
            setattr(self, name, value)
        self._require_read()
        if self.max_steps <= 0:
            raise ConfigError(f"max_steps={self.max_steps}: a run has no epochs; give the number of optimiser steps")
        self._join()
        super().__post_init__()  # type: ignore[no-untyped-call]
        _require_schedule(self)
        _require_checkpoints(self)

    def _join(self) -> None:
        """Meets the other processes of the run, where there are some."""
        _require_own_sharding(self)
        if joined().size > 1:
            self.use_cpu |= not torch.cuda.is_available()  # transformers looks for other processes on cards alone
            if self.ddp_find_unused_parameters is None:  # each micro-batch reaches every trainable parameter
                self.ddp_find_unused_parameters = False

    def _follow(self, config: Config) -> None:
        steps = self.max_steps if self.max_steps > 0 else config.train.steps
        for name, value in _decided(config.train, steps, config.seed).items():
            if name not in self._given:
                setattr(self, name, value)

    def _require_read(self) -> None:
        for name, instead in UNREAD.items():
            if (value := getattr(self, name)) != getattr(TrainingArguments, name):
                raise ConfigError(f"{name}={value!r}: the trainer does not read it; {instead}")
        if self.save_total_limit is not None and self.save_total_limit < 1:
            raise ConfigError(f"save_total_limit={self.save_total_limit}: give at least 1, or leave it out to keep all")
        if self.metric_for_best_model in ("loss", "eval_loss"):
            raise ConfigError(
                f"metric_for_best_model={self.metric_for_best_model!r}: a panel has no loss; leave it out, for the panel's success"
            )
        if isinstance(self.agentopd, Config) and self.seed != self.agentopd.seed:
            raise ConfigError(
                f"seed={self.seed}: a run follows the seed of its configuration, {self.agentopd.seed}; set that instead"
            )

    @property
    def n_gpu(self) -> int:
        """At most 1: DataParallel would scatter what is no plain batch of tensors."""
        return min(int(super().n_gpu), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for trackers and saved arguments."""
        config, self.agentopd = self.agentopd, None
        try:
            plain: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        finally:
            self.agentopd = config
        return plain | {"agentopd": config.model_dump(mode="json") if isinstance(config, Config) else None}


def arguments(config: Config, output: Path | None) -> AgentOPDConfig:
    """TrainingArguments for a run.

    Args:
        config: Its configuration.
        output: Where its checkpoints go: the best by panel, the last, and every ``train.save_every`` steps one to resume from.
            ``None`` for none.

    Raises:
        ConfigError: ``train.arguments`` names an unknown argument, or one that the configuration or the trainer decides; or a
            value is wrong; or several processes cannot do what it says.
    """
    train = config.train
    decided: dict[str, Any] = {
        # transformers makes this folder even where it saves nothing
        "output_dir": str(output or tempfile.gettempdir()),
        "save_strategy": "steps" if output else "no",
    }
    defaults: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_total_limit": 2}
    _require_own_engine(config)
    _require_cluster(config)
    _check(train.arguments, {*decided, *_decided(train, train.steps, config.seed)})
    try:
        made = AgentOPDConfig(agentopd=config, **(defaults | dict(train.arguments)), **decided)
        # what the Trainer reads only once it is built, or at its first step, after the stages
        _require_trackers(made)
        _require_hub(made, config)
        Trainer.get_optimizer_cls_and_kwargs(made)
        return made
    except ConfigError:
        raise
    except (ValueError, TypeError, ImportError) as error:  # for instance an optimizer that does not exist
        raise ConfigError(f"train: transformers' TrainingArguments refuses a value: {error}") from error


def _decided(train: Train, steps: int, seed: int) -> dict[str, Any]:
    """The arguments that a configuration decides, by transformers' names."""
    return {
        "max_steps": steps,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.schedule
        if train.warmup_steps == 0 or train.schedule != "constant"
        else "constant_with_warmup",
        "warmup_steps": train.warmup_steps,
        "optim": train.optimizer,
        "adam_beta1": train.betas[0],
        "adam_beta2": train.betas[1],
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "seed": seed,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "eval_strategy": "steps" if train.eval_every else "no",
        "eval_steps": train.eval_every or None,
        "save_strategy": "steps",
        "save_steps": train.save_every or steps,
        "metric_for_best_model": "success" if train.eval_every else None,
        "greater_is_better": True if train.eval_every else None,
    }


def settled(args: AgentOPDConfig) -> Config:
    """The configuration inside ``args``, with the number of steps that ``args`` decides: schedules read it.

    Raises:
        ConfigError: There is none, or it does not go with that number; or a tracker is not installed.
    """
    if not isinstance(args, AgentOPDConfig):
        raise ConfigError(
            f"args is {'None' if args is None else f'of type {type(args).__name__}'}; give agentopd.AgentOPDConfig(output_dir=..., "
            "agentopd=agentopd.load_config('quickstart')), which takes what TrainingArguments takes"
        )
    if not isinstance(args.agentopd, Config):
        raise ConfigError("args.agentopd is None; give the configuration, such as agentopd.load_config('quickstart')")
    _require_trackers(args, "report_to")
    _require_own_engine(args.agentopd)
    _require_cluster(args.agentopd)
    train = args.agentopd.train.model_copy(update={"steps": args.max_steps})
    return changed(args.agentopd, train=train)


def take_precision(args: TrainingArguments) -> None:
    """Has accelerate take the precision of ``args``: it keeps that of the first trainer of a process, such as a stage's, and refuses another."""
    wanted = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()


def decisive(args: TrainingArguments) -> dict[str, Any]:
    """Those of ``args`` that are :data:`DECISIVE`, as plain values."""
    plain = args.to_dict()  # type: ignore[no-untyped-call]
    return {name: plain[name] for name in DECISIVE}


def _require_own_sharding(args: AgentOPDConfig) -> None:
    """Raises ConfigError where another would shard the student, or keep it, in a way that rollouts and checkpoints do not know."""
    for name, given, variable in (
        ("fsdp", args.fsdp, "ACCELERATE_USE_FSDP"),
        ("deepspeed", args.deepspeed, "ACCELERATE_USE_DEEPSPEED"),
    ):
        asked = os.environ.get(variable, "false")
        if given or asked.lower() in ("true", "1"):
            key = f"{name}={given!r}" if given else f"{variable}={asked}"
            raise ConfigError(
                f"{key}: the trainer shards the student itself; leave it out, start accelerate without --use_{name}, and set "
                "train.sharded=true"
            )


def _require_own_engine(config: Config) -> None:
    """Raises ConfigError where the engine lacks what it needs, several processes or actors would act by one, or actors give back what nobody wants."""
    engine, actors = config.rollout.made_engine, config.cluster.rollout
    if joined().size > 1 or actors is not None:
        require_several(config, "the actors of cluster.rollout" if actors is not None else f"{joined().size} processes")
    if engine.rest is not None and actors is not None:
        raise ConfigError(
            "rollout.engine.sleep=true: nothing else is on the cards of the actors of cluster.rollout; leave it out, or leave cluster.rollout out"
        )
    if engine.missing:
        raise ConfigError(f"rollout.engine.kind={config.rollout.engine.kind}: {engine.missing}")


def _require_cluster(config: Config) -> None:
    """Raises ConfigError where there is no Ray for what is placed, or each process would begin one of its own."""
    places = config.cluster.places
    if places and joined().size > 1 and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(
            f"{next(iter(places))}: {joined().size} processes would each begin a Ray of their own; begin one by ray start --head, and set "
            "RAY_ADDRESS=auto"
        )
    config.cluster.check()


def _require_trackers(args: AgentOPDConfig, key: str = "train.arguments.report_to") -> None:
    """Makes the trackers' callbacks as the Trainer does: each says when it is made what is not installed."""
    try:
        for make in get_reporting_integration_callbacks(args.report_to):  # type: ignore[no-untyped-call]
            make()
    except Exception as error:  # packages of others, at import and at their set-up
        reason = describe(error).rstrip(".")
        raise ConfigError(
            f"{key}={args.report_to}: {reason}; install and set up what it needs, or leave it out"
        ) from error


def _require_hub(args: AgentOPDConfig, config: Config) -> None:
    """Where a run is pushed: to a name of its own, by somebody who may, and only what works on another machine."""
    if not args.push_to_hub:
        return
    key = "train.arguments.push_to_hub=True"
    if args.hub_model_id is None:
        raise ConfigError(f"{key}: give train.arguments.hub_model_id too, such as me/my-student")
    if get_token() is None:
        raise ConfigError(
            f"{key}: nobody is logged in to the hub; set HF_TOKEN or log in by hf auth login, or leave it out and push the model in "
            "RUN/student later"
        )
    if config.train.lora is not None and (config.stages.cold_start is not None or config.student.new is not None):
        raise ConfigError(
            f"{key}: with train.lora the adapter is pushed, and the weights it was trained beside are on this machine alone (they are "
            "new, or after stages.cold_start); leave it out, and push the merged model in RUN/student when the run has finished, by "
            "AutoModelForCausalLM.from_pretrained('RUN/student').push_to_hub('NAME')"
        )


def _require_schedule(args: AgentOPDConfig) -> None:
    """Makes the schedule once: transformers makes it at the first step, and drops what the constant ones do not take."""
    kind, given = SchedulerType(args.lr_scheduler_type), cast(dict[str, Any] | None, args.lr_scheduler_kwargs)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    try:
        if given and kind in (SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP):
            raise TypeError("a constant schedule takes none")
        get_scheduler(kind, optimizer, args.get_warmup_steps(args.max_steps), args.max_steps, given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"lr_scheduler_kwargs={given!r}: not for the schedule {kind.value!r}: {error}; give it what it takes, or choose another "
            "schedule (train.schedule, or lr_scheduler_type in Python)"
        ) from error


def _require_checkpoints(args: AgentOPDConfig) -> None:
    """Raises ConfigError where what is said of checkpointed layers cannot be done, here or anywhere."""
    found = checkpoints({name: getattr(args, name) for name in ("gradient_checkpointing", KEY)})
    if found is not None and found.offload and torch.accelerator.current_accelerator() is None:
        raise ConfigError(
            f"{KEY}.offload=True: there is no card here from which anything could go to the host's memory; leave it out"
        )


def _check(given: dict[str, Any], decided: Set[str]) -> None:
    known = {f.name for f in fields(TrainingArguments) if f.init}
    types = get_type_hints(TrainingArguments)
    for name, value in given.items():
        if name == "hub_token":
            raise ConfigError(
                "train.arguments.hub_token: a configuration is kept in the run folder, where everyone reads it; leave it out, and "
                "set the environment variable HF_TOKEN or log in by hf auth login"
            )
        if name in FIXED:
            raise ConfigError(f"train.arguments.{name}: the trainer needs {FIXED[name]!r}; leave it out")
        if name in decided:
            raise ConfigError(
                f"train.arguments.{name}: this is decided elsewhere; set the key of train that it belongs to"
            )
        if name not in known:
            raise ConfigError(f"train.arguments.{name}: TrainingArguments has no such field{nearest(name, known)}")
        try:  # a dataclass takes anything, and fails where the value is read
            TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            [first, *_] = error.errors()
            raise ConfigError(f"train.arguments.{name}: {first['msg']} (got {value!r})") from None
