"""A trajectory as messages, which teachers with another tokenizer or template can read too."""

from collections.abc import Iterator, Sequence

from agentopd.chat.codec import Chat
from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN
from agentopd.tooling.action import ParsedAction, parse_action
from agentopd.types import Message, Trajectory, Turn


def conversation(trajectory: Trajectory, turn: int, chat: Chat | None = None) -> list[Message]:
    """The messages before a turn: the opening, then each earlier action with its observations.

    Turns that rollout dropped to make room (``on_overflow: drop_oldest``) are among them: nothing of the episode is left out.

    Args:
        trajectory: The episode.
        turn: Which turn, from 0; the number of turns gives the whole conversation.
        chat: The chat that wrote the trajectory's tokens. With it the actions are the very messages that rollout put into its
            template; without it the calls of an action are its ``tool_calls``, whether or not that template can write them.

    Raises:
        IndexError: There is no such turn.
    """
    count = len(trajectory.turns)
    if not 0 <= turn <= count:
        raise IndexError(f"turn={turn}: trajectory {trajectory.key} has {count} turns; give 0 to {count}")
    messages = list(trajectory.opening)
    for earlier in trajectory.turns[:turn]:
        messages += [_read(trajectory, earlier, chat) if chat else _rebuilt(earlier), *earlier.observations]
    return messages


def without_oldest(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The conversation without its oldest turn, then without the two oldest, and so on down to the latest alone.

    The opening stays. So rollout makes room (``on_overflow: drop_oldest``).
    """
    starts = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for start in starts[1:]:
        yield [*messages[: starts[0]], *messages[start:]]


def _read(trajectory: Trajectory, turn: Turn, chat: Chat) -> Message:
    tokens = trajectory.segments[turn.segment].tokens_T[: turn.stop].tolist()
    return chat.read(tokens[turn.start :], trajectory.tools, tokens[: turn.start]).message


def _rebuilt(turn: Turn) -> Message:
    """The assistant's message of a turn; an action in which a call is malformed is text as a whole."""
    parsed = parse_action(turn.action)
    if parsed.problems:
        return {"role": "assistant", "content": turn.text}
    message: Message = {"role": "assistant", "content": thought_of(turn, parsed) + parsed.content}
    if parsed.calls:
        functions = [{"name": call.name, "arguments": dict(call.arguments)} for call in parsed.calls]
        message["tool_calls"] = [{"type": "function", "function": function} for function in functions]
    return message


def thought_of(turn: Turn, parsed: ParsedAction) -> str:
    """The thinking that opens a turn, marks and newlines included: what its canonical action leaves out.

    One that never ended has the mark that opens it even where the prompt wrote that: nothing else would tell it from what is said.

    Args:
        turn: The turn.
        parsed: Its action.
    """
    text = turn.text
    if THOUGHT_CLOSE in text:
        said = text.partition(THOUGHT_CLOSE)[2].lstrip("\n")
        return text[: len(text) - len(said)] if parse_action(text) != parsed else ""
    if parsed != ParsedAction("") or not text.strip():
        return ""
    if text.lstrip().startswith(THOUGHT_OPEN):
        return text
    return f"{THOUGHT_OPEN}\n{text}" if turn.thinking else ""
