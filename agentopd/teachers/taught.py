"""Who taught what: a few numbers for each teacher about one batch of records."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from agentopd.errors import TeacherError, describe
from agentopd.teachers.base import Teacher, Telling
from agentopd.teachers.traits import Traits
from agentopd.types import Annotation, Record

TURNS, TOKENS, REWARD, CORRECTED = "turns", "tokens", "reward", "corrected"


def teaching_metrics(teachers: Mapping[str, Teacher], records: Sequence[Record]) -> dict[str, float]:
    """What each teacher said of a batch, failed episodes aside, as ``teacher/NAME/WHAT``.

    ``turns`` is the share of turns that it did not skip; ``tokens`` the share of action tokens, those of its own corrections among
    them, of which it gave a distribution; ``reward`` the mean of its rewards, absent without one; ``corrected`` how many corrected
    actions an episode has. What a teacher tells of itself stands beside these.
    """
    told: dict[str, float] = {}
    for name, teacher in teachers.items():
        own = _own(name, teacher) if isinstance(teacher, Telling) else {}
        told |= {f"teacher/{name}/{what}": value for what, value in {**_taught(name, records), **own}.items()}
    return told


def _own(name: str, teacher: Telling) -> dict[str, float]:
    try:
        return {str(what): float(value) for what, value in teacher.metrics().items()}
    except Exception as error:  # a kind of one's own
        raise TeacherError(
            f"teacher {name!r}: its metrics() gives no mapping from names to numbers: {describe(error)}"
        ) from error


def known_teaching(name: str, traits: Traits) -> Iterator[str]:
    """The names that :func:`teaching_metrics` may give of a teacher, without those that only the teacher itself knows."""
    given = {TOKENS: traits.distributes, REWARD: traits.rewards, CORRECTED: traits.corrects}
    for what in (TURNS, *(what for what, may in given.items() if may), *(traits.metrics or ())):
        yield f"teacher/{name}/{what}"


def _taught(name: str, records: Sequence[Record]) -> dict[str, float]:
    pairs = [(one, said) for one in records for said in one.annotations if said.teacher == name]
    pairs = [(one, said) for one, said in pairs if one.trajectory.failure is None]
    turns = sum(len(one.trajectory.turns) for one, _ in pairs)
    tokens = sum(_actions(one, said) for one, said in pairs)
    rewards = np.concatenate([np.zeros(0), *(said.reward_S[~said.skip_S] for _, said in pairs)])
    rewards = rewards[~np.isnan(rewards)]
    told = {TURNS: sum(int((~said.skip_S).sum()) for _, said in pairs) / max(turns, 1)}
    if rows := sum(len(said.segment_N) for _, said in pairs):
        told[TOKENS] = rows / max(tokens, 1)
    if len(rewards):
        told[REWARD] = float(rewards.mean())
    if corrected := sum(len(said.segments) for _, said in pairs):
        told[CORRECTED] = corrected / len(pairs)
    return told


def _actions(record: Record, said: Annotation) -> int:
    segments = (*record.trajectory.segments, *said.segments)
    return sum(int((segment.turn_T >= 0).sum()) for segment in segments)
