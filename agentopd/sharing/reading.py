"""Rows of chat data as conversations: OpenAI's form, that of TRL and ``datasets``, and ShareGPT's."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentopd.sharing.facts import told
from agentopd.sharing.talk import Talk, thinking_apart
from agentopd.tooling.answer import plain_data
from agentopd.types import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
SPEAKERS = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "function_call": "assistant",
    "observation": "tool", "tool": "tool",
}  # fmt: skip
"""ShareGPT's names of roles."""


def read_messages(row: Mapping[str, Any]) -> Talk:
    """The conversation of a row with ``messages``, or ``prompt`` and ``completion``, and ``tools``.

    Arguments of calls may be JSON text or mappings. Of a prompt nothing is learned.

    Raises:
        ValueError: It is no such row; the message says why.
    """
    if "chosen" in row or "rejected" in row:
        raise ValueError(
            "it is a pair of answers, chosen and rejected, and an episode is one conversation; give rows with messages"
        )
    if "messages" in row:
        given, prompt = _list_of(row["messages"], "messages"), 0
    elif "prompt" in row and "completion" in row:
        before, after = _part(row, "prompt", "user"), _part(row, "completion", "assistant")
        given, prompt = [*before, *after], len(before)
    else:
        raise ValueError(f"it has {_named(row)}, and neither messages nor prompt and completion")
    reader = _Reader()
    for at, one in enumerate(given):
        reader.add(one, learned=at >= prompt)
    return reader.talk(row)


def read_sharegpt(row: Mapping[str, Any]) -> Talk:
    """The conversation of a row with ``conversations`` of ``from`` and ``value``, ``system`` and ``tools``.

    Raises:
        ValueError: It is no such row; the message says why.
    """
    if "conversations" not in row:
        raise ValueError(f"it has {_named(row)}, and no conversations")
    reader = _Reader()
    if row.get("system"):
        reader.add({"role": "system", "content": row["system"]})
    for one in _list_of(row["conversations"], "conversations"):
        reader.add(_said(one))
    return reader.talk(row)


def read_any(row: Mapping[str, Any]) -> Talk:
    """The conversation of a row in whichever of these forms it is.

    Raises:
        ValueError: It is in none.
    """
    return read_sharegpt(row) if "conversations" in row else read_messages(row)


READERS: Mapping[str, Callable[[Mapping[str, Any]], Talk]] = {
    "auto": read_any,
    "openai": read_messages,
    "trl": read_messages,
    "sharegpt": read_sharegpt,
}
"""By the name of a format."""


@dataclass(slots=True)
class _Reader:
    """Takes messages one by one."""

    messages: list[Message] = field(default_factory=list)
    untrained: set[int] = field(default_factory=set)
    ids: dict[str, list[int]] = field(default_factory=dict)
    """Of the calls of the last assistant's message: which of them have it."""
    left: list[int] = field(default_factory=list)
    """Those of them that have no answer yet."""
    numbers: dict[int, int] = field(default_factory=dict)
    """Of the answers since, by their place: which call they are to."""

    def add(self, given: Any, learned: bool = True) -> None:
        """Takes one more message, in the form of OpenAI."""
        if not isinstance(given, Mapping):
            raise ValueError(f"a message is {type(given).__name__}, and must be an object with role and content")
        role = ROLES.get(str(given.get("role")))
        if role is None:
            raise ValueError(f"a message has the role {given.get('role')!r}; it is one of {', '.join(ROLES)}")
        message: Message = {"role": role, "content": _text(given.get("content"))}  # type: ignore[typeddict-item]
        if role == "assistant":
            self._in_order()
            self._act(message, given, learned)
            message = thinking_apart(message)
        elif role == "tool":
            self._answer(message, given)
        elif given.get("name"):
            message["name"] = _text(given["name"])
        self.messages.append(message)

    def _act(self, message: Message, given: Mapping[str, Any], learned: bool) -> None:
        calls = _list_of(given.get("tool_calls") or [], "tool_calls")
        if given.get("function_call"):
            calls = [*calls, {"function": given["function_call"]}]
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        if reasons := given.get("reasoning_content") or given.get("reasoning"):
            message["reasoning_content"] = _text(reasons)
        if given.get("weight") not in (None, 0, 1):
            raise ValueError(f"a message has weight {given['weight']!r}; it is 0 or 1")
        if not learned or given.get("weight") == 0:
            self.untrained.add(len(self.messages))
        self.ids = {}
        for number, call in enumerate(calls):
            if call.get("id"):
                self.ids.setdefault(str(call["id"]), []).append(number)
        self.left, self.numbers = list(range(len(calls))), {}

    def _answer(self, message: Message, given: Mapping[str, Any]) -> None:
        """Finds the call that an answer belongs to, by its id, else by the tool's name, else the first that has none."""
        key, name = given.get("tool_call_id"), given.get("name")
        if key and str(key) not in self.ids:
            raise ValueError(
                f"an answer has tool_call_id {key!r}, and no call before it has that id; mend it, or leave it out"
            )
        names, numbers = self._names(), self.ids[str(key)] if key else self.left
        fits = [number for number in self.left if number in numbers and (key or name in (None, "", names[number]))]
        number = fits[0] if fits else self.ids[str(key)][-1] if key else None
        if number is not None:
            message["name"] = names[number]
            self.left = [other for other in self.left if other != number]
            self.numbers[len(self.messages)] = number
        elif name:
            message["name"] = _text(name)

    def _names(self) -> list[str]:
        last = next((one for one in reversed(self.messages) if one["role"] == "assistant"), None)
        return [call["function"]["name"] for call in (last or {}).get("tool_calls", ())]

    def _in_order(self) -> None:
        """Puts the answers of one tool, among themselves, into the order of its calls: names alone tell them apart from here on."""
        names = self._names()
        for name in dict.fromkeys(names):
            places = [at for at, number in self.numbers.items() if names[number] == name]
            inside = [self.messages[at] for at in sorted(places, key=self.numbers.__getitem__)]
            for at, message in zip(places, inside, strict=True):
                self.messages[at] = message
        self.numbers = {}

    def talk(self, row: Mapping[str, Any]) -> Talk:
        """What was taken, with what else the row tells."""
        self._in_order()
        tools = row.get("tools") or [
            {"type": "function", "function": one} for one in _list_of(row.get("functions") or [], "functions")
        ]
        schemas = _list_of(_parsed(tools, "tools"), "tools")
        return Talk(
            tuple(self.messages), tuple(map(_schema, schemas)), frozenset(self.untrained), told(row.get("metadata"))
        )


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"a call is {call!r:.80}; it must hold a function with a name and arguments")
    arguments = _parsed(function.get("arguments") or {}, f"the arguments of {function['name']}")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of {function['name']} are {arguments!r:.60}, and must be an object")
    return {
        "type": "function",
        "function": {"name": _text(function["name"]), "arguments": plain_data(dict(arguments))},
    }


def _schema(tool: Any) -> Mapping[str, Any]:
    """The schema of a tool as chat templates take it; ShareGPT's lack the outer object."""
    whole = tool if isinstance(tool, Mapping) and "function" in tool else {"type": "function", "function": tool}
    function = whole["function"]
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"tools holds {tool!r:.80}, which is no schema of a function with a name")
    schema: Mapping[str, Any] = plain_data(dict(whole))
    return schema


def _said(one: Any) -> Mapping[str, Any]:
    """A message of ShareGPT in the form of OpenAI."""
    if not isinstance(one, Mapping) or "from" not in one:
        raise ValueError(f"conversations holds {one!r:.60}; each is an object with from and value")
    role = SPEAKERS.get(str(one["from"]))
    if role is None:
        raise ValueError(f"a message is from {one['from']!r}; it is one of {', '.join(SPEAKERS)}")
    if one["from"] != "function_call":
        return {"role": role, "content": one.get("value")}
    thought, said = _before_json(_text(one.get("value")))
    calls = _parsed(said, "a function_call")
    return {"role": role, "content": thought, "tool_calls": calls if isinstance(calls, list) else [calls]}


def _before_json(value: str) -> tuple[str, str]:
    """The thinking before the JSON of calls, marks included, and the JSON."""
    apart = thinking_apart({"role": "assistant", "content": value})
    said = apart["content"]
    return value[: len(value) - len(said)], said


def _part(row: Mapping[str, Any], name: str, role: str) -> Sequence[Any]:
    """A prompt or a completion, which may be text."""
    return [{"role": role, "content": row[name]}] if isinstance(row[name], str) else _list_of(row[name], name)


def _list_of(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {type(value).__name__}, and must be a list")
    return list(value)


def _parsed(value: Any, what: str) -> Any:
    """``value``, or what it says where it is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: {value[:60]!r} is not JSON ({error})") from None


def _text(content: Any) -> str:
    """The text of a content: a string, null, or parts that are text."""
    if content is None:
        return ""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text":
                raise ValueError(f"a content holds {part!r:.60}, and only parts of the type text can be read")
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise ValueError(f"a content is {type(content).__name__}, and must be text")
    text: str = plain_data(content)
    return text


def _named(row: Mapping[str, Any]) -> str:
    return f"the columns {', '.join(map(str, row))}" if row else "no columns"
