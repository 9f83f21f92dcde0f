"""Better actions as text: what a teacher that writes, an environment's expert or a model behind an API, says of a trajectory."""

from collections.abc import Sequence

import numpy as np

from agentopd.chat import Chat
from agentopd.chat.conversation import conversation
from agentopd.errors import TeacherError
from agentopd.teachers.base import rowless
from agentopd.types import CONTEXT, CORRECTED, Annotation, Segment, Trajectory, Turn


def corrections(teacher: str, chat: Chat, trajectory: Trajectory, corrected_S: Sequence[str | None]) -> Annotation:
    """An annotation that gives some turns a better action.

    Args:
        teacher: The teacher's name.
        chat: The student's messages and tokens.
        trajectory: What the student did.
        corrected_S: For each turn the canonical text of the action to take in the student's place; ``None`` skips the turn.

    Raises:
        TeacherError: The trajectory lacks its opening, or there is not one text, or ``None``, for each turn.
    """
    if len(corrected_S) != len(trajectory.turns) or any(not isinstance(one, str | None) for one in corrected_S):
        raise TeacherError(
            f"teacher {teacher!r}, trajectory {trajectory.key}: corrected_S has {len(corrected_S)} entries for "
            f"{len(trajectory.turns)} turns; give each turn a text, or None to skip it"
        )
    segments = tuple(
        _corrected(teacher, chat, trajectory, turn, action)
        for turn, action in zip(trajectory.turns, corrected_S, strict=True)
        if action is not None
    )
    skip_S = np.array([action is None for action in corrected_S], dtype=np.bool_)
    return rowless(teacher, trajectory, skip_S=skip_S, corrected_S=tuple(corrected_S), segments=segments)


def _corrected(teacher: str, chat: Chat, trajectory: Trajectory, turn: Turn, action: str) -> Segment:
    """What the student saw up to ``turn``, then ``action`` as the student would have written it there."""
    if not trajectory.opening:
        raise TeacherError(
            f"teacher {teacher!r}, trajectory {trajectory.key}: it has no opening, and a correction is written after the "
            "conversation; give the trajectory the messages that came before its first action"
        )
    seen_T = trajectory.segments[turn.segment].tokens_T[: turn.start]
    messages = conversation(trajectory, turn.index, chat)
    written_T = np.array(chat.write(messages, action, trajectory.tools), dtype=np.int32)
    acted_T = np.arange(len(seen_T) + len(written_T)) >= len(seen_T)
    return Segment(
        tokens_T=np.concatenate([seen_T, written_T]),
        turn_T=np.where(acted_T, turn.index, CONTEXT).astype(np.int32),
        actor_T=np.where(acted_T, 0, CONTEXT).astype(np.int32),
        trainable_T=acted_T,
        logprob_T=np.zeros(len(acted_T), dtype=np.float32),
        source=CORRECTED,
    )
