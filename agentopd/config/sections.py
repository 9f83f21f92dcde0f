"""The sections of a configuration that no other room owns: stages, training, evaluation, records."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from agentopd.packing import Layout
from agentopd.rollout.policy import Temperature
from agentopd.settings.base import Seed, Settings
from agentopd.settings.problems import shown


class Fit(Settings):
    """A stage of supervised fine-tuning on the traces of the environments' own expert."""

    episodes: int = Field(256, ge=1)
    """How many traces there are."""
    steps: int = Field(100, ge=1)
    """Optimiser steps."""
    episodes_per_step: int = Field(32, ge=1)
    """Traces that a step learns from."""
    learning_rate: float = Field(2e-3, gt=0.0)
    """At its highest: it rises over a twentieth of the steps, then falls to 0 along a cosine."""
    privileged: float = Field(0.0, ge=0.0, le=1.0)
    """The share of the traces that are learned behind the privileged teacher's hint, so that the model can use what it is shown."""


class Stages(Settings):
    """What happens before training, each cached by the content of its configuration; ``null`` leaves a stage out."""

    teacher: Fit | None = None
    """Fits every local teacher whose weights are new."""
    cold_start: Fit | None = None
    """Fits the student."""
    cache: str = Field("~/.cache/agentopd", min_length=1)
    """The folder of cached stages."""


Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


def _layers(given: Any) -> Any:
    """Refuses what is neither form, as one problem rather than one for each form."""
    listed = isinstance(given, list | tuple) and all(isinstance(name, str) and name for name in given)
    if not given or not (listed or isinstance(given, str)):
        raise ValueError(
            f"expected all-linear, a list of the ends of layers' names, or a regular expression (got {shown(given)})"
        )
    return given


class Lora(Settings):
    """An adapter of low-rank matrices beside the weights (LoRA, arXiv 2106.09685), by the names of ``peft.LoraConfig``."""

    r: int = Field(32, ge=1, le=65536)
    """The rank."""
    lora_alpha: int = Field(64, ge=1)
    """The adapter counts ``lora_alpha / r``."""
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """On what the adapter reads, in the learner's forwards alone."""
    target_modules: Annotated[str | tuple[str, ...], BeforeValidator(_layers)] = "all-linear"
    """The layers beside which it stands: ``all-linear`` (never the output head), the ends of their names, or a regular expression."""


class Budget(Settings):
    """What training may take. It ends after the first step with which one of these is reached, or after ``train.steps``."""

    tokens: int | None = Field(None, ge=1)
    """Tokens that the student writes in episodes that are played."""
    seconds: float | None = Field(None, gt=0.0)
    """Of all steps, panels and checkpoints between them included, stages and the panels before and after training not."""

    @model_validator(mode="after")
    def _bounds_something(self) -> "Budget":
        if self.tokens is None and self.seconds is None:
            raise ValueError("give tokens, seconds or both; or null for no budget but train.steps")
        return self


class Train(Settings):
    """How the objective is optimised."""

    steps: int = Field(100, ge=1)
    """Optimiser steps, one global batch each."""
    budget: Budget | None = None
    """Ends training before ``steps``, which schedules go by all the same; ``null`` for no other end than ``steps``."""
    tasks_per_step: int = Field(32, ge=1)
    """Tasks in a global batch; each is played ``per_task`` times, as its source says."""
    learning_rate: float = Field(1e-5, gt=0.0)
    """At its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What becomes of it after the warm-up."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which it rises from 0."""
    optimizer: str = "adamw_torch"
    """Any ``optim`` of transformers' TrainingArguments."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Adam's two rates of forgetting."""
    weight_decay: float = Field(0.0, ge=0.0)
    """How much of each weight a step of the learning rate 1 takes off."""
    max_grad_norm: float = Field(1.0, gt=0.0)
    """Above this norm a gradient is scaled down to it."""
    max_tokens: int = Field(16384, ge=1)
    """Tokens in a micro-batch, padding included. It bounds memory and never changes the gradient."""
    layout: Layout = "padded"
    """``padded``: one sequence a row, filled up. ``packed``: sequences one behind the other in one row."""
    chunk_rows: int = Field(2048, ge=1)
    """Rows whose logits exist at the same time."""
    eval_every: int = Field(20, ge=0)
    """Steps between panels; 0 for none."""
    save_every: int = Field(20, ge=0)
    """Steps between checkpoints; 0 for the last step's only."""
    lora: Lora | None = None
    """Trains an adapter, here and in the cold start; ``null`` trains all weights."""
    sharded: bool = False
    """Whether several processes train the student in shards (FSDP2), rather than each a copy (DDP). A single one holds all there is."""
    profile: bool = False
    """Whether the run folder gets a trace of where time goes, for chrome://tracing and ui.perfetto.dev."""
    arguments: dict[str, Any] = {}
    """Further fields of transformers' TrainingArguments, such as ``report_to``."""


class Evaluation(Settings):
    """The fixed panel of held-out tasks."""

    tasks: int = Field(200, ge=1)
    """How many tasks the panel has."""
    seed: Seed = 0
    """Of the panel, apart from the run's own seed: runs with different seeds meet the same tasks."""
    temperature: Temperature = 0.0
    """At which actions are drawn, as ``rollout.temperature``; 0 takes the most likely token."""
    sampled: int = Field(0, ge=0)
    """How many tasks of the panel are played once more, actions drawn as in the rollout: by the student before and after training, and by
    every teacher that can act; 0 for none."""
    during: int = Field(64, ge=1)
    """How many validation tasks are played every ``train.eval_every`` steps; they are none of the panel's."""

    @model_validator(mode="after")
    def _sampled_tasks_are_of_the_panel(self) -> "Evaluation":
        if self.sampled > self.tasks:
            raise ValueError(
                f"sampled={self.sampled} is more than the panel's tasks={self.tasks}; lower it, or raise tasks"
            )
        return self


class RecordSettings(Settings):
    """What is kept of every step."""

    keep: bool = True
    """Whether records are written."""
    block: Literal["sampled", "sparse", "compact"] = "sampled"
    """What remains of a teacher's full distributions: the taken token's log-probability, the ``k`` most likely tokens, or these in fewer bytes,
    each less than 0.05 nats off where its probability is above 1e-4."""
    k: int = Field(32, ge=1)
    """How many tokens ``sparse`` and ``compact`` keep."""
    signals: bool = True
    """Whether each token's divergence, weight and entropy are kept as well."""
    student_k: int = Field(0, ge=0)
    """How many of the student's likeliest tokens ``signals`` hold of each token, as it was at the optimiser step."""

    @model_validator(mode="after")
    def _somebody_keeps_the_students_tokens(self) -> "RecordSettings":
        if self.student_k and not (self.keep and self.signals):
            raise ValueError(
                f"student_k={self.student_k}: signals hold these tokens, and none are kept; set keep: true and signals: true, or leave it out"
            )
        return self
