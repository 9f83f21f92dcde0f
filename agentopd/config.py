"""The configuration of a run: frozen data, one key for each choice.

A file is YAML; ``a.b=value`` overrides come after it, in order. Three keys are short forms: ``env`` for one entry of ``envs``,
``teacher`` for the teacher of that name in ``teachers``, and ``method`` (a recipe's name, a path, or the recipe itself) for what
``objective`` starts from.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from agentopd.choice import Choice, OneOf, Settings, nearest
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig
from agentopd.objective.spec import Objective
from agentopd.overrides import apply
from agentopd.rollout.policy import EXPERT, Rollout
from agentopd.rollout.tasks import EnvConfig
from agentopd.teachers import TEACHERS

STUDENT = "student"
"""The name of the student among those who act."""


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
    cache: str = "~/.cache/agentopd"
    """The folder of cached stages."""


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
    betas: tuple[float, float] = (0.9, 0.95)
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
    """Steps between checkpoints; 0 for none, so that the run cannot be resumed."""
    arguments: dict[str, Any] = {}
    """Further fields of transformers' TrainingArguments, such as ``report_to``."""


class Evaluation(Settings):
    """The fixed panel of held-out tasks."""

    tasks: int = Field(200, ge=1)
    seed: int = 0
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

    seed: int = 0
    envs: tuple[EnvConfig, ...] = Field(min_length=1)
    student: ModelConfig
    teachers: dict[str, Annotated[Choice, OneOf("teacher", TEACHERS)]] = {}
    template_kwargs: dict[str, Any] = {}
    """Settings that the chat template reads, such as ``enable_thinking``."""
    rollout: Rollout = Rollout()
    objective: Objective = Objective()
    stages: Stages = Stages()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    records: RecordSettings = RecordSettings()

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
        known = [STUDENT, EXPERT, *self.teachers]
        for name, source in self.objective.sources.items():
            for actor in source.actors:
                if actor not in known:
                    raise ValueError(
                        f"objective.sources.{name}.actors: nobody is called {actor!r}{nearest(actor, known)}; "
                        f"there are: {', '.join(known)}"
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
    def temperature(self) -> float:
        """The temperature at which student and teacher are compared: that of the rollout, or 1 where it is greedy."""
        return self.rollout.temperature or 1.0


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        source: A YAML file, the name of a shipped one (``quickstart``), or the mapping itself.
        overrides: ``a.b=value``, values in YAML. Setting ``x.kind``, ``env.id`` or ``x={...}`` replaces the whole of ``x``.

    Raises:
        ConfigError: A key or a value is wrong. The message names the path, and the nearest valid key or kind.
    """
    raw = dict(source) if isinstance(source, Mapping) else _read(_find(source))
    for key, value in (_split(text) for text in overrides):
        raw = apply(_with_recipe(raw) if key.startswith("objective") else raw, key, value)
    return build(raw)


def build(raw: Mapping[str, Any]) -> Config:
    """The configuration that a plain mapping stands for, short forms included."""
    try:
        return Config.model_validate(_long_form(raw))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from None


def dump(config: Config) -> str:
    """``config`` as YAML that :func:`load_config` reads back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def load_recipe(name: str) -> dict[str, Any]:
    """The recipe called ``name``, or the one at that path.

    Raises:
        ConfigError: There is none.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        return _read(path)
    if name not in recipes():
        raise ConfigError(
            f"method: no recipe is called {name!r}{nearest(name, recipes())}; there are: {', '.join(recipes())}"
        )
    return _read(_shipped() / "methods" / f"{name}.yaml")


def recipes() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in (_shipped() / "methods").glob("*.yaml"))


def _shipped() -> Path:
    return Path(str(resources.files("agentopd.configs")))


def _find(source: str | Path) -> Path:
    """The file itself, or else the shipped one of that name."""
    path, shipped = Path(source), _shipped()
    if path.exists():
        return path
    inside = shipped / (path.relative_to("configs") if path.parts[:1] == ("configs",) else path)
    if inside.with_suffix(".yaml").exists():
        return inside.with_suffix(".yaml")
    names = sorted(file.stem for file in shipped.glob("*.yaml"))
    raise ConfigError(f"no configuration at {str(source)!r}; shipped ones are: {', '.join(names)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not a mapping of settings")
    return raw


def _split(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not an override; write key=value, such as train.steps=10")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"{key}: {value!r} is not valid YAML; quote it") from None


def _long_form(raw: Mapping[str, Any]) -> dict[str, Any]:
    root = dict(raw)
    if "env" in root:
        if "envs" in root:
            raise ConfigError("give either env (one environment) or envs (a weighted list), not both")
        root["envs"] = [root.pop("env")]
    root["envs"] = [{"id": env} if isinstance(env, str) else env for env in root.get("envs", ())]
    if "teacher" in root:
        root["teachers"] = {"teacher": root.pop("teacher"), **root.get("teachers", {})}
    return _with_recipe(root)


def _with_recipe(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the recipe that ``method`` names where it starts from: under ``objective``."""
    root = dict(raw)
    if "method" in root:
        method = root.pop("method")
        recipe = load_recipe(method) if isinstance(method, str) else dict(method)
        root["objective"] = recipe | dict(root.get("objective", {}))
    return root


def _explain(problem: Any) -> str:
    """One sentence on one validation problem: the path, what is wrong, what would be right."""
    location = problem["loc"]
    path = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        siblings = _fields(location[:-1])
        return f"{path}: unknown key{nearest(str(location[-1]), siblings)}; valid keys: {', '.join(siblings)}"
    if problem["type"] == "missing":
        return f"{path}: missing, and it has no default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message} (got {problem['input']!r})"


def _fields(location: Sequence[str | int]) -> list[str]:
    """The keys that are valid at a place in the configuration."""
    schema: Any = Config.model_json_schema()
    definitions, here = schema["$defs"], schema
    for part in location:
        here = _below(_resolved(here, definitions), part)
    return list(_resolved(here, definitions).get("properties", {}))


def _below(schema: Mapping[str, Any], part: str | int) -> Mapping[str, Any]:
    if isinstance(part, int):
        found: Mapping[str, Any] = schema.get("items", {})
    else:
        found = schema.get("properties", {}).get(part) or schema.get("additionalProperties") or {}
    return found


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follows a reference, and takes the object of an optional one."""
    while True:
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        elif "anyOf" in schema and any("$ref" in branch for branch in schema["anyOf"]):
            schema = next(branch for branch in schema["anyOf"] if "$ref" in branch)
        else:
            return schema
