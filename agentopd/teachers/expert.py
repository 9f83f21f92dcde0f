"""A teacher that says what the environment's own expert would have done in the student's place.

Labelling the states that the learner visits, whatever it did there, is DAgger (Ross et al., 2011, arXiv 1011.0686).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from agentopd.chat import Chat
from agentopd.errors import TeacherError
from agentopd.teachers.base import EVERYWHERE, Stateless, Teacher, TeacherContext, turns_of
from agentopd.teachers.corrections import corrections
from agentopd.teachers.traits import Traits
from agentopd.types import Annotation, Bools, Trajectory
from agentopd.where import Where


@Traits(distributes=False, rewards=False, statistics=(), needs_expert=True)
def expert(context: TeacherContext, *, where: Where = EVERYWHERE) -> Teacher:
    """Corrects each turn by the action of the environment's expert at the state in which the student acted.

    The environment needs an ``expert`` method; rollout records its advice. Where the student did the same, the correction is
    given all the same: every state that the student visits is labelled.

    Args:
        context: What the run lends.
        where: The turns it corrects; the others it skips.
    """
    return ExpertTeacher(name=context.name, where=where, corrects=True, needs_expert=True, chat=context.chat)


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
        corrected_S = [turn.advice if selected_S[s] else None for s, turn in enumerate(trajectory.turns)]
        return corrections(self.name, self.chat, trajectory, corrected_S)
