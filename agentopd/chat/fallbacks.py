"""What a chat template takes and what it does not, found by trying it, and what stands in for the rest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

from agentopd.chat.formats import FORMATS, HERMES, openai, parse
from agentopd.tooling.action import render_action
from agentopd.types import Message, ToolCall

PROBE, OTHER = "Kestrel", "Merlin"
"""Words that no template contains."""

_PARAMETERS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "description": "A number."}, "y": {"type": "string"}},
}
SCHEMAS: Sequence[Mapping[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": f"Finds {name}.", "parameters": _PARAMETERS}}
    for name in (PROBE, OTHER)
]
CALLS = (ToolCall(PROBE, {"x": 1, "y": "one two"}), ToolCall(OTHER, {"x": 2, "y": ""}))
HELLO: Message = {"role": "user", "content": "Hello"}


class Try(Protocol):
    """Renders a conversation as the template does; ``None`` where it refuses."""

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), generate: bool = False
    ) -> str | None:
        """The text of ``messages``."""
        ...


@dataclass(frozen=True, slots=True)
class Ways:
    """How conversations are put to one template."""

    call_format: str = HERMES
    parts: bool = False
    """Contents are lists of parts, as templates for images want them."""
    system: bool = True
    """It takes a system message; else that text opens the first user message."""
    merged: bool = False
    """User and assistant must take turns: messages of the user that follow each other are one."""
    calls: int = 0
    """How many calls in one turn it writes in ``call_format``: 0, 1, or 2 for any number. Others are text."""
    content: bool = False
    """It writes what is said beside a call."""
    tools: bool = False
    """It shows tools; else the system message describes them, and calls are text in the content."""
    observations: bool = True
    """It takes tools' answers in the role ``tool``; else they are user messages."""

    def writes(self, calls: Sequence[ToolCall], content: str) -> bool:
        """Whether the template itself writes such a turn."""
        return min(len(calls), 2) <= self.calls and (self.content or not content.strip())

    def adapt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[Sequence[Any], Sequence[Mapping[str, Any]]]:
        """The messages and tools that the template is given."""
        if tools and not self.tools:
            messages, tools = _told(messages, tools, FORMATS[self.call_format].teaches), ()
        if not self.observations:
            form = FORMATS[self.call_format].answer
            messages = [_answer(message, form) if message["role"] == "tool" else message for message in messages]
        if not self.system and messages and messages[0]["role"] == "system":
            messages = _opened(messages)
        if self.merged:
            messages = _merged(messages)
        return [_parted(message) for message in messages] if self.parts else messages, tools

    def describe(self) -> str:
        """One sentence."""
        where = "system message" if self.system else "first user message"
        calls = {0: "as text", 1: "by the template, several in one turn as text", 2: "by the template"}[self.calls]
        return "; ".join(
            [
                f"tools: {'by the template' if self.tools else f'told in the {where}'}",
                f"calls: {self.call_format}, {calls}",
                f"observations: {'tool role' if self.observations else 'user messages'}",
                f"system message: {'by the template' if self.system else 'at the head of the first user message'}",
            ]
        )

    @property
    def fall_back(self) -> bool:
        """Whether something stands in for what the template lacks."""
        return not (self.tools and self.calls and self.observations and self.system)


def find_ways(render: Try, call_format: str | None) -> Ways | None:
    """Tries the template on small conversations; ``None`` if it shows no plain conversation at all.

    Args:
        render: Renders messages as they are.
        call_format: A key of ``FORMATS``; by default the one that the template writes, or else Hermes.
    """
    ways = next((ways for ways in (Ways(), Ways(parts=True)) if _shows(render, ways, [HELLO, _said(PROBE)])), None)
    if ways is None:
        return None
    ways = replace(ways, system=_shows(render, ways, [{"role": "system", "content": PROBE}, HELLO, _said(OTHER)]))
    twice: list[Message] = [HELLO, _said(OTHER), HELLO, {"role": "user", "content": PROBE}]
    ways = replace(ways, merged=not _shows(render, ways, twice))
    ways = _with_calls(render, ways, [call_format] if call_format else list(FORMATS))
    as_tool = not FORMATS[ways.call_format].answers_users and _takes_answers(render, ways)
    return replace(ways, observations=as_tool)


def _with_calls(render: Try, ways: Ways, formats: Sequence[str]) -> Ways:
    """The first of ``formats`` in which the template writes calls that can be read back; it must show tools too."""
    found = next((name for name in formats if _writes(render, ways, name, CALLS[:1])), None)
    if found is None or not _shows(render, replace(ways, tools=True), [HELLO, _said(OTHER)], SCHEMAS):
        return replace(ways, call_format=formats[0])
    calls = 2 if _writes(render, ways, found, CALLS) else 1
    content = _writes(render, ways, found, CALLS[:1], "So be it.")
    return replace(ways, call_format=found, tools=True, calls=calls, content=content)


def _writes(render: Try, ways: Ways, call_format: str, calls: Sequence[ToolCall], content: str = "") -> bool:
    hello: Message = {"role": "user", "content": "Salute"}
    end = (render(*ways.adapt([hello, _said(PROBE)], ())) or "").rpartition(PROBE)[2]
    text = (render(*ways.adapt([hello, called(calls, content)], ())) or "").removesuffix(end)
    written = text.rpartition("Salute")[2]
    if FORMATS[call_format].write and parse(HERMES, written).calls:
        return False  # what it reads is the form that every format reads, and it has text of its own
    parsed = parse(call_format, written, SCHEMAS)
    return parsed.calls == tuple(calls) and content in parsed.content


def _takes_answers(render: Try, ways: Ways) -> bool:
    """Whether tools' answers are shown in the role ``tool``, after every form that a turn with calls may have."""
    answers: list[Message] = [{"role": "tool", "name": call.name, "content": call.name * 2} for call in CALLS]
    turns = [_said(render_action("", CALLS))]
    turns += [called(CALLS[: ways.calls])] if ways.calls else []
    for turn in turns:
        before: list[Message] = [HELLO, turn]
        for count in range(1, 1 + len(turn.get("tool_calls", CALLS))):
            shown = render(*ways.adapt([*before, *answers[:count]], ()), generate=True) or ""
            if not all(answer["content"] in shown for answer in answers[:count]):
                return False
        if render(*ways.adapt([*before, *answers[:count], _said("So.")], ())) is None:
            return False
    return True


def _shows(render: Try, ways: Ways, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> bool:
    return PROBE in (render(*ways.adapt(messages, tools)) or "")


def _said(content: str) -> Message:
    return {"role": "assistant", "content": content}


def called(calls: Sequence[ToolCall], content: str = "") -> Message:
    """An assistant's message with calls."""
    return {"role": "assistant", "content": content, "tool_calls": [openai(call) for call in calls]}


def _told(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], teaches: str) -> list[Message]:
    """The conversation with the tools described at the end of its system message."""
    described = teaches.format(
        schemas="\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    )
    told = bool(messages) and messages[0]["role"] == "system"
    content = f"{messages[0]['content']}\n\n{described}" if told else described
    return [{"role": "system", "content": content}, *messages[told:]]


def _answer(message: Message, form: str) -> Message:
    return {"role": "user", "content": form.format(content=message["content"])}


def _opened(messages: Sequence[Message]) -> list[Message]:
    """The conversation with its system message at the head of its first user message."""
    system, *rest = messages
    if rest and rest[0]["role"] == "user":
        return [{"role": "user", "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system["content"]}, *rest]


def _merged(messages: Sequence[Message]) -> list[Message]:
    merged: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message["role"]):
        same = list(group)
        if role == "user" and len(same) > 1:
            same = [{"role": "user", "content": "\n\n".join(message["content"] for message in same)}]
        merged += same
    return merged


def _parted(message: Message) -> dict[str, Any]:
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
