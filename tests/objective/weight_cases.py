"""Rows made of numbers alone, for the tests of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.objective import Episodes, LiveColumns, Rows, TeacherColumns
from agentopd.objective.weights import WEIGHTS
from agentopd.types import CORRECTED


@dataclass(frozen=True)
class Played:
    """One episode: the tokens of each turn as (log p when it acted, log p now, log q)."""

    turns: Sequence[Sequence[tuple[float, float, float]]]
    task: str = "a"
    reward: float = 0.0
    success: bool = False
    failed: bool = False
    corrected: Sequence[tuple[float, float, float]] = ()
    """The tokens of a corrected action in turn 0."""
    entropies: Sequence[tuple[float, float]] = ()
    """Of student and teacher, row by row; a function of the row where left out."""
    statistics: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def places(self) -> list[tuple[int, bool, tuple[float, float, float]]]:
        """Turn, whether it is a corrected action, and numbers of each row."""
        own = [(s, False, token) for s, turn in enumerate(self.turns) for token in turn]
        return own + [(0, True, token) for token in self.corrected]


def table(episodes: Sequence[Played]) -> Rows:
    places = [(b, *place) for b, one in enumerate(episodes) for place in one.places]
    numbers = np.array([token for *_, token in places], np.float64).reshape(-1, 3)
    size = len(places)
    count, integers = len(episodes), np.zeros(size, np.int64)
    entropies = [one.entropies or [(0.1 * (i % 7), 0.3 * (i % 5)) for i in range(len(one.places))] for one in episodes]
    entropy_A_2 = np.array([pair for of_one in entropies for pair in of_one], np.float64).reshape(-1, 2)
    statistics = {
        name: np.array([x for one in episodes for x in one.statistics.get(name, [np.nan] * len(one.places))], float)
        for name in sorted({name for one in episodes for name in one.statistics})
    }
    teacher = TeacherColumns(
        annotation_A=integers,
        entry_A=np.arange(size),
        taken_logprob_A=numbers[:, 2],
        entropy_A=entropy_A_2[:, 1],
        statistics=statistics,
        reward_A=np.zeros(size),
        rewarded_A=np.zeros(size, np.bool_),
    )
    corrected_A = np.array([corrected for _, _, corrected, _ in places], np.bool_)
    played = Episodes(
        key_B=np.array([str(b) for b in range(count)], np.str_),
        task_B=np.array([one.task for one in episodes], np.str_),
        env_B=np.array(["Env-v0"] * count, np.str_),
        tags_B=((),) * count,
        reward_B=np.array([one.reward for one in episodes], np.float64),
        success_B=np.array([one.success for one in episodes], np.bool_),
        failed_B=np.array([one.failed for one in episodes], np.bool_),
        tools_B=tuple(((),) * len(one.turns) for one in episodes),
        staleness_B=np.zeros(count),
        segments_B=np.ones(count, np.int64),
    )
    return Rows(
        records=(),
        segments=(),
        episodes=played,
        trajectory_A=np.array([b for b, *_ in places], np.int64),
        segment_A=integers,
        index_A=np.arange(size),
        turn_A=np.array([s for _, s, _, _ in places], np.int64),
        token_A=np.arange(size) % 5,
        logprob_A=numbers[:, 0],
        trainable_A=np.ones(size, np.bool_),
        actor_A=np.full(size, "student"),
        source_A=np.where(corrected_A, CORRECTED, "fresh"),
        teachers={"teacher": teacher},
    ).with_live(LiveColumns(numbers[:, 1], entropy_A_2[:, 0]))


def weigh(kind: str, rows: Rows, **settings: Any) -> NDArray[np.float64]:
    """A weight by its kind, asked as ``prepare`` does."""
    weight: NDArray[np.float64] = WEIGHTS[kind](rows, rows.teachers["teacher"], **settings)
    return weight


def with_teacher(rows: Rows, **columns: Any) -> Rows:
    return replace(rows, teachers={"teacher": replace(rows.teachers["teacher"], **columns)})


def taught(*turns: Sequence[float], **settings: Any) -> Played:
    """An episode by the teacher's log-probabilities alone; the student's are -1."""
    return Played([[(-1.0, -1.0, logq) for logq in turn] for turn in turns], **settings)
