"""Episodes played, and asked about, by all the processes of a run together: each has a share, and all get everything."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias

from torch import nn

from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError, EnvError
from agentopd.rollout import Assignment, Rollout
from agentopd.rollout.collect import collect, require_few_failures
from agentopd.rollout.policy import Policy
from agentopd.teachers import Combining, Teacher, annotate, does
from agentopd.teachers.itself import FollowingTeacher
from agentopd.training.loop.ranks import Ranks
from agentopd.types import Annotation, Key, Record, Trajectory

Way: TypeAlias = Literal["shared", "first", "each"]
"""Who asks a teacher about an episode: the process whose share it is in, the first, or every one for itself."""


def task_of(one: Assignment | Trajectory) -> str:
    """By what episodes are dealt to processes: those of one task stay together."""
    return one.task.id


def collected(
    ranks: Ranks,
    assignments: Sequence[Assignment],
    policies: Mapping[str, Policy],
    chat: Chat,
    settings: Rollout,
    advice: bool = False,
    on_done: Callable[[Trajectory], None] | None = None,
    hints: Mapping[str, Hint] | None = None,
) -> list[Trajectory]:
    """As :func:`agentopd.rollout.collect`, where each process plays whole tasks, whose actors draw by seeds of their own.

    What failures there are is judged once all are over. ``on_done`` hears of the episodes that are played here.
    """
    if ranks.size == 1:
        return collect(assignments, policies, chat, settings, advice, on_done, hints)
    unjudged = unjudging(settings)

    def work(share: Sequence[Assignment]) -> list[Trajectory]:
        return collect(share, policies, chat, unjudged, advice, on_done, hints)

    return judged(ranks, assignments, settings, work)


def rested(ranks: Ranks, settings: Rollout) -> None:
    """What turns alone take of a card is given back, in every process, until the next one is written.

    Raises:
        PolicyError: An engine cannot.
    """
    rest = settings.made_engine.rest
    if rest is not None:
        ranks.agree(rest)


def unjudging(settings: Rollout) -> Rollout:
    """For one process's share: how many failures are too many is known once all shares are over."""
    return settings.model_copy(update={"max_failures": 1.0})


def judged(
    ranks: Ranks,
    assignments: Sequence[Assignment],
    settings: Rollout,
    work: Callable[[list[Assignment]], Sequence[Trajectory]],
) -> list[Trajectory]:
    """The episodes of all processes, each of which plays its share by ``work``.

    Raises:
        EnvError: More than ``settings.max_failures`` of them failed.
    """
    played = ranks.spread(assignments, task_of, work)
    try:
        require_few_failures(played, len(played), settings.max_failures, last=True)
    except EnvError as error:
        ranks.shared(error)
        raise
    return played


def annotated(
    ranks: Ranks,
    teachers: Mapping[str, Teacher],
    trajectories: Sequence[Trajectory],
    max_new_tokens: int | None,
    earlier: Mapping[str, Mapping[Key, Annotation]] = MappingProxyType({}),
) -> list[Record]:
    """As :func:`agentopd.teachers.annotate`, where each process asks the teachers that can be asked by shares about its own."""
    if ranks.size == 1:
        return annotate(teachers, trajectories, max_new_tokens, earlier)
    ways = ways_of(teachers)

    def said(way: Way, some: Sequence[Trajectory]) -> list[dict[str, Annotation]]:
        asked = {name: teacher for name, teacher in teachers.items() if ways[name] == way}
        found = annotate(asked, some, max_new_tokens, earlier)
        return [{one.teacher: one for one in record.annotations} for record in found]

    shared = ranks.spread(trajectories, task_of, lambda share: said("shared", share))
    first = ranks.first(lambda: said("first", trajectories))
    mine = ranks.agree(lambda: said("each", trajectories))
    each = ranks.first(lambda: mine)  # equal but for rounding, by which the processes must not come apart
    heard = [a | b | c for a, b, c in zip(shared, first, each, strict=True)]
    return [Record(one, tuple(said[name] for name in teachers)) for one, said in zip(trajectories, heard, strict=True)]


def alike(ranks: Ranks, model: nn.Module) -> Ranks:
    """``ranks`` themselves, which train ``model``.

    Raises:
        ConfigError: They were given different weights, as models that each drew for itself are.
    """
    if ranks.size == 1:
        return ranks
    sums = ranks.gather(lambda: {name: float(p.detach().double().sum()) for name, p in model.named_parameters()})
    apart = next((name for name, mine in sums[0].items() if any(one.get(name) != mine for one in sums)), None)
    if apart is not None:
        raise ranks.shared(
            ConfigError(
                f"model: {ranks.size} processes were given students whose weights differ (first in {apart}); load them from one place, "
                "or draw them by one seed"
            )
        )
    return ranks


def ways_of(teachers: Mapping[str, Teacher]) -> dict[str, Way]:
    """By whom each teacher is asked. One that reads others is asked with them."""
    ways = {name: _way(teacher) for name, teacher in teachers.items()}
    for name, teacher in teachers.items():
        together = [name, *teacher.members] if isinstance(teacher, Combining) else []
        if {ways[one] for one in together} - {"shared"}:
            ways |= dict.fromkeys(together, "each")
    return ways


def _way(teacher: Teacher) -> Way:
    """What asks a server asks it once, so the first process does; what learns, or tells, of all that it was asked is asked about all."""
    if does(teacher, "begin"):
        return "first"
    learns = does(teacher, "after_step") and not isinstance(teacher, FollowingTeacher)
    return "each" if learns or does(teacher, "metrics") else "shared"
