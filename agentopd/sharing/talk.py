"""A conversation between records and the files that other programs read: messages, the tools that were shown, what is learned from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentopd.chat.conversation import conversation
from agentopd.chat.formats import openai
from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN
from agentopd.tooling.action import parse_action, render_action
from agentopd.tooling.answer import plain_data, well_formed
from agentopd.types import Message, ToolCall, Trajectory


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, whatever file it stands in.

    Calls hold their arguments as mappings, answers of tools the tool's name, and thinking stands in ``reasoning_content``, without marks.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """Schemas, as chat templates take them."""
    untrained: frozenset[int] = frozenset()
    """The assistant's messages, by their place, that nobody is to learn from."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the episode beside its text: see :mod:`agentopd.sharing.facts`."""

    @property
    def turns(self) -> list[int]:
        """Where the assistant's messages stand."""
        return [at for at, message in enumerate(self.messages) if message["role"] == "assistant"]


def talk_of(trajectory: Trajectory, facts: Mapping[str, Any] | None = None) -> Talk:
    """The whole conversation of an episode.

    What nobody was shown is not in it: privileged facts, an expert's advice, a teacher's word. Assistant's messages of the opening, and
    turns without a trainable token, are ``untrained``.
    """
    messages = conversation(trajectory, len(trajectory.turns))
    opened = len(trajectory.opening)
    said = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    acted = [at for at in said if at >= opened]
    thinks = {at for at, turn in zip(acted, trajectory.turns, strict=True) if turn.thinking}
    messages = [_clean(message, at in thinks) for at, message in enumerate(messages)]
    still = {at for at, turn in zip(acted, trajectory.turns, strict=True) if not _trains(trajectory, turn.index)}
    tools = tuple(plain_data(dict(tool)) for tool in trajectory.tools)
    return Talk(tuple(messages), tools, frozenset({at for at in said if at < opened} | still), facts or {})


def _trains(trajectory: Trajectory, turn: int) -> bool:
    """Whether a turn has a trainable token, or none at all."""
    of_turn = [segment.trainable_T[segment.turn_T == turn] for segment in trajectory.segments]
    trainable_T = np.concatenate([np.zeros(0, np.bool_), *of_turn])
    return not len(trainable_T) or bool(trainable_T.any())


def spoken(canonical: str) -> Message:
    """The assistant's message of an action: its calls as calls where all are well-formed, else everything as text."""
    parsed = parse_action(canonical)
    if parsed.problems:
        return thinking_apart({"role": "assistant", "content": canonical})
    message: Message = {"role": "assistant", "content": parsed.content}
    if parsed.calls:
        message["tool_calls"] = [openai(call) for call in parsed.calls]
    return thinking_apart(message)


def thinking_apart(message: Message, thinks: bool = False) -> Message:
    """The message with the thinking that opens its content as ``reasoning_content``; without that key where there is none.

    Args:
        message: The message.
        thinks: Whether what stands before the mark that ends thinking is known to be that, though it may lack the mark that opens it.
    """
    content, reasons = message["content"], message.get("reasoning_content", "").strip()
    while not reasons and (found := _thought(content, thinks)) is not None:
        (reasons, content), thinks = found, False
    apart: Message = {**message, "content": content}
    apart.pop("reasoning_content", None)
    if reasons:
        apart["reasoning_content"] = reasons
    return apart


def _thought(content: str, thinks: bool) -> tuple[str, str] | None:
    """The thinking that opens a text, without marks, and the rest; ``None`` where there is none, or its mark stands in a call."""
    thought, mark, said = content.partition(THOUGHT_CLOSE)
    opened = thought.lstrip().startswith(THOUGHT_OPEN)  # where it never ended, all is thought
    if not opened and (not mark or (not thinks and parse_action(thought).problems)):
        return None
    return thought.strip().removeprefix(THOUGHT_OPEN).strip(), said.lstrip("\n")


def written(message: Message) -> tuple[str, str]:
    """The canonical action of an assistant's message, and the thinking before it, marks included. Calls may stand in the content as blocks.

    Raises:
        ValueError: No action can hold it.
    """
    calls = [ToolCall(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())]
    content, reasons = message["content"], message.get("reasoning_content", "")
    if THOUGHT_CLOSE in reasons:
        raise ValueError(f"its thinking holds {THOUGHT_CLOSE}, which ends thinking; take it out")
    thought = f"{THOUGHT_OPEN}\n{reasons}\n{THOUGHT_CLOSE}\n\n" if reasons else ""
    if not calls:
        return content, thought
    held = parse_action(content)
    if held.problems:
        return "\n".join([content, render_action("", calls)]), thought
    return render_action(held.content, [*held.calls, *calls]), thought


def _clean(message: Message, thinks: bool) -> Message:
    """A message of records as files may hold it: well-formed, and with nothing but what belongs to its role."""
    clean: Message = {"role": message["role"], "content": well_formed(message["content"])}
    if message["role"] != "assistant":
        return {**clean, "name": well_formed(message["name"])} if message.get("name") else clean
    if message.get("tool_calls"):
        functions = [call["function"] for call in message["tool_calls"]]
        calls = [ToolCall(well_formed(one["name"]), plain_data(dict(one["arguments"]))) for one in functions]
        clean["tool_calls"] = [openai(call) for call in calls]
    if message.get("reasoning_content"):
        clean["reasoning_content"] = well_formed(message["reasoning_content"])
    return thinking_apart(clean, thinks)


def answered(messages: Sequence[Message]) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """The answers of tools by their place, each with the call that it answers: the place of the message, and which of its calls.

    An answer belongs to the first call of its name, in the assistant's message before it, that has none yet; one without a name to the
    first such call of all; the rest to none.
    """
    pending: list[tuple[int, int, str]] = []
    for at, message in enumerate(messages):
        if message["role"] == "assistant":
            calls = message.get("tool_calls", ())
            pending = [(at, number, call["function"]["name"]) for number, call in enumerate(calls)]
        elif message["role"] == "tool":
            name = message.get("name")
            found = next((call for call in pending if name in (None, call[2])), None)
            if found is not None:
                pending.remove(found)
            yield at, None if found is None else found[:2]
