"""The canonical text of an action: content, then one block a call.

    I look it up.
    <tool_call>
    {"name": "price", "arguments": {"item": "pears"}}
    </tool_call>

Whatever format a model writes in, this is what an environment reads.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agentopd.types import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_FORM = '{"name": ..., "arguments": {...}}'
MALFORMED = "malformed"
"""The only key of a block that tells what was wrong with a call."""
LONGEST_REASON = 400
DEEPEST = 100
"""Nesting of a call's arguments. What walks them goes down with them, and a model can write any depth."""
PIECE = 4096
"""Characters of a block that are decoded at first."""
LONGEST_WORD = 16
"""More characters than the decoder looks ahead: ``-Infinity``, or an escape of two halves."""
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class ParsedAction:
    """What an action says.

    ``problems`` holds one line for each thing in it that was meant as a call but is none: it becomes an observation.
    """

    content: str
    calls: tuple[ToolCall, ...] = ()
    problems: tuple[str, ...] = ()


def call(name: str, /, **arguments: Any) -> str:
    """The canonical text of one call, for instance what an expert returns: ``call("price", item="pears")``."""
    return render_action("", [ToolCall(name, arguments)])


def render_action(content: str, calls: Iterable[ToolCall]) -> str:
    """The canonical text of an action; :func:`parse_action` gives back exactly ``content`` and ``calls``.

    Arguments may hold any text: ``<`` is written as ``\\u003c`` inside the JSON, so that no marker can appear there.

    Raises:
        ValueError: ``content`` holds a marker (``<tool_call>`` or ``</tool_call>``), or arguments are not JSON (nan, infinity), or nested
            more than ``DEEPEST`` deep.
    """
    if OPEN in content or CLOSE in content:
        raise ValueError(f"the content of an action cannot hold {OPEN} or {CLOSE}: {brief(repr(content), 80)}")
    return "\n".join([*([content] if content else []), *map(_block, calls)])


def parse_action(text: str) -> ParsedAction:
    """Reads an action. Never raises.

    White space around the JSON and between blocks is free. Text outside the blocks is content. A block that is not JSON of the
    form ``{"name": str, "arguments": object}``, is nested too deep, is not closed, or closes without opening, is a problem and no content. One of the form
    ``{"malformed": str}`` is the problem that it tells: see :func:`malformed`.
    """
    outside: list[str] = []
    calls: list[ToolCall] = []
    problems: list[str] = []
    position = 0
    while (start := text.find(OPEN, position)) >= 0:
        outside.append(text[position:start])
        found, position = _read_block(text, start + len(OPEN))
        if isinstance(found, ToolCall):
            calls.append(found)
        else:
            problems.append(found)
    outside.append(text[position:])
    if any(CLOSE in piece for piece in outside):
        problems.append("a block is closed that was not opened")
    return ParsedAction(_content(outside), tuple(calls), tuple(problems))


def malformed(reason: str) -> str:
    """The canonical text of a call that is none, for a reader of another format, which knows better than this one what is wrong.

    :func:`parse_action` gives ``reason`` as a problem, on one line and cut to ``LONGEST_REASON`` characters.
    """
    text = json.dumps({MALFORMED: reason}, ensure_ascii=False).replace("<", "\\u003c")
    return f"{OPEN}\n{text}\n{CLOSE}"


def brief(text: str, limit: int) -> str:
    """``text`` on one line, cut to ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _content(outside: list[str]) -> str:
    first, *rest = outside
    lead = first.removesuffix("\n") if rest else first  # the newline that joins content to the first block
    pieces = [*lead.split(CLOSE), *(part.strip() for piece in rest for part in piece.split(CLOSE))]
    return "\n".join(piece for piece in pieces if piece)


def _read_block(text: str, start: int) -> tuple[ToolCall | str, int]:
    """The call whose block opens right before ``start``, or what is wrong with it; and where to read on."""
    opened = text.find(OPEN, start)
    before = len(text) if opened < 0 else opened
    close = text.find(
        CLOSE, start, before
    )  # no further: each block looks at its own stretch, so that the whole is read once
    closed = close >= 0
    resume = close if closed else before
    after_bad = resume + len(CLOSE) if closed else resume
    try:
        value, stop = _value_at(text, _skip_space(text, start))
        found = _call_of(value)
    except (ValueError, RecursionError) as error:
        why = f"invalid JSON ({getattr(error, 'msg', brief(str(error), 80))})"
        return (why if closed else "the block is not closed"), after_bad
    end = _skip_space(text, stop)
    if text.startswith(CLOSE, end):
        return found, end + len(CLOSE)
    return ("text after the JSON object" if closed else "the block is not closed"), after_bad


def _value_at(text: str, begin: int) -> tuple[Any, int]:
    """The JSON value that stands at ``begin``, and where it ends.

    The decoder is given a piece of the text, since an error counts the lines before it and thousands of blocks may be malformed; and a
    larger one where it read up to the end of that.

    Raises:
        ValueError, RecursionError: There is none that can be read.
    """
    size = PIECE
    while begin + size < len(text):
        try:
            value, length = _DECODER.raw_decode(text[begin : begin + size])
            if length < size:
                return value, begin + length
        except json.JSONDecodeError as error:
            if error.pos < size - LONGEST_WORD and not error.msg.startswith("Unterminated"):
                raise
        size *= 4
    value, length = _DECODER.raw_decode(text[begin:])
    return value, begin + length


def _call_of(value: Any) -> ToolCall | str:
    if isinstance(value, dict) and value.keys() == {MALFORMED} and isinstance(value[MALFORMED], str):
        return brief(value[MALFORMED], LONGEST_REASON)
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        return f"expected {_FORM}"
    if not isinstance(value["name"], str) or not isinstance(value["arguments"], dict):
        return f"expected {_FORM}"
    if depth(value["arguments"]) > DEEPEST:
        return f"the arguments are nested more than {DEEPEST} deep"
    found = ToolCall(value["name"], value["arguments"])
    _block(
        found
    ).encode()  # 1e999 and half surrogates are JSON for Python only: a ValueError here, not later in a tokenizer
    return found


def depth(value: Any) -> int:
    """How deeply plain data is nested; a text or number has depth 1."""
    found, layer = 0, [value]
    while layer:
        found += 1
        layer = [inner for item in layer for inner in _inside(item)]
    return found


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _block(call: ToolCall) -> str:
    if depth(call.arguments) > DEEPEST:
        raise ValueError(f"the arguments of {brief(call.name, 40)} are nested more than {DEEPEST} deep")
    body = {"name": call.name, "arguments": dict(call.arguments)}
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, default=from_numpy).replace("<", "\\u003c")
    return f"{OPEN}\n{text}\n{CLOSE}"


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse, strict=False)


def from_numpy(value: Any) -> Any:
    """NumPy scalars and arrays as numbers and lists: an expert's arguments often come from ``np_random``."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is not JSON")
