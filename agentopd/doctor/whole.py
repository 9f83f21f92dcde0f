"""All checks, one after the other; what one of them could not make, the others go without."""

from collections.abc import Callable, Iterable, Mapping

import agentopd.doctor.answers as answers
import agentopd.doctor.memory as memory
import agentopd.doctor.settings as settings
import agentopd.doctor.template as template
import agentopd.doctor.tokens as tokens
from agentopd.config import Config
from agentopd.doctor.check import Check, failed
from agentopd.doctor.patient import Patient, UnavailableError
from agentopd.errors import AgentOPDError, describe
from agentopd.training.run.whole import without_expert
from agentopd.training.show.display import attended

CHECKS: Mapping[str, Callable[[Patient], Iterable[Check]]] = {
    "settings": settings.settings,
    "models": settings.models,
    "memory": memory.memory,
    "tokenizers": tokens.tokenizers,
    "records": settings.recorded,
    "teachers": answers.teachers,
    "ends of turn": tokens.ends,
    "episodes": settings.episodes,
    "lengths": settings.lengths,
    "chat template": template.template,
    "tool mask": template.mask,
    "temperature": answers.temperature,
    "same answer twice": answers.twice,
    "teacher = student": answers.itself,
}
"""By the name of their rows, in the order in which they are made: cheap ones first."""


@attended()
def examine(config: Config) -> tuple[list[Check], list[str]]:
    """Looks at what a configuration would do. Nothing is fitted: weights come from the cache of stages, or are as before the stage.

    Returns:
        What every check found, and what else is to be said: of weights that no run has fitted yet, for instance.
    """
    patient = Patient(without_expert(config))
    found = [check for name in CHECKS for check in _found(name, patient)]
    return found, list(dict.fromkeys(patient.notes))


def _found(name: str, patient: Patient) -> list[Check]:
    try:
        return list(CHECKS[name](patient))
    except UnavailableError as error:
        return [Check(name, "skip", str(error))]
    except AgentOPDError as error:
        return [failed(name, error)]
    except Exception as error:  # weights, templates and environments of others
        return [
            Check(
                name,
                "fail",
                describe(error),
                "look at what it names; with agentopd train --check there is a whole message",
            )
        ]
