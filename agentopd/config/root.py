"""The configuration of a run: frozen data, one key for each choice.

A file is YAML; ``a.b=value`` overrides come after it, in order. Two keys are short forms: ``env`` for one entry of ``envs``, and
``teacher`` for the teacher of that name in ``teachers``.

``method`` (a recipe's name, a path, or the recipe itself) is what ``objective`` starts from: the keys of ``objective`` that a file
has replace those of its method, and every ``objective.x=value`` goes on top, wherever on the command line it stands. An override
``method=`` replaces the file's method and the file's ``objective``, which belonged to it, and no other override.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from agentopd.config.overrides import apply
from agentopd.config.shares import apportion
from agentopd.config.shipped import find, load_recipe, load_yaml, parse, recipes, write
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig
from agentopd.objective.rows import CORRECTED
from agentopd.objective.spec import TERM_PARTS, Objective
from agentopd.rollout.policy import EXPERT, Rollout
from agentopd.rollout.tasks import EnvConfig
from agentopd.settings.choice import Choice, OneOf, Settings
from agentopd.settings.problems import Location, explain, nearest, shown
from agentopd.teachers import TEACHERS

STUDENT = "student"
"""The name of the student among those who act."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy takes for a seed."""


def _takes_context(teacher: Choice) -> Choice:
    signature = inspect.signature(teacher.function)
    try:
        signature.bind("context", **teacher.settings)
    except TypeError as error:
        raise ValueError(
            f"teacher {teacher.kind!r} takes {signature}: {error}; the shape is (context, *, setting: float = 1.0)"
        ) from None
    return teacher


class Fit(Settings):
    """A stage of supervised fine-tuning on the traces of the environments' own expert."""

    episodes: int = Field(256, ge=1)
    """How many traces there are."""
    steps: int = Field(100, ge=1)
    """Optimiser steps."""
    episodes_per_step: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0.0)


class Stages(Settings):
    """What happens before training, each cached by the content of its configuration; ``null`` leaves a stage out."""

    teacher: Fit | None = None
    """Fits every local teacher whose weights are new."""
    cold_start: Fit | None = None
    """Fits the student."""
    cache: str = Field("~/.cache/agentopd", min_length=1)
    """The folder of cached stages."""


Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class Train(Settings):
    """How the objective is optimised."""

    steps: int = Field(100, ge=1)
    """Optimiser steps, one global batch each."""
    tasks_per_step: int = Field(32, ge=1)
    """Tasks in a global batch; each is played ``per_task`` times, as its source says."""
    learning_rate: float = Field(1e-5, gt=0.0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    optimizer: str = "adamw_torch"
    """Any ``optim`` of transformers' TrainingArguments."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0.0)
    max_grad_norm: float = Field(1.0, gt=0.0)
    max_tokens: int = Field(16384, ge=1)
    """Tokens in a micro-batch, padding included. It bounds memory and never changes the gradient."""
    layout: Literal["padded", "packed"] = "padded"
    chunk_rows: int = Field(2048, ge=1)
    """Rows whose logits exist at the same time."""
    eval_every: int = Field(20, ge=0)
    """Steps between panels; 0 for none."""
    save_every: int = Field(20, ge=0)
    """Steps between checkpoints; 0 for the last step's only."""
    arguments: dict[str, Any] = {}
    """Further fields of transformers' TrainingArguments, such as ``report_to``."""


class Evaluation(Settings):
    """The fixed panel of held-out tasks."""

    tasks: int = Field(200, ge=1)
    seed: Seed = 0
    """Of the panel, apart from the run's own seed: runs with different seeds meet the same tasks."""
    temperature: float = Field(0.0, ge=0.0)
    during: int = Field(64, ge=1)
    """How many validation tasks are played every ``train.eval_every`` steps; they are none of the panel's."""


class RecordSettings(Settings):
    """What is kept of every step."""

    keep: bool = True
    block: Literal["sampled", "sparse"] = "sampled"
    """What remains of a teacher's full distributions: the taken token's log-probability, or the ``k`` most likely tokens."""
    k: int = Field(32, ge=1)
    signals: bool = True
    """Whether each token's divergence, weight and entropy are kept as well."""


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

    @model_validator(mode="after")
    def _teachers_exist(self) -> "Config":
        for name in sorted(self.objective.teachers() - set(self.teachers)):
            known = ", ".join(self.teachers) or "none"
            raise ValueError(
                f"objective: a term names the teacher {name!r}{nearest(name, self.teachers)}, and teachers has: {known}; "
                f"add teachers.{name}, or set the term's target.name"
            )
        return self

    @model_validator(mode="after")
    def _actors_exist(self) -> "Config":
        known = list(dict.fromkeys([STUDENT, EXPERT, *self.teachers]))
        for name, source in self.objective.sources.items():
            for actor in source.actors:
                _require_known(f"objective.sources.{name}.actors: nobody is called", actor, known)
        return self

    @model_validator(mode="after")
    def _selections_can_match(self) -> "Config":
        known = {
            "actor": [STUDENT, EXPERT, *self.teachers],
            "source": [*self.objective.sources, CORRECTED],
            "env": [env.id for env in self.envs],
        }
        for i, term in enumerate(self.objective.terms):
            for key, names in known.items():
                for name in getattr(term.where, key):
                    _require_known(f"{self.objective.key(i)}.where.{key}: there is no", name, names)
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

    @property
    def tasks_by_source(self) -> dict[str, int]:
        """The tasks of each source in a step, the same at every step; they sum to ``train.tasks_per_step``."""
        shares = {name: source.share for name, source in self.objective.sources.items()}
        return apportion(self.train.tasks_per_step, shares)

    @property
    def temperature(self) -> float:
        """The temperature at which student and teacher are compared: that of the rollout, or 1 where it is greedy."""
        return self.rollout.temperature or 1.0


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: A YAML file, the name of a shipped one (``quickstart``), or the mapping itself.
        overrides: ``a.b=value``, values in YAML, applied in order after any ``method=``. Setting ``x.kind``, ``env.id`` or
            ``x={...}`` replaces the whole of ``x``; the method remains under ``objective={...}``.

    Raises:
        ConfigError: A key or a value is wrong. The message names the path, and the nearest valid key or kind.
    """
    raw = dict(source) if isinstance(source, Mapping) else load_yaml(find(source))
    pairs = [_split(text) for text in overrides]
    for method in (value for key, value in pairs if key == "method"):
        raw = {name: part for name, part in raw.items() if name != "objective"} | {"method": method}
    recipe, raw = _recipe(raw), _with_recipe(raw)
    for key, value in pairs:
        if key != "method":
            raw = apply(raw, key, _over(recipe, value) if key == "objective" else value)
    return build(raw)


def build(raw: Mapping[str, Any]) -> Config:
    """The configuration that a plain mapping stands for, short forms included."""
    try:
        return Config.model_validate(_long_form(raw))
    except ValidationError as error:
        raise ConfigError(explain(error, Config, _short_forms, partial(_spelt, raw))) from None


def dump(config: Config) -> str:
    """``config`` as YAML that :func:`load_config` reads back equal."""
    return write(config.model_dump(mode="json"))


def _require_known(said: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{said} {name!r}{nearest(name, known)}; there are: {', '.join(dict.fromkeys(known))}")


def _split(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{text!r} is not an override; write key=value, such as train.steps=10")
    if key.startswith("method."):
        own = key.removeprefix("method.")
        raise ConfigError(f"{key}: method is a recipe's name; change what it says by objective.{own}={value}")
    return key, parse(value, key)


def _long_form(raw: Mapping[str, Any]) -> dict[str, Any]:
    root = dict(raw)
    if "env" in root:
        if "envs" in root:
            raise ConfigError("give either env (one environment) or envs (a weighted list), not both")
        root["envs"] = [root.pop("env")]
    envs = root.get("envs", ())
    if isinstance(envs, list | tuple):
        root["envs"] = [{"id": env} if isinstance(env, str) else env for env in envs]
    if "teacher" in root:
        root["teachers"] = _over({"teacher": root.pop("teacher")}, root.get("teachers", {}))
    return _with_recipe(root)


def _with_recipe(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the recipe that ``method`` names where it starts from: under ``objective``."""
    root = {name: part for name, part in raw.items() if name != "method"}
    if "method" in raw:
        root["objective"] = _over(_recipe(raw), raw.get("objective", {}))
    return root


def _recipe(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What ``method`` stands for; nothing where there is none."""
    method = raw.get("method", {})
    if isinstance(method, str):
        return load_recipe(method)
    if not isinstance(method, Mapping):
        raise ConfigError(
            f"method: expected the name of a recipe, a path, or a recipe itself, got {shown(method)}; "
            f"there are: {', '.join(recipes())}"
        )
    return dict(method)


def _over(base: Mapping[str, Any], given: Any) -> Any:
    """The keys of ``given`` over those of ``base``; what is no mapping stays as it is, to be refused by name."""
    return {**base, **given} if isinstance(given, Mapping) else given


def _short_forms(location: Location) -> Iterable[str]:
    """Keys that are valid at a place besides the fields there."""
    return [*(short[-1] for short in _LONG_FORMS if short[:-1] == location), *(() if location else ("method",))]


def _spelt(raw: Mapping[str, Any], location: Location) -> Location:
    """The path as the user wrote it, where that was a short form."""
    objective = raw.get("objective", {})
    given: set[Location] = {(name,) for name in raw}
    if isinstance(objective, Mapping):
        given |= {("objective", name) for name in objective}
    for short, long in _LONG_FORMS.items():
        if short in given and location[: len(long)] == long:
            return short + location[len(long) :]
    return location


_LONG_FORMS: Mapping[Location, Location] = {
    ("env",): ("envs", 0),
    ("teacher",): ("teachers", "teacher"),
    ("objective", "sampler"): ("objective", "sources", "fresh"),
    **{("objective", part): ("objective", "terms", 0, part) for part in TERM_PARTS},
}
