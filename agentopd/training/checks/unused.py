"""Teachers that a run as it is configured may never hear: known once a step has been played, or from the number of steps."""

from collections.abc import Iterable, Iterator, Sequence

from agentopd.config import Config
from agentopd.teachers import traits_of
from agentopd.teachers.base import turns_of
from agentopd.types import Trajectory
from agentopd.where import Where


def unused(config: Config, names: Iterable[str], played: Sequence[Trajectory]) -> Iterator[str]:
    """What is to be said of those of the teachers ``names`` who have nothing to say, after the first step.

    Args:
        config: The run's.
        names: The teachers that annotate its episodes.
        played: The episodes of its first step.
    """
    whole = [one for one in played if one.failure is None]
    for name in names:
        choice = config.teachers[name]
        where, warm_up = choice.settings.get("where"), choice.settings.get("warm_up", 0)
        if whole and isinstance(where, Where) and not any(turns_of(where, one).any() for one in whole):
            given = where.model_dump(mode="json", exclude_defaults=True)
            yield (
                f"teachers.{name}.where={given}: it selects no turn of the first step's {len(whole)} episodes, so this teacher said nothing "
                "there; look at it, where it is not meant to be rare"
            )
        if traits_of(choice).compares and isinstance(warm_up, int) and warm_up >= config.train.steps:
            yield (
                f"teachers.{name}.warm_up={warm_up}: it gives no rewards before, and the run has train.steps={config.train.steps}; lower it, "
                "or train longer"
            )
