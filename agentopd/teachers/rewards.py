"""A teacher that repeats the environment's own judgement: the reward of each step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentopd.teachers.base import EVERYWHERE, Stateless, Teacher, TeacherContext, rowless, turns_of
from agentopd.teachers.traits import Traits
from agentopd.types import Annotation, Trajectory
from agentopd.where import Where


@Traits(corrects=False, distributes=False, statistics=())
def reward(context: TeacherContext, *, where: Where = EVERYWHERE, scale: float = 1.0) -> Teacher:
    """Gives each turn the reward that the environment gave it.

    Args:
        context: What the run lends.
        where: The turns it rewards; the others it skips.
        scale: What every reward is multiplied by.
    """
    return RewardTeacher(name=context.name, where=where, scale=scale)


@dataclass(frozen=True, eq=False, kw_only=True)
class RewardTeacher(Stateless):
    """See :func:`reward`."""

    scale: float = 1.0

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """A reward for each selected turn; no distribution over tokens."""
        return [self._annotation(trajectory) for trajectory in trajectories]

    def _annotation(self, trajectory: Trajectory) -> Annotation:
        selected_S = turns_of(self.where, trajectory)
        with np.errstate(over="ignore"):  # told when the annotation is looked at
            reward_S = np.array([self.scale * turn.reward for turn in trajectory.turns]).astype(np.float32)
        reward_S[~selected_S] = np.nan
        return rowless(self.name, trajectory, reward_S=reward_S, skip_S=~selected_S)
