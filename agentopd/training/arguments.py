"""The mapping between our configuration and transformers' TrainingArguments: the one place that knows both."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from agentopd.choice import nearest
from agentopd.config import Config
from agentopd.errors import ConfigError

FIXED: dict[str, Any] = {
    "gradient_accumulation_steps": 1,  # a step is one global batch, cut by the trainer itself
    "ignore_data_skip": True,  # or a resumed run would play every past episode again
    "logging_nan_inf_filter": False,  # it hides a loss that is not finite
    "remove_unused_columns": False,
    "dataloader_num_workers": 0,
    "num_train_epochs": 1,
}
"""Arguments on which the trainer's correctness rests."""


@dataclass
class AgentOPDConfig(TrainingArguments):
    """TrainingArguments with one field more: the whole configuration of the run."""

    agentopd: Config | None = field(default=None, metadata={"help": "The configuration: see agentopd.load_config."})

    def __post_init__(self) -> None:
        for name, value in FIXED.items():
            setattr(self, name, value)
        if self.max_steps <= 0:
            raise ConfigError(f"max_steps={self.max_steps}: a run has no epochs; give the number of optimiser steps")
        super().__post_init__()  # type: ignore[no-untyped-call]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for trackers and saved arguments."""
        config, self.agentopd = self.agentopd, None
        try:
            plain: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        finally:
            self.agentopd = config
        return plain | {"agentopd": None if config is None else config.model_dump(mode="json")}


def arguments(config: Config, output: Path) -> AgentOPDConfig:
    """TrainingArguments for a run whose checkpoints go to ``output``.

    Raises:
        ConfigError: ``train.arguments`` names an unknown argument, or one that the configuration or the trainer decides; or a
            value is wrong.
    """
    train = config.train
    decided: dict[str, Any] = {
        "output_dir": str(output),
        "max_steps": train.steps,
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
        "seed": config.seed,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "eval_strategy": "steps" if train.eval_every else "no",
        "eval_steps": train.eval_every or None,
        "save_strategy": "steps" if train.save_every else "no",
        "save_steps": train.save_every or 500,
        "metric_for_best_model": "success" if train.eval_every else None,
        "greater_is_better": True if train.eval_every else None,
    }
    defaults: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "save_total_limit": 2}
    _check(train.arguments, {**decided, **FIXED})
    try:
        return AgentOPDConfig(agentopd=config, **(defaults | dict(train.arguments)), **decided)
    except (ValueError, TypeError, ImportError) as error:  # for instance an optimizer that does not exist
        raise ConfigError(f"train: transformers' TrainingArguments refuses a value: {error}") from error


def settled(args: AgentOPDConfig) -> Config:
    """The configuration inside ``args``, with the number of steps that ``args`` decides: schedules read it.

    Raises:
        ConfigError: There is none.
    """
    if args.agentopd is None:
        raise ConfigError("args.agentopd is None; give the configuration, such as agentopd.load_config('quickstart')")
    train = args.agentopd.train.model_copy(update={"steps": args.max_steps})
    return args.agentopd.model_copy(update={"train": train})


def _check(given: dict[str, Any], decided: dict[str, Any]) -> None:
    known = {f.name for f in fields(TrainingArguments) if f.init}
    for name in given:
        if name in decided:
            raise ConfigError(
                f"train.arguments.{name}: this is decided elsewhere; set the key of train that it belongs to"
            )
        if name not in known:
            raise ConfigError(f"train.arguments.{name}: TrainingArguments has no such field{nearest(name, known)}")
