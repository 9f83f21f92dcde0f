"""Reading calls in every format, also from text that no model should write."""

import pytest

from agentopd.chat.formats import FORMATS, parse
from agentopd.types import ToolCall

MANY = 20_000
"""Repetitions with which time in their square would be minutes."""


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        *((name, " ") for name in sorted(FORMATS)),
        ("hermes", "<tool_call>{"),
        ("qwen-coder", "<tool_call><function="),
        ("qwen-coder", "<tool_call><function=f>"),
        ("glm", "<tool_call>f\n"),
        ("lfm", "<|tool_call_start|>"),
        ("react", "Action: f\nAction Input: ```\n"),
        ("llama", "<|python_tag|> { "),
    ],
)
def test_what_a_model_leaves_open_is_read_in_one_pass(name: str, piece: str) -> None:
    assert not parse(name, "So: " + piece * MANY).calls


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("lfm", "Well. <|tool_call_start|>[f(a=", "not closed"),
        ("lfm", "Well. <|tool_call_start|>[f(a=b'x')]<|tool_call_end|>", "this is no call"),
        ("lfm", "Well. <|tool_call_start|>[f(a=1e999)]<|tool_call_end|>", "this is no call"),
        ("llama", 'Well. {"name": "f", "parameters": {"a": 1e999}}', "this is no call"),
    ],
)
def test_what_is_meant_as_a_call_is_told_as_a_malformed_one(name: str, text: str, problem: str) -> None:
    parsed = parse(name, text)
    assert (parsed.content, parsed.calls) == ("Well.", ())
    assert problem in str(parsed.problems)
    later = parse(name, f"<|tool_call_start|>[f(a=1)]<|tool_call_end|> {text}" if name == "lfm" else text)
    assert [call.arguments for call in later.calls] == [{"a": 1}] * (name == "lfm")
    assert later.problems


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("qwen-coder", "<tool_call><function=f><parameter=a>x\n<parameter=b>y</parameter></function></tool_call>"),
        (
            "qwen-coder",
            "<tool_call><function=f><parameter=a>x</parameter><parameter=a>y</parameter></function></tool_call>",
        ),
        (
            "glm",
            "<tool_call>f\n<arg_key>a</arg_key><arg_value>x<arg_key>b</arg_key><arg_value>y</arg_value></tool_call>",
        ),
        (
            "glm",
            "<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value><arg_key>a</arg_key><arg_value>y</arg_value></tool_call>",
        ),
        ("lfm", "<|tool_call_start|>[f(a='x', a='y')]<|tool_call_end|>"),
    ],
)
def test_arguments_that_are_not_closed_or_given_twice_are_no_call(name: str, text: str) -> None:
    parsed = parse(name, text)
    assert not parsed.calls
    assert "this is no call" in parsed.problems[0]


def test_white_space_in_a_fence_that_is_not_closed_is_read_in_one_pass() -> None:
    assert not parse("react", f"Action: f\nAction Input: ```json{' ' * MANY}x").calls


@pytest.mark.parametrize(
    ("name", "open_argument", "close"),
    [
        ("qwen-coder", "<parameter=a>", "<tool_call><function=f>{}</function></tool_call>"),
        ("glm", "<arg_key>a</arg_key><arg_value>", "<tool_call>f\n{}</tool_call>"),
        ("glm", "<arg_key>", "<tool_call>f\n{}</tool_call>"),
    ],
)
def test_arguments_left_open_inside_a_call_are_too(name: str, open_argument: str, close: str) -> None:
    assert not parse(name, close.format(open_argument * MANY)).calls or open_argument.endswith(">")


@pytest.mark.parametrize(
    ("name", "text", "call"),
    [
        (
            "qwen-coder",
            "<tool_call>\n<function=f>\n<parameter=a>\n</tool_call> <\n</parameter>\n</function>\n</tool_call>",
            ToolCall("f", {"a": "</tool_call> <"}),
        ),
        (
            "glm",
            "<tool_call>f\n<arg_key>a<b</arg_key>\n<arg_value>1 </arg_key> 2</arg_value>\n</tool_call>",
            ToolCall("f", {"a<b": "1 </arg_key> 2"}),
        ),
        ("lfm", "<|tool_call_start|>[f(a='<|')]<|tool_call_end|>", ToolCall("f", {"a": "<|"})),
        ("llama", '<|python_tag|>\n{"name": "f", "parameters": {"a": "{"}}', ToolCall("f", {"a": "{"})),
    ],
)
def test_marks_inside_values_are_text(name: str, text: str, call: ToolCall) -> None:
    schemas = [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]
    parsed = parse(name, f"Well \n {text}", schemas)
    assert parsed.calls == (call,)
    assert (parsed.content.split(), parsed.problems) == (["Well"], ())
