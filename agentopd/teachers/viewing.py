"""What teachers share that read views: which they read, and what becomes of the rows that they give."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from agentopd.errors import TeacherError, under
from agentopd.teachers.base import Stateless, rowless, tokens_of
from agentopd.teachers.views import UnreadableError, from_segments, own_view, problem, select
from agentopd.types import Annotation, Block, Bools, Floats, Ints, Trajectory, View

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, eq=False, kw_only=True)
class Viewing(Stateless):
    """A base for teachers that read a view of each segment. ``view`` builds it; it alone knows the teacher's context."""

    view: Callable[[Trajectory, int], View] = own_view
    longest: int | None = None
    """The tokens of a view at most."""

    def views(self, trajectories: Sequence[Trajectory]) -> list[list[View]]:
        """The views of each trajectory's segments, cut down to the selected tokens; none of an episode that it cannot read.

        The log says which are skipped.

        Raises:
            TeacherError: A view is malformed, or it can read none of the episodes.
        """
        return readable(trajectories, lambda trajectory: list(self.views_of(trajectory)), [])

    def views_of(self, trajectory: Trajectory) -> Iterator[View]:
        """The views of one trajectory.

        Raises:
            UnreadableError: It cannot be read.
            TeacherError: A view is malformed.
        """
        selected = [tokens_of(self.where, trajectory, segment) for segment in trajectory.segments]
        try:
            for segment, one_T in enumerate(selected):
                if one_T.any():
                    yield self._view(trajectory, segment, selected)
        except UnreadableError as error:
            raise UnreadableError(f"teacher {self.name!r}, trajectory {trajectory.key}: {error}") from error

    def _view(self, trajectory: Trajectory, segment: int, selected: Sequence[Bools]) -> View:
        with under(f"teachers.{self.name}"):
            view = self.view(trajectory, segment)
        wrong = problem(view, trajectory)
        if wrong:
            raise TeacherError(f"teacher {self.name!r}, trajectory {trajectory.key}: {wrong}")
        cut = select(view, from_segments(view, selected))
        if self.longest is not None and len(cut.tokens_T) > self.longest:
            raise UnreadableError(
                f"its view has {len(cut.tokens_T)} tokens, and its model reads at most {self.longest}; lower rollout.max_length, or show "
                "it less"
            )
        return cut


def readable(trajectories: Sequence[Trajectory], read: Callable[[Trajectory], T], nothing: T) -> list[T]:
    """What ``read`` makes of each trajectory, and ``nothing`` of one that cannot be read; the log says which.

    Raises:
        UnreadableError: None of them can be read.
    """
    of_each: list[T] = []
    unreadable: list[UnreadableError] = []
    for trajectory in trajectories:
        try:
            of_each.append(read(trajectory))
        except UnreadableError as error:
            of_each.append(nothing)
            unreadable.append(error)
    if unreadable and len(unreadable) == len(trajectories):
        raise unreadable[0]
    for reason in unreadable:
        _log.warning("%s; the episode is skipped", reason)
    return of_each


def annotated(
    name: str, trajectory: Trajectory, views: Sequence[View], block: Block, taken_N: Floats, entropy_N: Floats
) -> Annotation:
    """The annotation of rows that come view by view; a turn without a row is skipped.

    Args:
        name: What signs it.
        trajectory: The episode.
        views: The views of its segments.
        block: The rows' distributions.
        taken_N: The log-probabilities of the tokens taken.
        entropy_N: Entropies in nats.
    """
    skip_S = np.ones(len(trajectory.turns), dtype=np.bool_)
    for view in views:
        skip_S[from_segments(view, [segment.turn_T for segment in trajectory.segments])] = False
    return replace(
        rowless(name, trajectory, skip_S=skip_S),
        segment_N=_joined([view.segment_A for view in views]),
        index_N=_joined([view.index_A for view in views]),
        block=block,
        taken_logprob_N=taken_N,
        entropy_N=entropy_N,
    )


def _joined(columns: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, dtype=np.int32), *columns])
