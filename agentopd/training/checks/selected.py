"""Terms that learn from records alone, and select none of what lies there."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agentopd import records as store
from agentopd.errors import ConfigError
from agentopd.objective.spec import Objective
from agentopd.training.checks.looking import Found
from agentopd.types import CORRECTED, Trajectory
from agentopd.where import Where


def idle_terms(objective: Objective, drawn: Mapping[str, Found]) -> list[str]:
    """What is to be told of terms that have nothing to learn from.

    Args:
        objective: The method.
        drawn: By the name of the source what is drawn from records as it is.

    Raises:
        ConfigError: None of the terms has anything.
    """
    terms = tuple(objective.keyed())
    told = [f"{key}.{problem}" for key, term in terms for problem in _problem(objective, term.where, drawn)]
    if told and len(told) == len(terms):
        raise ConfigError(told[0])
    return told


def _problem(objective: Objective, where: Where, drawn: Mapping[str, Found]) -> Iterator[str]:
    sources = [name for name in objective.sources if not where.source or name in where.source]
    corrected = CORRECTED in where.source or objective.learns_from_corrections
    if corrected or not drawn.keys() >= set(sources) or any(_selects(where, name, drawn[name]) for name in sources):
        return
    given = where.model_dump(mode="json", exclude_defaults=True)
    actors = sorted(set().union(*(drawn[name].actors for name in sources)))
    yield (
        f"where={given}: it selects no token of the records of {_quoted(sources) or 'any source'}, so the term has nothing to learn from; in "
        f"these {_quoted(actors) or 'nobody'} acted: set where.actor to one of them, or to [] for all, ask for less, or give other records"
    )


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))


def _selects(where: Where, source: str, found: Found) -> bool:
    """Whether ``where`` selects a token; reads on until there is one."""
    kept = {entry.key for entry in found.entries}
    episodes = (record.trajectory for record in store.open(found.folder))
    return any(one.key in kept and _in_episode(where, source, one) for one in episodes)


def _in_episode(where: Where, source: str, one: Trajectory) -> bool:
    turns_S = where.turns(one)
    actors = np.array([where.may_select(source, actor) for actor in one.actors], np.bool_)
    for segment in one.segments:
        acted_T = segment.turn_T >= 0
        if (turns_S[segment.turn_T[acted_T]] & actors[segment.actor_T[acted_T]]).any():
            return True
    return False
