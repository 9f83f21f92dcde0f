"""Conversations as rows of the formats that other programs read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

from agentopd.sharing.talk import Talk, answered
from agentopd.tooling.action import render_action
from agentopd.types import Message, ToolCall

Row: TypeAlias = dict[str, Any]
"""One row of a data set, as JSON holds it."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format."""

    name: str
    row: Callable[[Talk], Row] | None
    """The row of a whole episode; ``None`` where rows are parts of episodes: see :mod:`agentopd.sharing.parts`."""
    lists: tuple[str, ...]
    """Its columns that are lists of messages."""
    suffix: str
    """What the name of its file ends with where nobody says."""


def openai_row(talk: Talk) -> Row:
    """``messages`` and ``tools``: arguments are JSON text, and an answer has the id of its call. ``weight: 0`` marks what is not learned."""
    return _with_tools({"messages": _identified(talk)}, talk, list)


def trl_row(talk: Talk) -> Row:
    """``messages`` and ``tools`` as chat templates take them, the schemas as one JSON text."""
    return _with_tools({"messages": [_templated(message) for message in talk.messages]}, talk, _json)


def completion_row(talk: Talk, at: int) -> Row:
    """``prompt`` and ``completion``: the assistant's message at ``at`` behind everything before it."""
    messages = [_templated(message) for message in talk.messages]
    return _with_tools({"prompt": messages[:at], "completion": [messages[at]]}, talk, _json)


def preference_row(talk: Talk, prompt: int, chosen: Sequence[Message], rejected: Sequence[Message]) -> Row:
    """``prompt``, ``chosen`` and ``rejected``: two ways to go on behind the first ``prompt`` messages."""
    parts = {"prompt": talk.messages[:prompt], "chosen": chosen, "rejected": rejected}
    return _with_tools({name: [_templated(one) for one in part] for name, part in parts.items()}, talk, _json)


def sharegpt_row(talk: Talk) -> Row:
    """``conversations`` of ``from`` and ``value``, ``system`` and ``tools``, people and model by turns as LLaMA-Factory wants them.

    What stands between two turns of the assistant is one message, joined by newlines; what follows the last turn is left out. Calls
    beside text are text too, as blocks.
    """
    system = talk.messages[0]["content"] if talk.messages and talk.messages[0]["role"] == "system" else ""
    said = talk.messages[1:] if system else talk.messages
    row: Row = {"conversations": list(_alternating(said))}
    if system:
        row["system"] = system
    return _with_tools(row, talk, lambda tools: _json([tool.get("function", tool) for tool in tools]))


FORMATS: Mapping[str, Format] = {
    "openai": Format("openai", openai_row, ("messages",), ".jsonl"),
    "sharegpt": Format("sharegpt", sharegpt_row, ("conversations",), ".jsonl"),
    "trl": Format("trl", trl_row, ("messages",), ".parquet"),
    "sft": Format("sft", None, ("prompt", "completion"), ".parquet"),
    "preference": Format("preference", None, ("prompt", "chosen", "rejected"), ".parquet"),
}
"""By name."""


def _with_tools(row: Row, talk: Talk, put: Callable[[Sequence[Mapping[str, Any]]], Any]) -> Row:
    if talk.tools:
        row["tools"] = put(talk.tools)
    if talk.facts:
        row["metadata"] = dict(talk.facts)
    return row


def _identified(talk: Talk) -> list[Row]:
    calls_of = dict(answered(talk.messages))
    told = []
    for at, message in enumerate(talk.messages):
        one: Row = {**message}
        if message["role"] == "assistant" and "tool_calls" in message:
            one["tool_calls"] = [
                {"id": _id(at, number), "type": "function", "function": _as_text(call["function"])}
                for number, call in enumerate(message["tool_calls"])
            ]
        if (call := calls_of.get(at)) is not None:
            name = talk.messages[call[0]]["tool_calls"][call[1]]["function"]["name"]
            one |= {"tool_call_id": _id(*call), "name": name}
        if at in talk.untrained:
            one["weight"] = 0
        told.append(one)
    return told


def _id(message: int, call: int) -> str:
    return f"call_{message}_{call}"


def _as_text(function: Mapping[str, Any]) -> Row:
    return {"name": function["name"], "arguments": _json(function["arguments"])}


def _templated(message: Message) -> Row:
    return dict(message)


def _alternating(messages: Sequence[Message]) -> Iterator[Row]:
    """Both sides by turns, beginning with people and ending with the model."""
    last = max((at for at, one in enumerate(messages) if one["role"] == "assistant"), default=-1)
    acted = True
    for acts, group in groupby(messages[: last + 1], key=lambda one: one["role"] == "assistant"):
        if not acts:
            yield _heard(list(group))
            acted = False
            continue
        for message in group:
            if acted:
                yield {"from": "human", "value": ""}
            yield _acted(message)
            acted = True


def _heard(messages: Sequence[Message]) -> Row:
    answers = messages[0]["role"] == "tool"
    return {"from": "observation" if answers else "human", "value": "\n".join(one["content"] for one in messages)}


def _acted(message: Message) -> Row:
    reasons = message.get("reasoning_content", "")
    thought = f"<think>\n{reasons}\n</think>\n\n" if reasons else ""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    if not functions:
        return {"from": "gpt", "value": thought + message["content"]}
    if message["content"]:
        calls = [ToolCall(one["name"], one["arguments"]) for one in functions]
        return {"from": "gpt", "value": thought + render_action(message["content"], calls)}
    told = [{"name": one["name"], "arguments": one["arguments"]} for one in functions]
    return {"from": "function_call", "value": thought + _json(told[0] if len(told) == 1 else told)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
