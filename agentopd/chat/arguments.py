"""Arguments that a format writes as text: the tool's schema says which of them are text, and which JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentopd.tooling.action import depth, render_action
from agentopd.types import ToolCall

Tools: TypeAlias = Sequence[Mapping[str, Any]] | None
"""Tool schemas, as chat templates take them: ``ToolSet.schemas``."""

LONGEST_NAME = 256
"""Characters of a name in a call: a longer one is text that was left open."""
DEEPEST = 32
"""Nesting of arguments up to which templates get calls as data; they walk it recursively, and a model can write any depth."""
UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError)
"""What reading and writing values raise that no JSON can hold."""
_CONSTANTS = {"None": "null", "True": "true", "False": "false"}


def block_of(calls: Sequence[ToolCall]) -> str | None:
    """The canonical blocks of calls; ``None`` where no JSON can hold them."""
    try:
        return render_action("", calls)
    except UNREADABLE:
        return None


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a tool takes."""

    schemas: Mapping[str, Any]
    """By name."""
    required: Sequence[str]

    @property
    def sole(self) -> str | None:
        """The one that text without a name stands for: the only one that must be given, or that there is."""
        for names in (list(self.required), list(self.schemas)):
            if len(names) == 1:
                return names[0]
        return None


def parameters(name: str, tools: Tools) -> Parameters | None:
    """What a tool takes; ``None`` of one that is not known."""
    for tool in tools or ():
        function = tool.get("function", tool)
        if function.get("name") == name:
            given = function.get("parameters", {})
            found, required = given.get("properties", {}), given.get("required", [])
            return Parameters(
                found if isinstance(found, Mapping) else {}, [one for one in required if isinstance(one, str)]
            )
    return None


def properties(name: str, tools: Tools) -> Mapping[str, Any]:
    """The schemas of a tool's arguments by their names; none of a tool that is not known."""
    known = parameters(name, tools)
    return known.schemas if known else {}


def value_of(text: str, schema: Any) -> Any:
    """The argument that a piece of text stands for: itself where the schema wants text, else the JSON in it, if it is JSON."""
    kinds = set(_kinds(schema))
    if "string" in kinds and not (kinds - {"string"} and text.strip() in ("null", "None")):
        return text
    try:
        value = json.loads(_CONSTANTS.get(text.strip(), text))
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value


def _kinds(schema: Any) -> Iterator[str]:
    if not isinstance(schema, Mapping):
        return
    kind = schema.get("type", ())
    yield from [kind] if isinstance(kind, str) else kind
    yield from ("string" for value in schema.get("enum", ()) if isinstance(value, str))
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _kinds(choice)


def is_plain(call: ToolCall) -> bool:
    """Whether templates can be given a call as data: many put names between quotes or angle brackets as they are, where ``|im_end|`` would
    become a special token."""
    brackets = any(mark in name for name in (call.name, *call.arguments) for mark in "<>|")
    quoted = json.dumps(call.name, ensure_ascii=False) == f'"{call.name}"'
    return quoted and not brackets and depth(call.arguments) <= DEEPEST
