"""Teachers that give rewards and nothing else: what they share, the environment's own judgement, and a function of one's own."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator

from agentopd.errors import TeacherError, describe
from agentopd.settings.kinds import load
from agentopd.settings.problems import shown
from agentopd.teachers.base import EVERYWHERE, Stateless, Teacher, TeacherContext, rowless, turns_of
from agentopd.teachers.grouping import Normalised, Score, normalised
from agentopd.teachers.traits import Traits
from agentopd.types import Annotation, Bools, Trajectory
from agentopd.where import Where


def rewarded(
    teacher: str, trajectory: Trajectory, score: Score, selected_S: Bools, skips_unsaid: bool = False
) -> Annotation:
    """An annotation of rewards alone.

    A number for the whole episode stands on the last selected turn; returns carry it to those before. An episode without one is
    skipped.

    Args:
        teacher: The teacher's name.
        trajectory: The episode.
        score: What is said of it, or of each of its turns.
        selected_S: The turns that may be rewarded; the others are skipped.
        skips_unsaid: Whether a turn without a number of its own is skipped too, and so not trained, rather than given none, so
            that it learns from what later turns are given.
    """
    reward_S = np.full(len(trajectory.turns), np.nan, np.float32)
    chosen = np.flatnonzero(selected_S)
    with np.errstate(over="ignore"):  # told when the annotation is looked at
        if isinstance(score, float):
            reward_S[chosen[-1:]] = score
            skip_S = ~selected_S | np.isnan(score)
        else:
            reward_S[chosen] = score[chosen]
            skip_S = ~selected_S | (np.isnan(reward_S) & skips_unsaid)
    return rowless(teacher, trajectory, reward_S=reward_S, skip_S=skip_S)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rewarding(Stateless, ABC):
    """A base for teachers that give rewards; subclasses add ``scores``."""

    scale: float = 1.0
    """What every reward is multiplied by, once it is normalised."""
    normalised: Normalised = "none"
    skips_unsaid: bool = False
    """See :func:`rewarded`."""

    @abstractmethod
    def scores(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> Sequence[Score]:
        """What is said of each trajectory, of which ``selected`` are the turns that count; none of a failed episode is selected."""

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """A reward for selected turns; no distribution over tokens."""
        selected = [turns_of(self.where, trajectory) for trajectory in trajectories]
        pairs = zip(self.scores(trajectories, selected), selected, strict=True)
        scores = [_kept(*pair) for pair in pairs]
        if self.normalised == "group":
            scores = normalised([trajectory.task.id for trajectory in trajectories], scores)
        each = zip(trajectories, scores, selected, strict=True)
        return [
            rewarded(self.name, trajectory, self.scale * score, selected_S, self.skips_unsaid)
            for trajectory, score, selected_S in each
        ]


def _kept(score: Score, selected_S: Bools) -> Score:
    """Nothing of turns that are not selected is in a group."""
    if isinstance(score, float):
        return score if selected_S.any() else np.nan
    return np.where(selected_S, score, np.nan)


@Traits(corrects=False, distributes=False, statistics=(), metrics=())
def reward(
    context: TeacherContext, *, where: Where = EVERYWHERE, scale: float = 1.0, normalised: Normalised = "none"
) -> Teacher:
    """Gives each turn the reward that the environment gave it.

    Args:
        context: What the run lends.
        where: The turns it rewards; the others it skips.
        scale: What every reward is multiplied by.
        normalised: ``group``: each less the mean of the turns at its depth in the episodes of its task, over their deviation.
    """
    return RewardTeacher(name=context.name, where=where, scale=scale, normalised=normalised)


@dataclass(frozen=True, eq=False, kw_only=True)
class RewardTeacher(Rewarding):
    """See :func:`reward`."""

    def scores(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> Sequence[Score]:
        """The reward of each turn."""
        return [np.array([turn.reward for turn in one.turns], np.float64) for one in trajectories]


def _callable(path: str) -> str:
    """``path``, once it names a function that takes a trajectory."""
    function = load(path)
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some built-in functions nothing is known
        return path
    try:
        signature.bind("trajectory")
    except TypeError as error:
        raise ValueError(f"{path!r} takes {signature}: {error}; the shape is (trajectory) -> float") from None
    return path


@Traits(corrects=False, distributes=False, statistics=(), metrics=())
def verifier(
    context: TeacherContext,
    *,
    check: Annotated[str, AfterValidator(_callable)],
    where: Where = EVERYWHERE,
    scale: float = 1.0,
    normalised: Normalised = "none",
) -> Teacher:
    """Rewards what a function of one's own finds of each episode.

    Args:
        context: What the run lends.
        check: ``package.module:name`` of a function of a :class:`~agentopd.types.Trajectory`. It returns a number for the episode,
            which stands on the last turn that ``where`` selects, or one number for each turn, ``None`` for no reward there. It
            is asked of episodes that did not fail and have a selected turn.
        where: The turns it rewards; the others it skips.
        scale: What every reward is multiplied by.
        normalised: ``group``: each less the mean of its group, over the deviation; see :func:`~agentopd.teachers.grouping.normalised`.
    """
    return Verifier(
        name=context.name, where=where, scale=scale, normalised=normalised, check=check, function=load(check)
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Verifier(Rewarding):
    """See :func:`verifier`."""

    check: str
    function: Callable[[Trajectory], Any]

    def scores(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> Sequence[Score]:
        """What the function returns.

        Raises:
            TeacherError: It raised, or returned something else than finite numbers, or not one for each turn.
        """
        pairs = zip(trajectories, selected, strict=True)
        return [self._score(trajectory) if selected_S.any() else np.nan for trajectory, selected_S in pairs]

    def _score(self, trajectory: Trajectory) -> Score:
        said = f"teacher {self.name!r}, trajectory {trajectory.key}: check={self.check}"
        try:
            given = self.function(trajectory)
        except Exception as error:  # the user's code
            raise TeacherError(
                f"{said} raised {describe(error)}; let it judge every episode, or leave some out by teachers.{self.name}.where"
            ) from error
        score = _read(given, len(trajectory.turns))
        if score is None:
            raise TeacherError(
                f"{said} returned {shown(given)}; return a finite number for the episode, or a sequence of one finite number or None for each "
                f"of its {len(trajectory.turns)} turns"
            )
        return score


def _read(given: Any, turns: int) -> Score | None:
    """A score from what somebody's function returned; ``None`` where it is none."""
    if hasattr(given, "tolist"):  # of numpy or torch
        given = given.tolist()
    if _is_number(given):
        return float(given)
    if not isinstance(given, list | tuple) or len(given) != turns:
        return None
    if not all(one is None or _is_number(one) for one in given):
        return None
    return np.array([np.nan if one is None else float(one) for one in given], np.float64)


def _is_number(given: Any) -> bool:
    return isinstance(given, Real) and bool(np.isfinite(float(given)))
