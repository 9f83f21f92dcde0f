"""Which teachers a method needs: to act, to be its targets, to correct; and the models and hints that they name."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import ValidationError

from agentopd.chat import Hint
from agentopd.config import Config
from agentopd.errors import ConfigError, under
from agentopd.models import FrozenModel, ModelConfig
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.settings.choice import Choice
from agentopd.settings.problems import explain
from agentopd.teachers import EVERYWHERE, Combining, Teacher, members_of, traits_of
from agentopd.teachers.hints import hint_of
from agentopd.types import EXPERT, RECORDED, STUDENT
from agentopd.where import Where


def named_teachers(objective: Objective) -> set[str]:
    """The teachers that a method names: its targets, and those that act."""
    acting = {actor for source in objective.sources.values() for actor in source.who}
    return objective.teachers() | (acting - {STUDENT, EXPERT, RECORDED})


def used_teachers(config: Config) -> dict[str, Choice]:
    """The teachers to make: those that the method names, those that one of these reads and, where it learns from corrections, those
    that may correct.

    Raises:
        ConfigError: The method learns from corrections, and none may correct; or it is not known which records hold a teacher's word.
    """
    named, corrected = named_teachers(config.objective), config.objective.learns_from_corrections
    if corrected and not may_correct(config):
        raise _nobody_corrects()
    used = {n for n, c in config.teachers.items() if n in named or (corrected and traits_of(c).corrects)}
    used |= {member for name in used for member in members_of(config.teachers[name])}
    return {name: _placed(config, name, choice) for name, choice in config.teachers.items() if name in used}


def _placed(config: Config, name: str, choice: Choice) -> Choice:
    """A teacher whose word is recorded knows where: by default beside the episodes of the one source that draws them from records.

    Raises:
        ConfigError: There is no such source, or there are several.
    """
    if not traits_of(choice).recorded or choice.settings.get("records") is not None:
        return choice
    places = {source.records for source in recorded_sources(config.objective).values()}
    if len(places) != 1:
        raise ConfigError(
            f"teachers.{name}.records=null: the method draws episodes from {len(places)} folders of records, so it is not known which holds "
            "this teacher's word; give a run folder or a records folder"
        )
    return replace(choice, settings={**choice.settings, "records": places.pop()})


def recorded_sources(objective: Objective) -> dict[str, Source]:
    """The sources whose episodes are those of records, by name."""
    return {name: one for name, one in objective.sources.items() if one.kind == "recorded" and not one.plays}


def may_correct(config: Config) -> bool:
    """Whether some teacher is of a kind that may correct."""
    return any(traits_of(choice).corrects for choice in config.teachers.values())


def annotators(objective: Objective, teachers: Mapping[str, Teacher]) -> dict[str, Teacher]:
    """The teachers whose word the method reads: its targets, those that one of these reads and, where it learns from corrections,
    those that correct.

    Raises:
        ConfigError: It learns from corrections, and none corrects.
    """
    corrected = objective.learns_from_corrections
    if corrected and not any(teacher.corrects for teacher in teachers.values()):
        raise _nobody_corrects()
    heard = {n for n, t in teachers.items() if n in objective.teachers() or (corrected and t.corrects)}
    readers = [teacher for name, teacher in teachers.items() if name in heard and isinstance(teacher, Combining)]
    heard |= {member for reader in readers for member in reader.members}
    return {name: teacher for name, teacher in teachers.items() if name in heard}


def is_new(teacher: Choice) -> bool:
    """Whether it is a model in this process that starts from random weights."""
    return traits_of(teacher).model and teacher.settings.get("new") is not None


def model_of(name: str, teacher: Choice) -> ModelConfig | None:
    """The model that a teacher in this process names; ``None`` where it is the student as it began.

    Raises:
        ConfigError: It names none, or two, or what can be none.
    """
    known = {key: teacher.settings[key] for key in FrozenModel.model_fields if key in teacher.settings}
    given = [key for key in ("model", "new") if known.get(key) is not None]
    initial = traits_of(teacher).initial
    if len(given) > 1 or not (given or initial):
        exactly = "at most" if initial else "exactly"
        raise ConfigError(f"teachers.{name}: give {exactly} one of model (a hub id or folder) and new (random weights)")
    try:
        return FrozenModel(**known) if given else None
    except ValidationError as error:  # the annotations of a kind of one's own are looser
        raise ConfigError(f"teachers.{name}.{explain(error, FrozenModel)}") from error


def names_weights(teacher: Choice) -> bool:
    """Whether it is a model whose weights a configuration, or ``teacher_model``, gives: one that is always the student has none."""
    return traits_of(teacher).model and bool(teacher.settings.keys() & {"model", "new"})


def is_student(name: str, teacher: Choice) -> bool:
    """Whether it begins as the student and is shown nothing more, so that it acts as the student does before training."""
    traits = traits_of(teacher)
    return traits.initial and model_of(name, teacher) is None and teacher.settings.get("hint") is None


def hints_of(config: Config) -> dict[str, Hint]:
    """What each teacher that the method uses is shown, by its name, where it is shown a hint.

    Raises:
        ConfigError: The hint of a teacher, used or not, is malformed.
    """
    used = used_teachers(config)
    return {name: hint for name, hint in every_hint(config).items() if name in used}


def every_hint(config: Config) -> dict[str, Hint]:
    """What each teacher is shown, used or not, by its name, where it is shown a hint.

    Raises:
        ConfigError: A hint is malformed.
    """
    shown = {n: c for n, c in config.teachers.items() if traits_of(c).hint and c.settings["hint"] is not None}
    return {n: _hint(n, c) for n, c in shown.items()}


def _hint(name: str, teacher: Choice) -> Hint:
    where: Where = teacher.settings.get("where", EVERYWHERE)
    with under(f"teachers.{name}"):
        return hint_of(teacher.settings["hint"], where.env)


def stage_hint(config: Config) -> tuple[str, Hint]:
    """The hint behind which a stage learns a share of its traces, and a teacher whose hint it is.

    Raises:
        ConfigError: The teachers that are shown one that can be known beforehand, used or not, do not agree on it.
    """
    hints = {hint: name for name, hint in every_hint(config).items() if not hint.hindsight}
    if len(hints) != 1:
        raise ConfigError(
            f"stages: a share of the traces is privileged, and there are {len(hints)} hints that can be shown in them; give exactly one teacher of "
            "kind privileged, or set privileged to 0"
        )
    [(hint, name)] = hints.items()
    return name, hint


def _nobody_corrects() -> ConfigError:
    return ConfigError(
        "objective: a term learns from corrected actions, and no teacher corrects; add teachers.expert: {kind: expert}"
    )
