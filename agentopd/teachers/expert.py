"""A teacher that says what the environment's own expert would have done in the student's place.

Labelling the states that the learner visits, whatever it did there, is DAgger (Ross et al., 2011, arXiv 1011.0686).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from agentopd.chat import Chat
from agentopd.chat.conversation import conversation
from agentopd.errors import TeacherError
from agentopd.teachers.base import EVERYWHERE, Stateless, Teacher, TeacherContext, rowless, turns_of
from agentopd.types import CONTEXT, Annotation, Bools, Segment, Trajectory, Turn
from agentopd.where import Where


def expert(context: TeacherContext, *, where: Where = EVERYWHERE) -> Teacher:
    """Corrects each turn by the action of the environment's expert at the state in which the student acted.

    The environment needs an ``expert`` method; rollout records its advice. Where the student did the same, the correction is
    given all the same: every state that the student visits is labelled.

    Args:
        context: What the run lends.
        where: The turns it corrects; the others it skips.
    """
    return ExpertTeacher(name=context.name, where=where, advice=True, chat=context.chat)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpertTeacher(Stateless):
    """See :func:`expert`."""

    chat: Chat

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """A corrected action for each selected turn that has advice.

        Raises:
            TeacherError: There are selected turns, and not one of them has advice; or a trajectory lacks its opening.
        """
        selected = [turns_of(self.where, trajectory) for trajectory in trajectories]
        self._check(trajectories, selected)
        return [self._annotation(*pair) for pair in zip(trajectories, selected, strict=True)]

    def _check(self, trajectories: Sequence[Trajectory], selected: Sequence[Bools]) -> None:
        turns = [
            (trajectory.task.env_id, turn.advice)
            for trajectory, selected_S in zip(trajectories, selected, strict=True)
            for turn in compress(trajectory.turns, selected_S)
        ]
        if turns and all(advice is None for _, advice in turns):
            envs = ", ".join(sorted({env_id for env_id, _ in turns}))
            raise TeacherError(
                f"teacher {self.name!r}: no turn has an expert's advice in {envs}; give the environment an `expert` "
                "method that returns the best action, or choose another teacher"
            )

    def _annotation(self, trajectory: Trajectory, selected_S: Bools) -> Annotation:
        advised_S = selected_S & np.array([turn.advice is not None for turn in trajectory.turns], dtype=np.bool_)
        corrected_S = tuple(turn.advice if advised_S[s] else None for s, turn in enumerate(trajectory.turns))
        segments = tuple(
            self._corrected(trajectory, turn, action)
            for turn, action in zip(trajectory.turns, corrected_S, strict=True)
            if action is not None
        )
        return rowless(self.name, trajectory, skip_S=~advised_S, corrected_S=corrected_S, segments=segments)

    def _corrected(self, trajectory: Trajectory, turn: Turn, action: str) -> Segment:
        """What the student saw up to ``turn``, then ``action`` as the student would have written it there."""
        if not trajectory.opening:
            raise TeacherError(
                f"teacher {self.name!r}, trajectory {trajectory.key}: it has no opening, and a correction is written after "
                "the conversation; give the trajectory the messages that came before its first action"
            )
        seen_T = trajectory.segments[turn.segment].tokens_T[: turn.start]
        messages = conversation(trajectory, turn.index, self.chat)
        written_T = np.array(self.chat.write(messages, action, trajectory.tools), dtype=np.int32)
        acted_T = np.arange(len(seen_T) + len(written_T)) >= len(seen_T)
        return Segment(
            tokens_T=np.concatenate([seen_T, written_T]),
            turn_T=np.where(acted_T, turn.index, CONTEXT).astype(np.int32),
            actor_T=np.where(acted_T, 0, CONTEXT).astype(np.int32),
            trainable_T=acted_T,
            logprob_T=np.zeros(len(acted_T), dtype=np.float32),
            source="corrected",
        )
