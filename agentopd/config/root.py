"""The root of a configuration: frozen data, one key for each choice, and what must agree between its parts."""

import inspect
from typing import Annotated, Any

from pydantic import AfterValidator, field_validator, model_validator
from transformers import PreTrainedTokenizerBase

from agentopd.chat import Chat, PastThinking
from agentopd.chat.formats import CallFormat
from agentopd.cluster.settings import Cluster
from agentopd.config.asked import require_groups, require_statistics, require_teachers
from agentopd.config.drawn import require_drawn
from agentopd.config.placed import require_placed
from agentopd.config.recorded import require_earlier, require_recorded
from agentopd.config.sections import Evaluation, RecordSettings, Stages, Train
from agentopd.config.shares import apportion
from agentopd.config.sources import (
    require_actors,
    require_logits,
    require_rows,
    require_selections,
    require_shaped,
    require_somebody,
    require_students_turns,
    require_tasks,
)
from agentopd.config.watched import require_measured
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig
from agentopd.objective.advantages import OUTCOME
from agentopd.objective.spec import Objective
from agentopd.rollout.policy import Rollout
from agentopd.rollout.tasks import EnvConfig
from agentopd.settings.base import Seed, Settings
from agentopd.settings.choice import Choice, at
from agentopd.settings.clock import Clock
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, require_members, require_numbers, require_read
from agentopd.types import RECORDED, STUDENT


def _takes_context(teacher: Choice) -> Choice:
    signature = inspect.signature(teacher.function)
    try:
        signature.bind("context", **teacher.settings)
    except TypeError as error:
        raise ValueError(
            f"teacher {teacher.kind!r} takes {signature}: {error}; the shape is (context, *, setting: float = 1.0)"
        ) from None
    return teacher


class Config(Settings):
    """Everything that decides a run."""

    seed: Seed = 0
    """Of everything that is drawn in the run: tasks, actions, new weights, the order of traces."""
    envs: tuple[EnvConfig, ...]
    """Where the student acts."""
    student: ModelConfig
    """The model that is trained."""
    teachers: dict[str, Annotated[Choice, OneOf("teacher", TEACHERS), AfterValidator(_takes_context)]] = {}
    """Who annotates what the student did, by names of your choice."""
    template_kwargs: dict[str, Any] = {}
    """Settings that the chat template reads, such as ``enable_thinking``."""
    call_format: CallFormat | None = None
    """How calls are written, by its name; by default as the chat template writes them, or else in Hermes blocks."""
    past_thinking: PastThinking = "template"
    """Whether later prompts hold what was thought: as the template has it, ``kept`` (a template that does not is refused), or ``dropped``."""
    rollout: Rollout = Rollout()
    """How episodes are played."""
    objective: Objective = Objective()
    """What is learned from them: the method."""
    stages: Stages = Stages()
    """What is fitted before training."""
    train: Train = Train()
    """How the loss is minimised."""
    evaluation: Evaluation = Evaluation()
    """How success is measured."""
    records: RecordSettings = RecordSettings()
    """What is kept of every episode."""
    cluster: Cluster = Cluster()
    """What is placed on other machines."""

    @field_validator("envs")
    @classmethod
    def _some_env(cls, envs: tuple[EnvConfig, ...]) -> tuple[EnvConfig, ...]:
        if not envs:
            raise ValueError("give at least one environment, such as env: {id: agentopd/Calculator-v0}")
        return envs

    @field_validator("teachers")
    @classmethod
    def _no_teacher_has_a_name_that_means_something_else(cls, teachers: dict[str, Any]) -> dict[str, Any]:
        if STUDENT in teachers:
            raise ValueError(
                f"no teacher may be called {STUDENT!r}, which names the policy that is trained; choose another name (a teacher that is the "
                "student as it began is {kind: self})"
            )
        if RECORDED in teachers:
            raise ValueError(
                f"no teacher may be called {RECORDED!r}, which names whoever acted in records; choose another name"
            )
        if OUTCOME in teachers:
            raise ValueError(
                f"no teacher may be called {OUTCOME!r}, which names the episodes' own reward; choose another name"
            )
        taken = [name for name in teachers if name.startswith(("student_", "student@")) or name.endswith("_sampled")]
        if taken:
            raise ValueError(
                f"no teacher may be called {taken[0]!r}: panels have such names (student_before, student@8, teacher_sampled); choose another"
            )
        return teachers

    @model_validator(mode="after")
    def _teachers_give_what_is_asked(self) -> "Config":
        for name, teacher in self.teachers.items():
            require_numbers(name, teacher)
            require_read(name, teacher)
        require_members(self.teachers)
        require_teachers(self.objective, self.teachers)
        require_statistics(self.objective, self.teachers)
        require_groups(self.objective, self.teachers)
        require_recorded(self.objective, self.teachers)
        return self

    @model_validator(mode="after")
    def _somebody_acts(self) -> "Config":
        require_actors(self.objective, self.teachers)
        require_tasks(self.objective, self.tasks_at, self.train.steps)
        require_earlier(self.objective, self.records.keep)
        require_somebody(self.objective, self.train.steps)
        require_students_turns(self.objective, self.rollout.max_turns)
        require_logits(self.objective, self.rollout.engine)
        require_placed(self.cluster, self.objective, self.teachers)
        return self

    @model_validator(mode="after")
    def _terms_learn_from_what_is_drawn(self) -> "Config":
        require_selections(self.objective, self.teachers, self.envs)
        require_shaped(self.objective, self.teachers)
        require_rows(self.objective, self.teachers, self.rollout.max_turns)
        require_drawn(self.objective, self.rollout)
        return self

    @model_validator(mode="after")
    def _watched_metrics_exist(self) -> "Config":
        require_measured(self.objective, self.teachers)
        return self

    def chat(self, tokenizer: PreTrainedTokenizerBase) -> Chat:
        """How conversations are put to the student's tokenizer.

        Raises:
            ConfigError: The tokenizer's chat template cannot be used so.
        """
        return Chat(tokenizer, self.template_kwargs, self.call_format, self.past_thinking)

    def tasks_at(self, clock: Clock) -> dict[str, int]:
        """The tasks of each source in the step of ``clock``; they sum to ``train.tasks_per_step``.

        Raises:
            ConfigError: All shares are 0 then, or a schedule of one's own gives one below.
        """
        keys = {name: f"objective.sources.{name}.share" for name in self.objective.sources}
        shares = {name: float(at(self.objective.sources[name].share, clock, key)) for name, key in keys.items()}
        for name, share in shares.items():
            if share < 0 or not any(shares.values()):
                raise ConfigError(
                    f"{keys[name]}: {share:g} at step {clock.step}, and the shares are {shares}; none may be below 0, and one is above"
                )
        return apportion(self.train.tasks_per_step, shares)

    @property
    def temperature(self) -> float:
        """The temperature at which student and teacher are compared: that of the rollout, or 1 where it is greedy."""
        return self.rollout.temperature or 1.0
