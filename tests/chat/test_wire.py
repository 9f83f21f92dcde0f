"""Conversations as chat completions take them, and back."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentopd.chat.wire import from_wire, to_wire
from agentopd.tooling.action import parse_action, render_action
from agentopd.types import Message, ToolCall

NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one, max_size=3), max_leaves=4
)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(st.text(max_size=5), JSON, max_size=3)), max_size=3)


def acting(content: str, *calls: ToolCall) -> Message:
    made = [{"type": "function", "function": {"name": one.name, "arguments": dict(one.arguments)}} for one in calls]
    return {"role": "assistant", "content": content, **({"tool_calls": made} if made else {})}  # type: ignore[typeddict-item]


def test_calls_and_their_answers_share_ids() -> None:
    look = ToolCall("price", {"item": "é", "n": 2})
    wired = to_wire(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Buy."},
            acting("So:", look, ToolCall("stock", {})),
            {"role": "tool", "name": "price", "content": "17"},
            {"role": "tool", "name": "stock", "content": "3"},
            acting("", look),
            {"role": "tool", "name": "price", "content": "18"},
            {"role": "user", "content": "Well?"},
            acting("18"),
        ]
    )
    first, second = wired[2], wired[5]
    assert first["content"] == "So:"
    assert [call["function"] for call in first["tool_calls"]] == [
        {"name": "price", "arguments": '{"item": "é", "n": 2}'},
        {"name": "stock", "arguments": "{}"},
    ]
    ids = [call["id"] for call in first["tool_calls"] + second["tool_calls"]]
    assert len(set(ids)) == 3
    assert [one["tool_call_id"] for one in wired if one["role"] == "tool"] == ids
    assert wired[0] == {"role": "system", "content": "Be brief."}
    assert wired[8] == {"role": "assistant", "content": "18"}


@pytest.mark.parametrize(
    ("calls", "answers"),
    [
        ((ToolCall("a", {}), ToolCall("b", {})), ("a",)),  # one without an answer
        ((ToolCall("no such name!", {}),), ("no such name!",)),  # a name that servers refuse
        ((), ("a",)),  # an answer to nothing
    ],
)
def test_what_a_server_would_refuse_is_said_as_text(calls: tuple[ToolCall, ...], answers: tuple[str, ...]) -> None:
    told: list[Message] = [{"role": "tool", "name": name, "content": "17"} for name in answers]
    wired = to_wire([{"role": "user", "content": "Go."}, acting("", *calls), *told])
    assert [one["role"] for one in wired] == ["user", "assistant", *["user"] * len(answers)]
    assert all("tool_calls" not in one for one in wired)
    assert parse_action(wired[1]["content"]).calls == calls


@given(st.text(max_size=20).filter(lambda text: "<" not in text), CALLS)
@example("\x85", [])  # white space alone says nothing
@example(" ", [ToolCall("stop", {})])
def test_an_action_survives_the_wire(content: str, calls: list[ToolCall]) -> None:
    answers: list[Message] = [{"role": "tool", "name": one.name, "content": ""} for one in calls]
    wired = json.loads(json.dumps(to_wire([acting(content, *calls), *answers])[0]))
    back = [(one["function"]["name"], one["function"]["arguments"]) for one in wired.get("tool_calls", ())]
    written = render_action(content, calls)
    assert from_wire(wired["content"], back) == (written if written.strip() else None)


@pytest.mark.parametrize(
    ("content", "calls", "action"),
    [
        ("17", (), "17"),
        ("<think>\nhm 3\n</think>\n\n17", (), "17"),
        ("", (("price", '{"item": "pear"}'),), render_action("", [ToolCall("price", {"item": "pear"})])),
        ("", (("stop", ""),), render_action("", [ToolCall("stop", {})])),
        ('<tool_call>{"name": "stop", "arguments": {}}</tool_call>', (), render_action("", [ToolCall("stop", {})])),
        ("", (), None),
        (" \n\x85", (), None),
        ("", (("price", '{"item": '),), None),
        ("", (("price", "[1]"),), None),
        ("", (("price", '{"n": NaN}'),), None),
        ("<tool_call>{", (), None),
        ("half \ud83d", (), "half \ufffd"),
        ("", (("price", '{"item": "\\ud83d"}'),), render_action("", [ToolCall("price", {"item": "\ufffd"})])),
        ("", (("price", '{"item": ' + "[" * 100_000),), None),
    ],
)
def test_what_comes_back_is_canonical_or_nothing(content: str, calls: Any, action: str | None) -> None:
    assert from_wire(content, calls) == action
