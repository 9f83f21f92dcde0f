"""What teachers share that read views: which they read, and what becomes of the rows that they give."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from agentopd.errors import TeacherError, under
from agentopd.teachers.base import Stateless, rowless, tokens_of
from agentopd.teachers.hindsight import Hindsight
from agentopd.teachers.views import UnreadableError, from_segments, hinted_views, own_views, problem, select
from agentopd.types import Annotation, Block, Bools, Floats, Ints, Trajectory, View

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, eq=False, kw_only=True)
class Viewing(Stateless):
    """A base for teachers that read views of each segment. ``shown`` builds them; it alone knows the teacher's context."""

    shown: Callable[[Trajectory, int], Sequence[View]] = own_views
    longest: int | None = None
    """The tokens of a view at most."""
    ids: int | None = None
    """How many token ids its model can read, where that is known."""

    @cached_property
    def hindsight(self) -> Hindsight | None:
        """What its hint names that is known only of episodes that are over."""
        return None if self.hint is None or not self.hint.hindsight else Hindsight(self.hint)

    @property
    def reads_plainly(self) -> bool:
        """Whether the chat, the episode and ``hint`` decide what it reads; a view of one's own may read anything, and some hints show
        other episodes."""
        shipped = getattr(self.shown, "func", self.shown) in (own_views, hinted_views)
        return shipped and (self.hindsight is None or not self.hindsight.shows_others)

    def views(self, trajectories: Sequence[Trajectory]) -> list[list[View]]:
        """The views of each trajectory's segments, cut down to the selected tokens; none of an episode that it cannot read.

        The log says which are skipped, but for those of which hindsight has nothing to tell.

        Raises:
            TeacherError: A view is malformed, or it can read none of the episodes.
        """
        told = self.hindsight.tell(trajectories) if self.hindsight else trajectories
        return readable(told, lambda trajectory: list(self.views_of(trajectory)), [])

    def views_of(self, trajectory: Trajectory) -> Iterator[View]:
        """The views of one trajectory, which hindsight has told of; none where it has nothing to tell.

        Raises:
            UnreadableError: It cannot be read.
            TeacherError: A view is malformed.
        """
        if self.hindsight and not self.hindsight.told(trajectory):
            return
        selected = [tokens_of(self.where, trajectory, segment) for segment in trajectory.segments]
        try:
            for segment, one_T in enumerate(selected):
                if one_T.any():
                    yield from self._views(trajectory, segment, selected)
        except UnreadableError as error:
            raise UnreadableError(f"teacher {self.name!r}, trajectory {trajectory.key}: {error}") from error

    def _views(self, trajectory: Trajectory, segment: int, selected: Sequence[Bools]) -> Iterator[View]:
        with under(f"teachers.{self.name}"):
            shown = self.shown(trajectory, segment)
        for view in shown:
            wrong = problem(view, trajectory)
            if wrong:
                raise TeacherError(f"teacher {self.name!r}, trajectory {trajectory.key}: {wrong}")
            cut = select(view, from_segments(view, selected))
            if len(cut.position_A):
                self._require_read(cut)
                yield cut

    def _require_read(self, view: View) -> None:
        if self.longest is not None and len(view.tokens_T) > self.longest:
            raise UnreadableError(
                f"its view has {len(view.tokens_T)} tokens, and its model reads at most {self.longest}; lower rollout.max_length, or show "
                "it less"
            )
        if self.ids is not None and (highest := int(view.tokens_T.max())) >= self.ids:
            raise UnreadableError(
                f"its view holds the token id {highest}, which is no token but fills up the student's head, and its model has {self.ids} ids; "
                "choose a teacher with as many as the student's head"
            )


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
