"""How models write tool calls. Each format's function rewrites its calls as canonical blocks; what it cannot read stays as it is.

Every format also reads canonical (Hermes) blocks: a turn that a template cannot write natively is written with them.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from agentopd.tooling.action import CLOSE, OPEN, ParsedAction, parse_action, render_action
from agentopd.types import ToolCall

Tools: TypeAlias = Sequence[Mapping[str, Any]] | None
"""Tool schemas, as chat templates take them: ``ToolSet.schemas``."""

HERMES = "hermes"

_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError)
_CONSTANTS = {"None": "null", "True": "true", "False": "false"}


def parse(name: str, text: str, tools: Tools = None) -> ParsedAction:
    """Reads a model's text in the format ``name``. Never raises.

    Args:
        name: A key of ``FORMATS``.
        text: What the model wrote, without thinking.
        tools: Their schemas say which arguments are text, where a format leaves it open whether ``17`` is a number.
    """
    return parse_action(FORMATS[name](text, tools))


def openai(call: ToolCall) -> dict[str, Any]:
    """A call as chat templates read it."""
    return {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}


def _hermes(text: str, tools: Tools) -> str:
    return text


_CODER = re.compile(r"\s*<tool_call>\s*<function=([^>\n]+)>\n?(.*?)</function>\s*</tool_call>", re.DOTALL)
_CODER_ARGUMENT = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_GLM = re.compile(r"\s*<tool_call>([^\s<{][^\n<]*)\n?(.*?)</tool_call>", re.DOTALL)
_GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)


def _qwen_coder(text: str, tools: Tools) -> str:
    """``<tool_call><function=look_up><parameter=item>pear</parameter></function></tool_call>``."""
    return _CODER.sub(lambda match: _tagged(match, _CODER_ARGUMENT, tools), text)


def _glm(text: str, tools: Tools) -> str:
    """``<tool_call>look_up<arg_key>item</arg_key><arg_value>pear</arg_value></tool_call>``."""
    return _GLM.sub(lambda match: _tagged(match, _GLM_ARGUMENT, tools), text)


def _tagged(match: re.Match[str], argument: re.Pattern[str], tools: Tools) -> str:
    """The canonical block of a call whose arguments are tagged pieces of text; what was written if it holds anything else."""
    name, body = match[1].strip(), match[2]
    if argument.sub("", body).strip():
        return match[0]
    schemas = _properties(name, tools)
    arguments = {key: _value(text, schemas.get(key)) for key, text in argument.findall(body)}
    return _block([ToolCall(name, arguments)], match[0])


def _properties(name: str, tools: Tools) -> Mapping[str, Any]:
    for tool in tools or ():
        function = tool.get("function", tool)
        if function.get("name") == name:
            found = function.get("parameters", {}).get("properties", {})
            return found if isinstance(found, Mapping) else {}
    return {}


def _value(text: str, schema: Any) -> Any:
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


_LLAMA = re.compile(r'(?:<\|python_tag\|>)?\s*(?=\{\s*"(?:name|type|parameters)"\s*:)')
_LLAMA_BETWEEN = re.compile(r"[\s;,]*(?:<\|python_tag\|>)?[\s;,]*")
_DECODER = json.JSONDecoder(strict=False)


def _llama(text: str, tools: Tools) -> str:
    """``{"name": "look_up", "parameters": {"item": "pear"}}``, after any text; several are told apart by ``;`` or lines."""
    found = None if OPEN in text or CLOSE in text else _LLAMA.search(text)
    if found is None:
        return text
    calls, position = [], found.end()
    while position < len(text):
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            meant = '"parameters"' in text[position:]
            return f"{text[: found.start()]}{OPEN}{text[found.end() :]}{CLOSE}" if meant else text
        call = _llama_call(value)
        if call is None:
            return text
        calls.append(call)
        between = _LLAMA_BETWEEN.match(text, end)
        position = between.end() if between else end
    content = text[: found.start()].rstrip()
    return (f"{content}\n" if content else "") + _block(calls, text[found.start() :]).lstrip("\n")


def _llama_call(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or value.keys() - {"type"} != {"name", "parameters"}:
        return None
    name, arguments = value["name"], value["parameters"]
    return ToolCall(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


_LFM = re.compile(r"\s*<\|tool_call_start\|>(.*?)<\|tool_call_end\|>", re.DOTALL)


def _lfm(text: str, tools: Tools) -> str:
    """``<|tool_call_start|>[look_up(item='pear')]<|tool_call_end|>``: Python calls, with JSON inside."""
    return _LFM.sub(lambda match: _python(match[1], match[0]), text)


def _python(source: str, written: str) -> str:
    try:
        listed = ast.parse(source.strip(), mode="eval").body
        if not isinstance(listed, ast.List):
            raise ValueError
        calls = [_python_call(node) for node in listed.elts]
    except _UNREADABLE:
        return f"\n{OPEN}{source.replace(OPEN, '').replace(CLOSE, '')}{CLOSE}"
    return _block(calls, written)


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
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
    try:
        return "\n" + render_action("", calls)
    except _UNREADABLE:
        return written


FORMATS: Mapping[str, Callable[[str, Tools], str]] = {
    HERMES: _hermes,
    "qwen-coder": _qwen_coder,
    "glm": _glm,
    "llama": _llama,
    "lfm": _lfm,
}
"""By name; the first whose calls a template writes is its format, so Hermes, which all read, comes first."""
