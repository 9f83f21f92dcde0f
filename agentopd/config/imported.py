"""Imported text in a method: nobody drew its tokens, so nothing that reads who drew them may learn from it."""

from collections.abc import Iterable

import numpy as np

from agentopd.config.drawn import Drawn, claims_of
from agentopd.errors import ConfigError
from agentopd.objective.spec import Objective
from agentopd.types import Trajectory


def require_no_draws(objective: Objective, given: Iterable[Trajectory], said: str) -> None:
    """Holds what the method states of who drew its tokens against episodes that hold imported text.

    Args:
        objective: The method.
        given: Episodes of one of its frozen sources.
        said: What holds them, for the message.

    Raises:
        ConfigError: A term reads the behaviour log-probability of a token that has none, or takes it for the student's own.
    """
    undrawn = sorted({actor for one in given for actor in _undrawn(one)})
    sources = [name for name, source in objective.sources.items() if source.kind == "frozen"]
    for key, term in objective.keyed():
        selected = [actor for actor in undrawn if any(term.where.may_select(name, actor) for name in sources)]
        for claim in claims_of(objective, key, term):
            for actor in selected:
                one = Drawn("unsampled", actor, f"{said} holds text that was imported, whose tokens nobody drew")
                if not claim.holds(one):
                    raise ConfigError(
                        f"{claim.key}: {claim.what}, and {one.said}; {claim.remedies[one.draw]}, or method=sft"
                    )


def _undrawn(trajectory: Trajectory) -> set[str]:
    """Who acted where tokens have no behaviour log-probability."""
    acted = set[int]()
    for segment in trajectory.segments:
        acted |= set(segment.actor_T[np.isnan(segment.logprob_T)].tolist())
    return {trajectory.actors[actor] for actor in acted if actor >= 0}
