"""Teachers: who annotates which turns, one file a kind."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from agentopd.chat import Chat
from agentopd.errors import AgentOPDError, ConfigError, describe
from agentopd.models import ModelConfig
from agentopd.settings.choice import Choice
from agentopd.settings.signature import Registry
from agentopd.teachers import (
    cross_tokenizer,
    discriminator,
    ensemble,
    expert,
    itself,
    local,
    openai,
    privileged,
    recorded,
    reward_model,
    rewards,
    served,
)
from agentopd.teachers.annotation import annotate, annotations_of
from agentopd.teachers.base import (
    CPU,
    EVERYWHERE,
    Combining,
    Prompt,
    Spending,
    Stateless,
    Teacher,
    TeacherContext,
    does,
    nobody,
    rowless,
    tokens_of,
    turns_of,
)
from agentopd.teachers.corrections import corrections
from agentopd.teachers.identity import Identity
from agentopd.teachers.taught import teaching_metrics
from agentopd.teachers.traits import (
    Examined,
    Few,
    Traits,
    TraitsBy,
    depends_on_settings,
    is_language_model,
    members_of,
    require_members,
    require_read,
    traits_of,
)

TEACHERS: Registry = {
    "local": local.local,
    "privileged": privileged.privileged,
    "self": itself.itself,
    "ensemble": ensemble.ensemble,
    "served": served.served,
    "openai": openai.openai,
    "cross_tokenizer": cross_tokenizer.cross_tokenizer,
    "reward": rewards.reward,
    "verifier": rewards.verifier,
    "reward_model": reward_model.reward_model,
    "discriminator": discriminator.discriminator,
    "expert": expert.expert,
    "recorded": recorded.recorded,
}
"""Functions ``(context: TeacherContext, *, settings...) -> Teacher``, read by ``OneOf("teacher", TEACHERS)``; :class:`Traits` marks them."""


def build_teachers(
    choices: Mapping[str, Choice],
    chat: Chat,
    load: Callable[[ModelConfig], PreTrainedModel],
    temperature: float,
    initial: Callable[[], PreTrainedModel] = nobody,
    student: Callable[[], PreTrainedModel] = nobody,
    device: torch.device = CPU,
    folder: Path | None = None,
    answers: Path | None = None,
    vocabulary: int | None = None,
) -> dict[str, Teacher]:
    """Makes the teachers of a run.

    Args:
        choices: What the configuration chose, by the teacher's name.
        chat: The student's messages and tokens.
        load: Gives a model, on the run's device.
        temperature: The temperature at which student and teacher are compared.
        initial: Gives the student as it is before training.
        student: Gives the student itself.
        device: The run's.
        folder: Where they may keep what a resumed run shall find again.
        answers: The folder of answers that were paid for; by default ``folder``.
        vocabulary: How many ids the student's head has.

    Raises:
        ConfigError: A teacher's settings do not go together, or one of them is a schedule; or one reads others that it cannot.
            The message names the teacher.
    """
    require_members(choices)
    made: dict[str, Teacher] = {}

    def make(name: str) -> Teacher:
        if name not in made:  # one that reads others makes them, and those read none
            context = TeacherContext(
                name, chat, load, temperature, initial, student, make, device, folder, answers, vocabulary
            )
            made[name] = _build(choices[name], context)
        return made[name]

    return {name: make(name) for name in choices}


def require_numbers(name: str, choice: Choice) -> None:
    """Raises ConfigError where a setting of the teacher ``name`` is a schedule: teachers are made once."""
    for setting, value in choice.settings.items():
        if isinstance(value, Choice):
            raise ConfigError(
                f"teachers.{name}.{setting}: a teacher takes no schedule, got {value.plain()}; give a number"
            )


def _build(choice: Choice, context: TeacherContext) -> Teacher:
    require_numbers(context.name, choice)
    require_read(context.name, choice)
    try:
        teacher: Teacher = choice.function(context, **choice.settings)
    except AgentOPDError:
        raise
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise ConfigError(f"teachers.{context.name}: {problems}") from error
    except Exception as error:  # a kind of one's own
        raise ConfigError(f"teachers.{context.name}.kind={choice.kind} raised {describe(error)}") from error
    if not hasattr(teacher, "annotate"):
        found = type(teacher).__name__
        raise ConfigError(f"teachers.{context.name}.kind={choice.kind} returned {found}; return a Teacher")
    return teacher


__all__ = [
    "EVERYWHERE",
    "TEACHERS",
    "Combining",
    "Examined",
    "Few",
    "Identity",
    "Prompt",
    "Spending",
    "Stateless",
    "Teacher",
    "TeacherContext",
    "Traits",
    "TraitsBy",
    "annotate",
    "annotations_of",
    "build_teachers",
    "corrections",
    "depends_on_settings",
    "does",
    "is_language_model",
    "members_of",
    "require_members",
    "require_numbers",
    "require_read",
    "rowless",
    "teaching_metrics",
    "tokens_of",
    "traits_of",
    "turns_of",
]
