"""Which teachers a method needs: to act, to be its targets, to correct."""

from collections.abc import Mapping

from agentopd.chat import Hint
from agentopd.config import Config
from agentopd.errors import ConfigError, under
from agentopd.objective.spec import Objective
from agentopd.settings.choice import Choice
from agentopd.teachers import Teacher
from agentopd.types import CORRECTED, EXPERT, STUDENT
from agentopd.where import Where

LOCAL, PRIVILEGED = "local", "privileged"
"""The kinds of teachers that are models in this process; the second, without a model of its own, is the student as it began."""
MODELS = {LOCAL, PRIVILEGED}
SILENT = MODELS | {"reward"}
"""Kinds that never correct. Of any other it is known once the teacher is made, by its ``corrects``."""


def learns_from_corrections(objective: Objective) -> bool:
    """Whether a term learns from what a teacher would have done in the student's place."""
    return any(CORRECTED in term.where.source for term in objective.terms)


def named_teachers(objective: Objective) -> set[str]:
    """The teachers that a method names: its targets, and those that act."""
    acting = {actor for source in objective.sources.values() for actor in source.actors}
    return objective.teachers() | (acting - {STUDENT, EXPERT})


def used_teachers(config: Config) -> dict[str, Choice]:
    """The teachers to make: those that the method names and, where it learns from corrections, those that may correct.

    Raises:
        ConfigError: The method learns from corrections, and none may correct.
    """
    named, corrected = named_teachers(config.objective), learns_from_corrections(config.objective)
    if corrected and all(choice.kind in SILENT for choice in config.teachers.values()):
        raise _nobody_corrects()
    return {n: c for n, c in config.teachers.items() if n in named or (corrected and c.kind not in SILENT)}


def annotators(objective: Objective, teachers: Mapping[str, Teacher]) -> dict[str, Teacher]:
    """The teachers whose word the method reads: its targets and, where it learns from corrections, those that correct.

    Raises:
        ConfigError: It learns from corrections, and none corrects.
    """
    corrected = learns_from_corrections(objective)
    if corrected and not any(teacher.corrects for teacher in teachers.values()):
        raise _nobody_corrects()
    return {n: t for n, t in teachers.items() if n in objective.teachers() or (corrected and t.corrects)}


def hints_of(config: Config) -> dict[str, Hint]:
    """What each privileged teacher that the method uses is shown, by its name.

    Raises:
        ConfigError: The hint of a privileged teacher, used or not, is malformed.
    """
    used = used_teachers(config)
    return {name: hint for name, hint in _every_hint(config).items() if name in used}


def _every_hint(config: Config) -> dict[str, Hint]:
    return {n: _hint(n, c) for n, c in config.teachers.items() if c.kind == PRIVILEGED}


def _hint(name: str, teacher: Choice) -> Hint:
    where: Where = teacher.settings["where"]
    with under(f"teachers.{name}"):
        return Hint(teacher.settings["hint"], where.env)


def stage_hint(config: Config) -> tuple[str, Hint]:
    """The hint behind which a stage learns a share of its traces, and a teacher whose hint it is.

    Raises:
        ConfigError: The privileged teachers, used or not, do not agree on one.
    """
    hints = {hint: name for name, hint in _every_hint(config).items()}
    if len(hints) != 1:
        raise ConfigError(
            f"stages: a share of the traces is privileged, and there are {len(hints)} hints to show in them; give exactly one teacher of "
            "kind privileged, or set privileged to 0"
        )
    [(hint, name)] = hints.items()
    return name, hint


def _nobody_corrects() -> ConfigError:
    return ConfigError(
        "objective: a term learns from corrected actions, and no teacher corrects; add teachers.expert: {kind: expert}"
    )
