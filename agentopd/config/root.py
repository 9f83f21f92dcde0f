"""The root of a configuration: frozen data, one key for each choice, and what must agree between its parts."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, field_validator, model_validator

from agentopd.acting import Blended
from agentopd.config.sections import Evaluation, RecordSettings, Seed, Stages, Train
from agentopd.config.shares import apportion
from agentopd.models import ModelConfig
from agentopd.objective.signals import LOSSES, loss_of
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.objective.weights import reads_played
from agentopd.rollout.policy import Rollout
from agentopd.rollout.tasks import EnvConfig
from agentopd.settings.choice import Choice, Clock, OneOf, Settings, at, choices_in, numbers_of
from agentopd.settings.problems import nearest
from agentopd.teachers import TEACHERS, require_members, require_numbers
from agentopd.types import CORRECTED, EXPERT, STUDENT
from agentopd.where import Where


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
    envs: tuple[EnvConfig, ...]
    student: ModelConfig
    teachers: dict[str, Annotated[Choice, OneOf("teacher", TEACHERS), AfterValidator(_takes_context)]] = {}
    template_kwargs: dict[str, Any] = {}
    """Settings that the chat template reads, such as ``enable_thinking``."""
    rollout: Rollout = Rollout()
    objective: Objective = Objective()
    stages: Stages = Stages()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    records: RecordSettings = RecordSettings()

    @field_validator("envs")
    @classmethod
    def _some_env(cls, envs: tuple[EnvConfig, ...]) -> tuple[EnvConfig, ...]:
        if not envs:
            raise ValueError("give at least one environment, such as env: {id: agentopd/Calculator-v0}")
        return envs

    @field_validator("teachers")
    @classmethod
    def _no_teacher_is_the_student(cls, teachers: dict[str, Any]) -> dict[str, Any]:
        if STUDENT in teachers:
            raise ValueError(
                f"no teacher may be called {STUDENT!r}, which names the policy that is trained; choose another name (a teacher that is the "
                "student as it began is {kind: self})"
            )
        taken = [name for name in teachers if name.startswith(("student_", "student@")) or name.endswith("_sampled")]
        if taken:
            raise ValueError(
                f"no teacher may be called {taken[0]!r}: panels have such names (student_before, student@8, teacher_sampled); choose another"
            )
        return teachers

    @model_validator(mode="after")
    def _teachers_exist(self) -> "Config":
        for name in sorted(self.objective.teachers() - set(self.teachers)):
            known = ", ".join(self.teachers) or "none"
            add = "the live student is no teacher: name one" if name == STUDENT else f"add teachers.{name}"
            raise ValueError(
                f"objective: a term names the teacher {name!r}{nearest(name, self.teachers)}, and teachers has: {known}; "
                f"{add}, or set the term's target.name"
            )
        return self

    @model_validator(mode="after")
    def _actors_exist(self) -> "Config":
        known = list(dict.fromkeys([STUDENT, EXPERT, *self.teachers]))
        for name, source in self.objective.sources.items():
            for actor in source.who:
                key = "actors" if actor in source.actors else "acting.by"
                _require_known(f"objective.sources.{name}.{key}: nobody is called", actor, known)
        return self

    @model_validator(mode="after")
    def _student_acts_after_a_prefix(self) -> "Config":
        for name, source in self.objective.sources.items():
            if source.acting.kind != "prefix":
                continue
            turns, from_end = source.acting.settings["turns"], source.acting.settings["counted_from"] == "end"
            numbers = numbers_of(turns)
            limit = min(
                [self.rollout.max_turns, *(numbers_of(source.max_turns) if source.max_turns is not None else [])]
            )
            said = f"objective.sources.{name}.acting.turns"
            if numbers and from_end and max(numbers) < 1:
                raise ValueError(
                    f"{said}={max(numbers):g}: all but so many turns of the expert's episode leave the student none; set it to 1 or more"
                )
            if numbers and not from_end and min(numbers) >= limit:
                raise ValueError(
                    f"{said}={min(numbers):g}: an episode has at most {limit:g} turns, so the student would never act; lower it, or raise "
                    "max_turns of the rollout and the source"
                )
        return self

    @model_validator(mode="after")
    def _selections_can_match(self) -> "Config":
        known = {
            "actor": [STUDENT, EXPERT, *self.teachers],
            "source": [*self.objective.sources, CORRECTED],
            "env": [env.id for env in self.envs],
        }
        wheres: dict[str, Any] = {self.objective.key(i): term.where for i, term in enumerate(self.objective.terms)}
        wheres |= {f"teachers.{name}": teacher.settings.get("where") for name, teacher in self.teachers.items()}
        for place, where in wheres.items():
            for key, names in known.items() if isinstance(where, Where) else ():
                for name in getattr(where, key):
                    _require_known(f"{place}.where.{key}: there is no", name, names)
        return self

    @model_validator(mode="after")
    def _teachers_take_no_schedules(self) -> "Config":
        for name, teacher in self.teachers.items():
            require_numbers(name, teacher)
        return self

    @model_validator(mode="after")
    def _teachers_read_models(self) -> "Config":
        require_members(self.teachers)
        return self

    @model_validator(mode="after")
    def _every_source_has_tasks(self) -> "Config":
        if not self.objective.sources:
            raise ValueError("objective.sources: there is none, so nothing would be drawn; give one, such as fresh: {}")
        tasks = self.tasks_by_source
        for name, count in tasks.items():
            if count == 0:
                raise ValueError(
                    f"objective.sources.{name}.share: {self.objective.sources[name].share:g} comes to none of the "
                    f"train.tasks_per_step={self.train.tasks_per_step} tasks of a step, shared as {tasks}; raise either, or leave "
                    "the source out"
                )
        return self

    @model_validator(mode="after")
    def _somebody_acts_at_every_step(self) -> "Config":
        for name, source in self.objective.sources.items():
            shares = source.actors.values()
            if not all(map(numbers_of, shares)) or not any(isinstance(share, Choice) for share in shares):
                continue  # a schedule of one's own reads what is not known yet; numbers have been looked at
            for step in range(self.train.steps):
                clock = Clock(step, self.train.steps)
                if not any(at(share, clock, actor) for actor, share in source.actors.items()):
                    raise ValueError(
                        f"objective.sources.{name}.actors: at step {step} all shares are 0, so nobody would act; keep one above 0"
                    )
        return self

    @model_validator(mode="after")
    def _ratios_are_exact(self) -> "Config":
        rollout = self.rollout
        ratios = any(term.estimator.settings.get("importance", "none") != "none" for term in self.objective.terms)
        if ratios and (rollout.top_p < 1.0 or rollout.top_k > 0 or rollout.temperature == 0.0):
            raise ValueError(
                f"objective: an importance ratio needs the whole distribution that was sampled from, and rollout has "
                f"top_p={rollout.top_p}, top_k={rollout.top_k}, temperature={rollout.temperature}; set top_p=1, top_k=0 and a "
                "temperature above 0, or estimator.importance: none"
            )
        return self

    @model_validator(mode="after")
    def _scores_are_exact(self) -> "Config":
        rollout, whole = self.rollout, self.rollout.top_p == 1.0 and self.rollout.top_k == 0
        for i, term in enumerate(self.objective.terms):
            settings, reads = term.estimator.settings, term.scored and term.distributional
            if not reads or settings.get("logprobs", "behaviour") != "behaviour":
                continue
            key = f"{self.objective.key(i)}.estimator"
            if not whole or rollout.temperature == 0.0:
                raise ValueError(
                    f"{key}: its reward log q - log p takes p from the rollout, which has top_p={rollout.top_p}, "
                    f"top_k={rollout.top_k}, temperature={rollout.temperature}: that is not the student's own distribution; set "
                    f"top_p=1, top_k=0 and a temperature above 0, or {key}.logprobs: recomputed"
                )
            if mixed := self._mixed(term.where):
                raise ValueError(
                    f"{key}: its reward log q - log p takes p from the rollout, and tokens of the source {mixed[0]!r} are drawn from a "
                    f"mixture; set {key}.logprobs: recomputed"
                )
            if others := self._shown_beside_student(term.where):
                why = "the expert, which nobody sampled" if EXPERT in others else f"{others[0]}, whose own p is kept"
                raise ValueError(
                    f"{key}: its reward log q - log p has no p for actions of {why}; set {self.objective.key(i)}.where.actor, such as "
                    f"[student], or {key}.logprobs: recomputed"
                )
        return self

    @model_validator(mode="after")
    def _watched_losses_exist(self) -> "Config":
        """Of the metrics that schedules watch; others are known only once they are measured."""
        named = zip(self.objective.names, self.objective.terms, strict=True)
        losses = {f"train/{name}/{loss_of(term)}" for name, term in named}
        watched = {choice.settings.get("metric") for choice in choices_in(self) if hasattr(choice.function, "advance")}
        for metric in sorted(name for name in watched if isinstance(name, str)):
            if metric.startswith("train/") and metric.endswith(LOSSES) and metric not in losses:
                raise ValueError(
                    f"objective: a schedule has metric={metric}, and no term has that loss{nearest(metric, losses)}; there are: "
                    f"{', '.join(sorted(losses))}"
                )
        return self

    @model_validator(mode="after")
    def _weights_are_exact(self) -> "Config":
        rollout = self.rollout
        whole = rollout.top_p == 1.0 and rollout.top_k == 0 and rollout.temperature > 0.0
        for i, term in enumerate(self.objective.terms):
            for weight in filter(reads_played, term.weight):
                key = f"{self.objective.key(i)}.weight.kind={weight.kind}"
                remedy = ", or its logprobs: recomputed" if "logprobs" in weight.settings else ""
                if not whole:
                    raise ValueError(
                        f"{key}: it takes the student's p from the rollout, which has top_p={rollout.top_p}, top_k={rollout.top_k}, "
                        f"temperature={rollout.temperature}: that is not the student's own distribution; set top_p=1, top_k=0 and a "
                        f"temperature above 0{remedy}"
                    )
                if remedy and (mixed := self._mixed(term.where)):
                    raise ValueError(
                        f"{key}: it takes the student's p from the rollout, and tokens of the source {mixed[0]!r} are drawn from a "
                        f"mixture; set its logprobs: recomputed"
                    )
                if remedy and (others := self._shown_beside_student(term.where)):
                    raise ValueError(
                        f"{key}: the log-probabilities kept of actions of {others[0]} are not the student's; set "
                        f"{self.objective.key(i)}.where.actor, such as [student]{remedy}"
                    )
        return self

    def _read(self, where: Where) -> dict[str, Source]:
        """The sources of which ``where`` may select turns."""
        sources = self.objective.sources.items()
        return {name: source for name, source in sources if not where.source or name in where.source}

    def _mixed(self, where: Where) -> list[str]:
        """Sources that ``where`` may select in which the student's tokens are drawn from a mixture."""
        return [n for n, one in self._read(where).items() if isinstance(one.acts(Clock(0, 1)).mixing, Blended)]

    def _shown_beside_student(self, where: Where) -> list[str]:
        """Those but the student who act in turns that ``where`` may select."""
        acting = {actor for source in self._read(where).values() for actor in source.who}
        return sorted(a for a in acting - {STUDENT} if not where.actor or a in where.actor)

    @property
    def tasks_by_source(self) -> dict[str, int]:
        """The tasks of each source in a step, the same at every step; they sum to ``train.tasks_per_step``."""
        shares = {name: source.share for name, source in self.objective.sources.items()}
        return apportion(self.train.tasks_per_step, shares)

    @property
    def temperature(self) -> float:
        """The temperature at which student and teacher are compared: that of the rollout, or 1 where it is greedy."""
        return self.rollout.temperature or 1.0


def _require_known(said: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{said} {name!r}{nearest(name, known)}; there are: {', '.join(dict.fromkeys(known))}")
