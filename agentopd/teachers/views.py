"""Views: the token ids that a teacher reads, and where the student's action tokens stand among them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.chat import Chat, Hint
from agentopd.chat.conversation import conversation, without_oldest
from agentopd.chat.hint import MissingFactsError
from agentopd.errors import TeacherError
from agentopd.types import Bools, Message, Trajectory, View


class UnreadableError(TeacherError):
    """One episode that a teacher cannot read, others it can: it is skipped there."""


def own_view(trajectory: Trajectory, segment: int) -> View:
    """The student's own tokens: what a teacher with the student's tokenizer and template reads.

    Args:
        trajectory: The episode.
        segment: Which of its segments.

    Returns:
        A view of the whole segment that covers every action token in it.
    """
    index_A = np.flatnonzero(trajectory.segments[segment].turn_T >= 0).astype(np.int32)
    segment_A = np.full(len(index_A), segment, dtype=np.int32)
    return View(trajectory.segments[segment].tokens_T, index_A, segment_A, index_A)


def hinted_view(trajectory: Trajectory, segment: int, *, chat: Chat, hint: Hint) -> View:
    """The student's own tokens behind a prompt that holds the hint as well.

    Args:
        trajectory: The episode, with its privileged facts.
        segment: Which of its segments.
        chat: The student's messages and tokens: what wrote the trajectory.
        hint: What is shown.

    Returns:
        A view of the whole segment that covers every action token in it.

    Raises:
        UnreadableError: The hint names a fact that the environment did not tell.
        TeacherError: The segment's prompt cannot be written again: another chat wrote it.
    """
    own = own_view(trajectory, segment)
    if not len(own.index_A):
        return own
    messages, length = prompt_of(trajectory, segment, chat)
    try:
        shown = hint.shown(messages, trajectory.privileged)
    except MissingFactsError as error:
        raise UnreadableError(str(error)) from error
    prompt = chat.prompt(shown, list(trajectory.tools))
    tokens_T = np.concatenate([np.array(prompt, np.int32), own.tokens_T[length:]])
    return replace(own, tokens_T=tokens_T, position_A=own.position_A + np.int32(len(prompt) - length))


def prompt_of(trajectory: Trajectory, segment: int, chat: Chat) -> tuple[list[Message], int]:
    """The conversation that a segment starts with, and how many of its tokens that is."""
    tokens_T = trajectory.segments[segment].tokens_T
    first = next(turn for turn in trajectory.turns if turn.segment == segment)
    whole = conversation(trajectory, first.index, chat)
    for messages in (whole, *without_oldest(whole)):
        prompt = chat.prompt(messages, list(trajectory.tools))
        if tokens_T[: first.start].tolist() == prompt:
            return messages, len(prompt)
    raise TeacherError(
        f"trajectory {trajectory.key}: the prompt of segment {segment} is not what the chat template gives for its messages; "
        "annotate with the tokenizer and template_kwargs that the episode was played with"
    )


def from_segments(view: View, columns_T: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """For each action token of ``view``, its entry in a column of its segment, [A].

    Args:
        view: Tells the segment and the position of each action token.
        columns_T: One column for each segment of the trajectory.
    """
    starts = np.cumsum([0, *(len(column_T) for column_T in columns_T)])
    return np.concatenate(columns_T)[starts[view.segment_A] + view.index_A]


def problem(view: View, trajectory: Trajectory) -> str | None:
    """What keeps ``view`` from showing the student's action tokens verbatim, each after a row that predicts it."""
    outside_A = (view.position_A < 1) | (view.position_A >= len(view.tokens_T))
    if outside_A.any():
        return (
            f"a view of {len(view.tokens_T)} tokens has an action token at position {view.position_A[outside_A][0]}, "
            "which no row before it predicts; put context before the first action"
        )
    shown_A = view.tokens_T[view.position_A]
    acted_A = from_segments(view, [segment.tokens_T for segment in trajectory.segments])
    if (shown_A == acted_A).all():
        return None
    a = int(np.argmax(shown_A != acted_A))
    return (
        f"a view shows token {shown_A[a]} at position {view.position_A[a]} where the student produced {acted_A[a]} "
        f"(segment {view.segment_A[a]}, position {view.index_A[a]}); copy the student's action ids, never re-encode them"
    )


def select(view: View, mask_A: Bools) -> View:
    """The action tokens that ``mask_A`` marks, and the tokens up to the last of them.

    Attention is causal, so what is cut off could not have changed a row that is kept.
    """
    position_A = view.position_A[mask_A]
    end = int(position_A.max(initial=-1)) + 1
    return View(view.tokens_T[:end], position_A, view.segment_A[mask_A], view.index_A[mask_A])
