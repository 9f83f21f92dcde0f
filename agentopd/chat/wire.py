"""Conversations as chat completions take them over the wire, and what comes back as canonical text."""

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from agentopd.chat.thinking import THOUGHT_CLOSE
from agentopd.tooling.action import parse_action, render_action
from agentopd.tooling.answer import well_formed
from agentopd.types import Message, ToolCall

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""The names of tools that such servers take; one refuses a whole conversation for another."""


def to_wire(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages of :func:`agentopd.chat.conversation.conversation`, made without a chat, as a server of chat completions takes them.

    Calls get ids, and their answers the same ids, in order. A turn whose calls were not all answered, or whose names such servers
    refuse, is text, its calls written as blocks; so are answers that belong to no call, which a user then says.
    """
    wired: list[dict[str, Any]] = []
    ids: deque[str] = deque()
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            answers = _answers(messages[i + 1 :])
            wired.append(_called(message, i) if _answered(message, answers) else _plain(message))
            ids = deque(call["id"] for call in wired[-1].get("tool_calls", ()))
        elif message["role"] == "tool" and ids:
            wired.append({"role": "tool", "tool_call_id": ids.popleft(), "content": well_formed(message["content"])})
        else:
            role = "user" if message["role"] == "tool" else message["role"]
            wired.append({"role": role, "content": well_formed(message["content"])})
            ids = deque()
    return wired


def from_wire(content: str, calls: Sequence[tuple[str, str]]) -> str | None:
    """The canonical text of what a model said; ``None`` where it says nothing but white space, or a call is malformed.

    Thinking that opens the content is left out. Calls may stand in the content as blocks, as servers without a parser send them.

    Args:
        content: The text beside the calls.
        calls: The name of each call, and its arguments as JSON.
    """
    said = content.partition(THOUGHT_CLOSE)[2].lstrip("\n") if THOUGHT_CLOSE in content else content
    parsed = parse_action(well_formed(said))
    if parsed.problems:
        return None
    try:
        made = [*parsed.calls, *(ToolCall(name, _arguments(text)) for name, text in calls)]
        written = well_formed(render_action(parsed.content, made))
        return written if written.strip() else None
    except (ValueError, RecursionError):
        return None


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call; some servers send none as no text."""
    found = json.loads(text or "{}")
    if not isinstance(found, dict):
        raise ValueError("arguments are an object")
    return found


def _answers(after: Sequence[Message]) -> list[Message]:
    return list(_while_tool(after))


def _while_tool(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        if message["role"] != "tool":
            return
        yield message


def _answered(message: Message, answers: Sequence[Message]) -> bool:
    """Whether each call of a message has an answer, in order, and a name that a server takes."""
    names = [call["function"]["name"] for call in message.get("tool_calls", ())]
    return [one.get("name", name) for one, name in zip(answers, names, strict=False)] == names and all(
        NAME.fullmatch(name) for name in names
    )


def _called(message: Message, i: int) -> dict[str, Any]:
    """The message with its calls as data; one without calls is itself."""
    content = well_formed(message["content"])
    calls = [
        {
            "id": f"call_{i}_{c}",
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for c, call in enumerate(message.get("tool_calls", ()))
    ]
    return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})


def _plain(message: Message) -> dict[str, Any]:
    """The message with its calls as text."""
    calls = [ToolCall(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())]
    blocks = render_action("", calls)
    return {"role": "assistant", "content": well_formed("\n".join(filter(None, [message["content"], blocks])))}
