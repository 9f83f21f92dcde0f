"""Views: the token ids that a teacher reads, and where the student's action tokens stand among them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.chat import Chat, Hint
from agentopd.chat.conversation import conversation, without_oldest
from agentopd.chat.hint import NEXT, MissingFactsError
from agentopd.errors import TeacherError
from agentopd.teachers.hindsight import observed
from agentopd.types import Bools, Message, Trajectory, Turn, View


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


def own_views(trajectory: Trajectory, segment: int) -> list[View]:
    """:func:`own_view`, which is all that a teacher reads of a segment to which nothing is added."""
    return [own_view(trajectory, segment)]


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


def hinted_views(trajectory: Trajectory, segment: int, *, chat: Chat, hint: Hint) -> list[View]:
    """The student's own tokens with the hint: behind a segment's prompt, or, where each turn is shown another one, a view a turn.

    The hint of a turn stands behind the message that came last before it. The context before that message is the student's own
    tokens. Turns for whose action nothing came back have no view, nor have those before which nobody but the student spoke.

    Args:
        trajectory: The episode, with its privileged facts and what hindsight adds to them.
        segment: Which of its segments.
        chat: The student's messages and tokens: what wrote the trajectory.
        hint: What is shown.

    Raises:
        UnreadableError: As of :func:`hinted_view`.
        TeacherError: As of :func:`hinted_view`.
    """
    if not hint.by_turn:
        return [hinted_view(trajectory, segment, chat=chat, hint=hint)]
    before = [True, *(bool(turn.observations) for turn in trajectory.turns)]
    turns = [turn for turn in trajectory.turns if turn.segment == segment and observed(turn) and before[turn.index]]
    return [_turn_view(trajectory, turn, chat, hint) for turn in turns]


def _turn_view(trajectory: Trajectory, turn: Turn, chat: Chat, hint: Hint) -> View:
    own = own_view(trajectory, turn.segment)
    own = select(own, (own.index_A >= turn.start) & (own.index_A < turn.stop))
    try:
        context = _hinted_context(trajectory, turn, chat, hint, {**trajectory.privileged, NEXT: observed(turn)})
    except MissingFactsError as error:
        raise UnreadableError(str(error)) from error
    tokens_T = np.concatenate([np.array(context, np.int32), own.tokens_T[turn.start :]])
    return replace(own, tokens_T=tokens_T, position_A=own.position_A + np.int32(len(context) - turn.start))


def _hinted_context(
    trajectory: Trajectory, turn: Turn, chat: Chat, hint: Hint, facts: Mapping[str, Any]
) -> Sequence[int]:
    """The tokens before a turn with the hint behind the last message of them."""
    tools, tokens_T = list(trajectory.tools), trajectory.segments[turn.segment].tokens_T
    earlier = [one for one in trajectory.turns[: turn.index] if one.segment == turn.segment]
    if not earlier:
        messages, _ = prompt_of(trajectory, turn.segment, chat)
        return chat.prompt(hint.behind(messages, len(messages) - 1, facts), tools)
    last = earlier[-1]
    before, action = (
        conversation(trajectory, last.index, chat),
        chat.read(tokens_T[last.start : last.stop].tolist(), tools, tokens_T[: last.start].tolist()),
    )
    shown = hint.behind(last.observations, len(last.observations) - 1, facts)
    extension = chat.extend(before, action, shown, tools)
    kept = [] if extension.drift == "forked" else tokens_T[: last.stop].tolist()
    return [*kept, *extension.tokens]


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
