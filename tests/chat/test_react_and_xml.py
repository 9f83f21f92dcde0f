"""Calls as ReAct text and as XML: what is read, what is told of what cannot be, and what is written."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.chat.formats import FORMATS, parse, write
from agentopd.tooling.action import ParsedAction, parse_action
from agentopd.types import ToolCall


def schema(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    kinds = {key: {"type": kind} if isinstance(kind, str) else kind for key, kind in properties.items()}
    parameters = {"type": "object", "properties": kinds, "required": required}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


TOOLS = [
    schema("look_up", ["item"], item="string"),
    schema("buy", ["item", "count"], item="string", count="integer"),
    schema("wait", []),
    schema("count", ["n"], n="integer"),
    schema("note", ["text"], text={"anyOf": [{"type": "string"}, {"type": "null"}]}),
    schema("set", ["value"], value={}),
]

GOOD = [
    ("react", 'Thought: So.\nAction: look_up\nAction Input: {"item": "pear"}', [("look_up", {"item": "pear"})], "So."),
    ("react", "Action: look_up[pear]", [("look_up", {"item": "pear"})], ""),
    ("react", "Thought 1: So.\nAction 1: look_up[a [b] c]", [("look_up", {"item": "a [b] c"})], "So."),
    ("react", "**Action:** `look_up`\n**Action Input:** pear", [("look_up", {"item": "pear"})], ""),
    ("react", 'Action: look_up["17"]', [("look_up", {"item": "17"})], ""),
    ("react", "Action: look_up[17]", [("look_up", {"item": "17"})], ""),
    ("react", "Action: count[5]", [("count", {"n": 5})], ""),
    ("react", "Action: wait", [("wait", {})], ""),
    ("react", "Action: wait[]", [("wait", {})], ""),
    ("react", "Action: look_up[{a} or {b}]", [("look_up", {"item": "{a} or {b}"})], ""),
    ("react", 'Action: buy[{"item": "x", "count": 2}]', [("buy", {"item": "x", "count": 2})], ""),
    ("react", 'Action: buy\nAction Input: ```json\n{"item": "x", "count": 2}\n```', [("buy", {"item": "x", "count": 2})], ""),
    (
        "react",
        'Action: wait\nAction: look_up\nAction Input: {"item":\n"pear"}\nThought: Then?',
        [("wait", {}), ("look_up", {"item": "pear"})],
        "Then?",
    ),
    ("react", "Action: nothing_like_it[pear]", [("nothing_like_it", {})], ""),
    ("react", "Thought: I know.\nFinal Answer: 42\nAction: wait", [], "42\nAction: wait"),
    ("react", "Thought: I know.\nAction: Finish[42]", [], "42"),
    ("react", "Just words.", [], "Just words."),
    ("xml", '<invoke name="wait">\n</invoke>', [("wait", {})], ""),
    ("xml", 'So.\n<invoke name="look_up"><parameter name="item">pear</parameter></invoke>', [("look_up", {"item": "pear"})], "So."),
    ("xml", '<invoke name="look_up"><parameter name="item">5</parameter></invoke>', [("look_up", {"item": "5"})], ""),
    ("xml", '<invoke name="count"><parameter name="n">5</parameter></invoke>', [("count", {"n": 5})], ""),
    ("xml", '<invoke name="count"><parameter name="n">five</parameter></invoke>', [("count", {"n": "five"})], ""),
    ("xml", '<invoke name="note"><parameter name="text">null</parameter></invoke>', [("note", {"text": None})], ""),
    ("xml", '<invoke name="note"><parameter name="text"><![CDATA[null]]></parameter></invoke>', [("note", {"text": "null"})], ""),
    ("xml", '<invoke name="set"><parameter name="value">[1, "a"]</parameter></invoke>', [("set", {"value": [1, "a"]})], ""),
    ("xml", '<invoke name="look_up"><parameter name="item">\na < b & "c"\n\n</parameter></invoke>', [("look_up", {"item": 'a < b & "c"\n'})], ""),
    (
        "xml",
        '<invoke name="look_up"><parameter name="item">\n<![CDATA[</parameter></invoke>]]]]><![CDATA[>]]>\n</parameter></invoke>',
        [("look_up", {"item": "</parameter></invoke>]]>"})],
        "",
    ),
    (
        "xml",
        'A\n<function_calls>\n<invoke name="wait"></invoke>\n<invoke name="wait"></invoke>\n</function_calls>\nB',
        [("wait", {}), ("wait", {})],
        "A\nB",
    ),
    ("xml", '<minimax:tool_call><invoke name="wait"></invoke></minimax:tool_call>', [("wait", {})], ""),
    ("xml", '<tool_call>\n<invoke name="wait">\n</invoke>\n</tool_call>', [("wait", {})], ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "calls", "content"), GOOD)
def test_calls_are_read(name: str, text: str, calls: list[tuple[str, Any]], content: str) -> None:
    assert parse(name, text, TOOLS) == ParsedAction(content, tuple(ToolCall(*call) for call in calls))


BAD = [
    ("react", 'Action: look_up\nAction Input: {"item": "pear"', "the input of look_up is no JSON"),
    ("react", "Action: look_up\nAction Input: {item: pear}", "the input of look_up is no JSON"),
    ("react", "Action: buy\nAction Input: pear", "the input of buy is no JSON object"),
    ("react", "Action: buy[pear]", "the input of buy is no JSON object"),
    ("react", "Action: buy\nAction Input: [1]", "the input of buy is no JSON object"),
    ("react", "Action: look_up", "the Action look_up has no Action Input"),
    ("react", "Action: look_up\nThought: Hm.", "the Action look_up has no Action Input"),
    ("react", "Action: look_up\nAction: wait", "the Action look_up has no Action Input"),
    ("react", 'Action Input: {"item": "pear"}', "an Action Input stands behind no Action"),
    ("react", "Action:", "an Action names no tool"),
    ("react", "Action: look_up(pear)", "'look_up(pear)' is not the name of a tool"),
    ("react", "Action: look up the pear", "'look up the pear' is not the name of a tool"),
    ("react", "Action: look_up\nwith care\nAction Input: pear", "text stands between the Action look_up and its input"),
    ("react", "Action: wait\nObservation: done\nAction: wait", "an Observation is what you are answered with"),
    ("react", "Action: look_up\nObservation: done", "the Action look_up has no Action Input"),
    ("react", "Action: wait\nFinal Answer: 42", "a turn holds either an Action or a Final Answer"),
    ("react", 'Action: set\nAction Input: {"value": NaN}', "no JSON can hold the arguments of set"),
    ("react", '<tool_call>\n{"name": "wait"}\n</tool_call>', "this is no call"),
    ("react", "Action: wait\n<tool_call>\n{", "the block is not closed"),
    ("xml", '<invoke name="wait">', "the invoke of wait is not closed"),
    ("xml", '<invoke name="wait"><invoke name="wait"></invoke>', "the invoke of wait is not closed"),
    ("xml", "<invoke>\n</invoke>", 'an invoke is to be opened as <invoke name="NAME">'),
    ("xml", "<invoke name=wait></invoke>", 'an invoke is to be opened as <invoke name="NAME">'),
    ("xml", '<invoke name="wait"', 'an invoke is to be opened as <invoke name="NAME">'),
    ("xml", "</invoke>", "</invoke> stands outside of an invoke"),
    ("xml", '<parameter name="item">pear</parameter>', '<parameter name="item"> stands outside of an invoke'),
    ("xml", '<invoke name="wait">now</invoke>', "the invoke of wait holds text outside of its parameters (now)"),
    ("xml", '<invoke name="look_up"><parameter name="item">pear</invoke>', "the parameter item is not closed"),
    ("xml", '<invoke name="look_up"><parameter name="item">pear', "the parameter item is not closed"),
    ("xml", '<invoke name="buy"><parameter name="item">a<parameter name="count">2</parameter></invoke>', "the parameter item is not closed"),
    ("xml", '<invoke name="look_up"><parameter name="item">a</parameter><parameter name="item">b</parameter></invoke>', "the parameter item is given twice"),
    ("xml", '<invoke name="look_up"><parameter>pear</parameter></invoke>', "<parameter> opens no parameter"),
    ("xml", '<invoke name="look_up"></parameter></invoke>', "</parameter> opens no parameter"),
    ("xml", '<invoke name="look_up"><parameter name="item"><![CDATA[a</parameter></invoke>', "the CDATA of the parameter item is not closed"),
    ("xml", '<invoke name="look_up"><parameter name="item"><![CDATA[a]]>b</parameter></invoke>', "the CDATA of the parameter item is not closed"),
    ("xml", '<invoke name="set"><parameter name="value">1e999</parameter></invoke>', "no JSON can hold the arguments of set"),
    ("xml", '<tool_call>\n{"name": "wait"}\n</tool_call>', "this is no call"),
    ("qwen-coder", "<tool_call>\n<function=wait>\nnow\n</function>\n</tool_call>", "this is no call"),
    ("qwen-coder", "<tool_call>\n<function=wait>", "the block is not closed"),
    ("glm", "<tool_call>wait\nnow\n</tool_call>", "this is no call"),
    ("llama", '{"name": "wait", "parameters": {', "invalid JSON"),
    ("llama", '<tool_call>{"name": "wait"}</tool_call>', "this is no call"),
    ("lfm", "<|tool_call_start|>[wait(]<|tool_call_end|>", "this is no call"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "reason"), BAD)
def test_what_is_malformed_is_told_with_the_form_of_its_own_format(name: str, text: str, reason: str) -> None:
    problem = parse(name, text, TOOLS).problems[0]
    assert problem.startswith(reason)
    assert problem.endswith(f"; expected {FORMATS[name].form}")


def test_a_malformed_call_does_not_hide_the_others() -> None:
    for name, text in {
        "react": "Action: buy[x]\nAction: look_up[pear]",
        "xml": '<invoke name="buy">x</invoke><invoke name="look_up"><parameter name="item">pear</parameter></invoke>',
    }.items():
        parsed = parse(name, text, TOOLS)
        assert (parsed.calls, len(parsed.problems)) == ((ToolCall("look_up", {"item": "pear"}),), 1)


def test_without_tools_all_of_react_is_text() -> None:
    assert parse("react", "Action: north", []) == ParsedAction("Action: north")
    assert write("react", ParsedAction("Action: north"), []) == "Action: north"


def test_what_is_written_is_what_is_documented() -> None:
    said = ParsedAction("So.", (ToolCall("buy", {"item": "</parameter>", "count": 2}), ToolCall("wait", {})))
    assert write("react", said, TOOLS) == (
        'Thought: So.\nAction: buy\nAction Input: {"item": "\\u003c/parameter>", "count": 2}\nAction: wait\nAction Input: {}'
    )
    assert write("xml", said, TOOLS) == (
        'So.\n<invoke name="buy">\n<parameter name="item"><![CDATA[</parameter>]]></parameter>\n'
        '<parameter name="count">2</parameter>\n</invoke>\n<invoke name="wait">\n</invoke>'
    )
    assert write("react", ParsedAction("Action: north"), TOOLS) == "Final Answer: Action: north"


MARKS = [
    "</parameter>",
    "<![CDATA[",
    "]]>",
    "</invoke>",
    "<function_calls>",
    "\nAction: wait\n",
    "<tool_call>",
    "</tool_call>",
    "</think>",
    "[",
    "]",
]
TEXTS = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from([*MARKS, "17", "null", "\n", '"a"', "{}"])), max_size=4
).map("".join)
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(-99, 99), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)
MADE = st.one_of(
    st.builds(lambda item: ToolCall("look_up", {"item": item}), TEXTS),
    st.builds(lambda item, count: ToolCall("buy", {"item": item, "count": count}), TEXTS, st.integers(-9, 10**20)),
    st.builds(lambda value: ToolCall("set", {"value": value}), VALUES),
    st.builds(lambda text: ToolCall("note", {"text": text}), st.none() | TEXTS),
    st.builds(lambda value: ToolCall("unknown", {"a": value}), VALUES),
)  # fmt: skip


@pytest.mark.parametrize("name", ["react", "xml"])
@given(calls=st.lists(MADE, min_size=1, max_size=3), content=st.sampled_from(["", "So.", "Two\nlines."]))
@settings(max_examples=60, deadline=None)
def test_what_is_written_reads_as_the_same_calls(name: str, calls: list[ToolCall], content: str) -> None:
    said = ParsedAction(content, tuple(calls))
    text = write(name, said, TOOLS)
    assert text is not None
    assert parse(name, text, TOOLS) == said


@pytest.mark.parametrize("name", sorted(FORMATS))
@given(
    text=st.lists(
        st.one_of(
            st.text(max_size=6),
            st.sampled_from(
                [*MARKS, "Action:", "Action Input:", '<invoke name="wait">', '<parameter name="a">', "<function=f>"]
            ),
        ),
        max_size=8,
    ).map("".join)
)
@settings(max_examples=25, deadline=None)
def test_reading_never_raises_and_canonical_text_says_the_same(name: str, text: str) -> None:
    parsed = parse(name, text, TOOLS)
    assert all("\n" not in problem for problem in parsed.problems)
    assert parse_action(text) == parsed or name != "hermes"
