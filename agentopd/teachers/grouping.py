"""Rewards within the group of episodes of one task: what is said of an episode, and how far it is above the group."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from agentopd.objective.advantages import standardised
from agentopd.objective.columns import Reals
from agentopd.types import Annotation

Normalised: TypeAlias = Literal["none", "group"]
"""A setting of every kind that gives rewards: as they are, or :func:`normalised`."""
Score: TypeAlias = float | Reals
"""What is said of an episode: one number for all of it, or one for each turn, [S]; ``nan`` where nothing is."""
WHOLE = -1
"""The depth of a number for a whole episode."""


def normalised(tasks: Sequence[str], scores: Sequence[Score]) -> list[Score]:
    """Each number less the mean of its group, over the group's standard deviation, as ``baseline: group_normalised`` takes totals.

    The group of an episode's number is those of the other episodes of its task; that of a turn's number is those of the turns at
    the same depth in these, which stand at comparable states more than turns of other depths do. A group whose numbers agree, one
    of a single number too, gives 0.

    Args:
        tasks: The ``Task.id`` of each episode.
        scores: What is said of each. ``nan`` stays what it is, and is in no group.
    """
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for task, score in zip(tasks, scores, strict=True):
        for depth, number in _numbers(score):
            groups[task, depth].append(number)
    moments = {group: (np.array(np.mean(numbers)), np.array(np.std(numbers))) for group, numbers in groups.items()}

    def above(task: str, score: Score) -> Score:
        column = np.full(np.size(score), np.nan)
        for depth, number in _numbers(score):
            column[max(depth, 0)] = standardised(np.array(number), *moments[task, depth])
        return float(column[0]) if isinstance(score, float) else column

    return [above(*one) for one in zip(tasks, scores, strict=True)]


def regrouped(tasks: Sequence[str], annotations: Sequence[Annotation], whole: bool) -> list[Annotation]:
    """Annotations with their rewards :func:`normalised`; where ``whole`` each has one at most, which is its episode's."""
    columns = [one.reward_S.astype(np.float64) for one in annotations]
    scores = [_of_episode(column_S) if whole else column_S for column_S in columns]
    pairs = zip(annotations, normalised(tasks, scores), strict=True)
    return [
        replace(one, reward_S=np.where(np.isnan(one.reward_S), np.nan, score).astype(np.float32))
        for one, score in pairs
    ]


def _of_episode(column_S: Reals) -> float:
    given = column_S[~np.isnan(column_S)]
    return float(given[-1]) if len(given) else np.nan


def _numbers(score: Score) -> Iterator[tuple[int, float]]:
    """The numbers that are given, each behind its depth."""
    column, first = ([score], WHOLE) if isinstance(score, float) else (score.tolist(), 0)
    return ((depth, number) for depth, number in enumerate(column, first) if not np.isnan(number))
