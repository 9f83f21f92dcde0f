"""How models write tool calls. Each format's reader rewrites its calls as canonical blocks; what it cannot read stays as it is.

Every format also reads canonical (Hermes) blocks: a turn that neither the template nor the format can write is written with them.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeAlias

from pydantic import AfterValidator

from agentopd.chat.arguments import LONGEST_NAME, UNREADABLE, Tools, block_of, properties, value_of
from agentopd.chat.form import Format
from agentopd.chat.react import REACT
from agentopd.chat.xml import XML
from agentopd.tooling.action import CLOSE, OPEN, ParsedAction, malformed, parse_action, render_action
from agentopd.tooling.syntax import expression_of
from agentopd.types import ToolCall

HERMES = "hermes"


def parse(name: str, text: str, tools: Tools = None) -> ParsedAction:
    """Reads a model's text in the format ``name``. Never raises.

    Args:
        name: A key of ``FORMATS``.
        text: What the model wrote, without thinking.
        tools: Their schemas say which arguments are text, where a format leaves it open whether ``17`` is a number.
    """
    return read(name, text, tools)[1]


def read(name: str, text: str, tools: Tools = None) -> tuple[str, ParsedAction]:
    """The canonical text of what a model wrote in the format ``name``, and what it says. Never raises.

    Where a call is malformed the text tells so in words of that format. In Hermes it is what was written: that form is canonical.
    """
    format = FORMATS[name]
    written = format.read(text, tools)
    parsed = parse_action(written)
    if not parsed.problems or name == HERMES:
        return written, parsed
    told = [malformed(f"{_reason(format, problem)}; expected {format.form}") for problem in parsed.problems]
    rest = render_action(parsed.content, parsed.calls)
    canonical = "\n".join([*([rest] if rest else []), *told])
    return canonical, parse_action(canonical)


def _reason(format: Format, problem: str) -> str:
    """What is wrong, without what canonical blocks must be."""
    if problem.startswith("expected ") or (not format.is_json and "JSON" in problem and format.write is None):
        return "this is no call"
    return problem


def write(name: str, said: ParsedAction, tools: Tools = None) -> str | None:
    """An action as text in the format ``name``; ``None`` where it has no such text, or it would be read as something else."""
    format = FORMATS[name]
    try:
        text = format.write(said, tools) if format.write else None
    except UNREADABLE:
        return None
    return text if text is not None and same(parse(name, text, tools), said) else None


def same(found: ParsedAction, wanted: ParsedAction) -> bool:
    """Whether what was read says what was to be written: some templates write more before it."""
    return not found.problems and found.calls == wanted.calls and wanted.content.strip() in found.content


def openai(call: ToolCall) -> dict[str, Any]:
    """A call as chat templates read it."""
    return {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _hermes(text: str, tools: Tools) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Brackets:
    """What opens and what closes a piece of text; the first group of ``opens`` is its name. A name may be long, but not the whole text.

    They are looked for one after the other: one expression for both takes time in the square of what a model leaves open.
    """

    opens: re.Pattern[str]
    closes: re.Pattern[str]

    def pieces(self, text: str) -> Iterator["Piece"]:
        """The closed pieces of ``text``, none inside another."""
        position = 0
        while opened := self.opens.search(text, position):
            closed = self.closes.search(text, opened.end())
            if closed is None:
                return
            yield Piece(opened.start(), closed.end(), opened[1], text[opened.end() : closed.start()])
            position = closed.end()

    def replaced(self, text: str, convert: Callable[["Piece", str], str]) -> str:
        """``text`` with what ``convert`` makes of each piece and of what was written, in place of it and the white space before it."""
        parts, position = [], 0
        for piece in self.pieces(text):
            before = text[position : piece.start]
            bare = before.rstrip()
            parts += [bare, convert(piece, before[len(bare) :] + text[piece.start : piece.stop])]
            position = piece.stop
        return "".join([*parts, text[position:]])


class Piece(NamedTuple):
    """What stands between brackets."""

    start: int
    stop: int
    name: str
    body: str


_CODER = Brackets(
    re.compile(rf"<tool_call>\s*<function=([^>\n]{{1,{LONGEST_NAME}}})>\n?"), re.compile(r"</function>\s*</tool_call>")
)
_CODER_ARGUMENT = Brackets(
    re.compile(rf"<parameter=([^>\n]{{1,{LONGEST_NAME}}})>\n?"), re.compile(r"\n?</parameter>\s*")
)
_GLM = Brackets(re.compile(r"<tool_call>([^\s<{][^\n<]*)\n?"), re.compile(r"</tool_call>"))
_GLM_ARGUMENT = Brackets(
    re.compile(rf"<arg_key>((?:(?!</arg_key>).){{0,{LONGEST_NAME}}})</arg_key>\s*<arg_value>", re.DOTALL),
    re.compile(r"</arg_value>\s*"),
)


def _qwen_coder(text: str, tools: Tools) -> str:
    """``<tool_call><function=look_up><parameter=item>pear</parameter></function></tool_call>``."""
    return _CODER.replaced(text, lambda piece, written: _tagged(piece, written, _CODER_ARGUMENT, tools))


def _glm(text: str, tools: Tools) -> str:
    """``<tool_call>look_up<arg_key>item</arg_key><arg_value>pear</arg_value></tool_call>``."""
    return _GLM.replaced(text, lambda piece, written: _tagged(piece, written, _GLM_ARGUMENT, tools))


def _tagged(piece: Piece, written: str, argument: Brackets, tools: Tools) -> str:
    """The canonical block of a call whose arguments are tagged pieces of text; what was written if it holds anything else.

    An argument that opens within another is one that was not closed, and two of one name do not say which is meant.
    """
    name, given = piece.name.strip(), list(argument.pieces(piece.body))
    opened = any(argument.opens.search(one.body) for one in given)
    if opened or len({one.name for one in given}) < len(given) or argument.replaced(piece.body, lambda *_: "").strip():
        return written
    schemas = properties(name, tools)
    arguments = {one.name: value_of(one.body, schemas.get(one.name)) for one in given}
    return _block([ToolCall(name, arguments)], written)


_LLAMA = re.compile(r'\{\s*"(?:name|type|parameters)"\s*:')
_LLAMA_TAG = "<|python_tag|>"
_LLAMA_BETWEEN = re.compile(r"[\s;,]*(?:<\|python_tag\|>)?[\s;,]*")
_DECODER = json.JSONDecoder(strict=False)


def _llama(text: str, tools: Tools) -> str:
    """``{"name": "look_up", "parameters": {"item": "pear"}}``, after any text; several are told apart by ``;`` or lines."""
    found = None if OPEN in text or CLOSE in text else _LLAMA.search(text)
    if found is None:
        return text
    before = text[: found.start()].rstrip().removesuffix(_LLAMA_TAG)
    calls, position = [], found.start()
    while position < len(text):
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            meant = '"parameters"' in text[position:]
            return f"{before}{OPEN}{text[found.start() :]}{CLOSE}" if meant else text
        call = _llama_call(value)
        if call is None:
            return text
        calls.append(call)
        between = _LLAMA_BETWEEN.match(text, end)
        position = between.end() if between else end
    content = before.rstrip()
    return (f"{content}\n" if content else "") + _block(calls, _unread(text[found.start() :])).lstrip("\n")


def _llama_call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or value.keys() - {"type"} != {"name", "parameters"}:
        return None
    name, arguments = value["name"], value["parameters"]
    return ToolCall(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


_LFM = Brackets(re.compile(r"(<\|tool_call_start\|>)"), re.compile(r"<\|tool_call_end\|>"))


def _lfm(text: str, tools: Tools) -> str:
    """``<|tool_call_start|>[look_up(item='pear')]<|tool_call_end|>``: Python calls, with JSON inside."""
    read = max((piece.stop for piece in _LFM.pieces(text)), default=0)
    left = _LFM.opens.search(text, read)
    if left is None or OPEN in text[read : left.start()]:
        return _LFM.replaced(text, lambda piece, _: _python(piece.body))
    before = _LFM.replaced(text[: left.start()].rstrip(), lambda piece, _: _python(piece.body))
    return before + _unread(text[left.end() :], close="")


def _python(source: str) -> str:
    try:
        listed = expression_of(source.strip())
        if not isinstance(listed, ast.List):
            raise ValueError
        return _block([_python_call(node) for node in listed.elts], _unread(source))
    except UNREADABLE:
        return _unread(source)


def _unread(source: str, close: str = CLOSE) -> str:
    """A block that is no call, which the model is told."""
    return f"\n{OPEN}{source.replace(OPEN, '').replace(CLOSE, '')}{close}"


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg in arguments:
            raise ValueError
        arguments[keyword.arg] = ast.literal_eval(_Constants().visit(keyword.value))
    return ToolCall(ast.unparse(node.func), arguments)


class _Constants(ast.NodeTransformer):
    """JSON's constants as Python's."""

    VALUES: Mapping[str, bool | None] = {"true": True, "false": False, "null": None}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self.VALUES[node.id]) if node.id in self.VALUES else node


def _block(calls: Sequence[ToolCall], written: str) -> str:
    """Canonical blocks on lines of their own; ``written`` if no JSON can hold the calls."""
    block = block_of(calls)
    return written if block is None else f"\n{block}"


FORMATS: Mapping[str, Format] = {
    HERMES: Format(_hermes, '<tool_call>{"name": ..., "arguments": {...}}</tool_call>', is_json=True),
    "qwen-coder": Format(
        _qwen_coder, "<tool_call><function=NAME><parameter=ARGUMENT>VALUE</parameter></function></tool_call>"
    ),
    "glm": Format(_glm, "<tool_call>NAME<arg_key>ARGUMENT</arg_key><arg_value>VALUE</arg_value></tool_call>"),
    "llama": Format(_llama, '{"name": ..., "parameters": {...}}', is_json=True),
    "lfm": Format(_lfm, "<|tool_call_start|>[NAME(ARGUMENT=VALUE)]<|tool_call_end|>"),
    "xml": XML,
    "react": REACT,
}
"""By name; the first whose calls a template writes is its format, so Hermes, which all read, comes first."""


def known_format(name: str) -> str:
    """``name``, which is a key of :data:`FORMATS`; ValueError if not."""
    if name not in FORMATS:
        raise ValueError(f"{name!r} is no call format; there are: {', '.join(FORMATS)}")
    return name


CallFormat: TypeAlias = Annotated[str, AfterValidator(known_format)]
"""A setting that is a key of :data:`FORMATS`."""
