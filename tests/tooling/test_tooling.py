"""Tools, their schemas, and the canonical text of actions."""

import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling import ParsedAction, Tool, ToolSet, call, parse_action, render_action, tool, toolset
from agentopd.types import ToolCall

MARKERS = ("<tool_call>", "</tool_call>")


class Address(BaseModel):
    street: str
    number: int


@tool
def ship(
    item: str,
    to: Address,
    count: Annotated[int, Field(ge=1)] = 1,
    speed: Literal["slow", "fast"] = "slow",
    notes: list[str] | None = None,
    weight: float = 1.0,
    schema: bool = False,
) -> str:
    """Ship an item
    to somebody.

    Only the first paragraph is told.

    Args:
        item: What to ship; one
            word: the name.
        count (int): How many.
    """
    return f"{count} {item} {speed} to {to.number} {to.street}, {notes}, {weight}, {schema}"


@tool
def broken(what: str) -> str:
    """Breaks."""
    if what == "exit":
        raise SystemExit(1)
    if what == "env":
        raise EnvError("no disk")
    if what == "plain":
        raise ToolError("sold out")
    if what == "own":
        raise ToolError("not today", kind="closed")
    raise KeyError(what)


@tool(time_limit=0.05)
def sleep(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)


class Shop:
    @property
    def explosive(self) -> str:
        raise AssertionError("ToolSet.of must not read properties")

    @tool
    def price(self, item: str) -> int:
        """The price."""
        return len(item)

    @tool
    def open(self) -> None:
        """Open."""

    def helper(self) -> None:
        """Not a tool."""


class Kiosk(Shop):
    @tool
    def close(self) -> None:
        """Close."""

    @tool
    def price(self, item: str) -> int:
        """A higher price."""
        return 10 * super().price(item)

    def open(self) -> None:
        """No longer a tool."""


def kind_of(tools: ToolSet, name: str, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ToolError) as caught:
        tools.call(ToolCall(name, arguments))
    assert "\n" not in str(caught.value)
    return caught.value.kind, str(caught.value)


def test_schema_is_made_from_signature_and_docstring() -> None:
    function = Tool.of(ship).schema["function"]
    assert function["description"] == "Ship an item to somebody."
    parameters = function["parameters"]
    assert parameters["required"] == ["item", "to"]
    properties = parameters["properties"]
    assert properties["item"] == {"type": "string", "description": "What to ship; one word: the name."}
    assert properties["count"] == {"type": "integer", "minimum": 1, "default": 1, "description": "How many."}
    assert properties["speed"] == {"type": "string", "enum": ["slow", "fast"], "default": "slow"}
    assert properties["schema"] == {"type": "boolean", "default": False}
    assert set(parameters) == {"type", "properties", "required", "$defs"}


def test_arguments_arrive_typed() -> None:
    to = {"street": "Elm", "number": 3}
    assert ToolSet([ship]).call(ToolCall("ship", {"item": "pear", "to": to, "weight": 2})) == (
        "1 pear slow to 3 Elm, None, 2.0, False"
    )
    assert ship("pear", Address(street="Elm", number=3), notes=["x"]).startswith("1 pear")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": {"street": "Elm", "number": 3}}, "ship: item: missing"),
        ({"item": 3, "to": {"street": "Elm", "number": 3}}, "ship: item: Input should be a valid string (got 3)"),
        (
            {"item": "a", "to": {"street": "Elm", "number": "3"}},
            "ship: to.number: Input should be a valid integer (got '3')",
        ),
        (
            {"item": "a", "to": {"street": "Elm", "number": 3}, "count": 0},
            "ship: count: Input should be greater than or equal to 1 (got 0)",
        ),
        (
            {"item": "a", "to": {"street": "Elm", "number": 3}, "schema": 1},
            "ship: schema: Input should be a valid boolean (got 1)",
        ),
        (
            {"item": "a", "to": {"street": "Elm", "number": 3}, "colour": 1},
            "ship: colour: unknown argument (arguments: item, to, count, speed, notes, weight, schema)",
        ),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    assert kind_of(ToolSet([ship]), "ship", **arguments) == ("bad_arguments", message)


def test_a_long_bad_argument_is_cut() -> None:
    assert len(kind_of(ToolSet([ship]), "ship", **{"x" * 5000 + "\n": "y" * 5000})[1]) < 300


def test_what_goes_wrong_has_a_kind() -> None:
    tools = ToolSet([ship, broken, sleep])
    assert kind_of(tools, "shop") == ("unknown_tool", "unknown tool 'shop'; tools: ship, broken, sleep")
    assert kind_of(tools, "broken", what="x") == ("tool_crash", "broken: KeyError: 'x'")
    assert kind_of(tools, "broken", what="exit") == ("tool_crash", "broken: SystemExit: 1")
    assert kind_of(tools, "broken", what="own") == ("closed", "not today")
    assert kind_of(tools, "broken", what="plain") == ("tool_error", "sold out")
    with pytest.raises(EnvError, match="no disk"):
        tools.call(ToolCall("broken", {"what": "env"}))


def test_the_first_crash_of_a_tool_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @tool(time_limit=5.0)
    def shaky() -> None:
        """Shaky."""
        raise ZeroDivisionError("in a thread")

    monkeypatch.setattr(toolset, "_logged", set())
    tools = ToolSet([broken, shaky])
    for arguments in ({"what": "own"}, {"what": 3}, {"what": "a"}, {"what": "b"}):
        kind_of(tools, "broken", **arguments)
    kind_of(tools, "shaky")
    crashes = [(record.levelname, str(record.exc_info and record.exc_info[1])) for record in caplog.records]
    assert crashes == [("WARNING", "'a'"), ("WARNING", "in a thread")]
    assert "tool test_tooling.broken crashed" in caplog.text
    assert "raise KeyError(what)" in caplog.text


def test_a_hanging_tool_times_out() -> None:
    start = time.perf_counter()
    assert kind_of(ToolSet([sleep]), "sleep", seconds=0.5) == ("tool_timeout", "sleep: no answer within 0.05 s")
    assert time.perf_counter() - start < 0.4
    assert ToolSet([sleep]).call(ToolCall("sleep", {"seconds": 0.0})) == "ok"


def no_hint(item) -> None:  # type: ignore[no-untyped-def]
    """Doc."""


def no_docstring(item: str) -> None: ...


def only_args(item: str) -> None:
    """Args:
    item: What.
    """


def wrong_docs(item: str) -> None:
    """Doc.

    Args:
        thing: What.
    """


def variadic(*items: str) -> None:
    """Doc."""


def yielding(item: str) -> Iterator[str]:
    """Doc."""
    yield item


async def streaming(item: str) -> AsyncIterator[str]:
    """Doc."""
    yield item


def calling(item: Callable[[int], int]) -> None:
    """Doc."""


def arrays(item: np.ndarray[Any, Any]) -> None:
    """Doc."""


def positional(item: str, /) -> None:
    """Doc."""


def unreadable(item: "Missing") -> None:  # type: ignore[name-defined] # noqa: F821
    """Doc."""


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (no_hint, "no_hint: parameter 'item' has no type hint"),
        (no_docstring, "no_docstring: no docstring"),
        (only_args, "only_args: no docstring"),
        (wrong_docs, "describes 'thing'"),
        (variadic, "by name"),
        (streaming, "streaming: it yields; return one answer"),
        (yielding, "yielding: it yields; return one answer"),
        (calling, r"calling: a type hint cannot be checked \(.*Callable.*\); models give JSON"),
        (arrays, r"arrays: a type hint cannot be checked \(.*ndarray.*\); models give JSON"),
        (positional, "by name"),
        (
            partial(only_args, "x"),
            r"@tool marks functions, and functools.partial\(.* is none; put it right above a `def`",
        ),
        (staticmethod(only_args), "@tool marks functions, and <staticmethod"),
        (property(only_args), "@tool marks functions, and <property"),
        (unreadable, "Missing"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused(function: Callable[..., None], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        tool(function)
    assert "\n" not in str(caught.value)


def test_methods_in_order_and_overridden() -> None:
    assert ToolSet.of(Shop()).names == ("price", "open")
    tools = ToolSet.of(Kiosk())
    assert tools.names == ("price", "close")
    assert tools.call(ToolCall("price", {"item": "fig"})) == "30"
    assert tools[0].description == "A higher price."


def test_static_and_class_methods_are_tools() -> None:
    class Scale:
        unit = "kg"

        @staticmethod
        @tool
        def weigh(item: str) -> int:
            """Weigh."""
            return len(item)

        @classmethod
        @tool
        def name(cls, short: bool) -> str:
            """The unit."""
            return cls.unit if short else "kilogram"

    tools = ToolSet.of(Scale())
    assert tools.names == ("weigh", "name")
    assert [tools.call(ToolCall("weigh", {"item": "fig"})), tools.call(ToolCall("name", {"short": True}))] == [
        "3",
        "kg",
    ]


def test_sets_refuse_what_is_no_tool_and_double_names() -> None:
    with pytest.raises(ConfigError, match="@tool"):
        ToolSet([math.sqrt])
    with pytest.raises(ConfigError, match="two tools are called 'ship'"):
        ToolSet([ship, ship])


def test_canonical_text() -> None:
    assert call("mark", at=np.array([[1, 2]])) == call("mark", at=[[1, 2]])
    text = call("price", item="</tool_call>", name=np.int64(3))
    assert text == (
        '<tool_call>\n{"name": "price", "arguments": {"item": "\\u003c/tool_call>", "name": 3}}\n</tool_call>'
    )
    assert render_action("I look.", [ToolCall("a", {})]) == (
        'I look.\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>'
    )


hostile_text = st.lists(
    st.one_of(st.text(), st.sampled_from([*MARKERS, "<", "\n", '"', "{", "}", "\\", "\\u003c", "\u2028"]))
).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | hostile_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile_text, inner, max_size=3),
    max_leaves=6,
)
calls = st.lists(st.builds(ToolCall, hostile_text, st.dictionaries(hostile_text, json_values, max_size=3)), max_size=3)
contents = hostile_text.filter(lambda text: not any(marker in text for marker in MARKERS))


@settings(max_examples=60)
@given(contents, calls)
def test_parsing_undoes_rendering(content: str, calls: list[ToolCall]) -> None:
    assert parse_action(render_action(content, calls)) == ParsedAction(content, tuple(calls))


@given(hostile_text | st.lists(st.sampled_from([*MARKERS, call("a", x=1), "{", '{"name": "a"', " "])).map("".join))
def test_parsing_never_raises_and_its_content_can_be_rendered(text: str) -> None:
    parsed = parse_action(text)
    again = parse_action(render_action(parsed.content, parsed.calls))
    assert (again.content, again.calls, again.problems) == (parsed.content, parsed.calls, ())


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_cannot_be_content(marker: str) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        render_action(f"x{marker}", [])


def test_models_may_write_freely() -> None:
    text = 'Let me see. <tool_call>{"name":"a","arguments":{"x":"</tool_call>"}}</tool_call> and\n' + (
        '<tool_call> \n{"arguments": {}, "name": "b"}\t</tool_call>\nso.'
    )
    assert parse_action(text) == ParsedAction(
        "Let me see. \nand\nso.", (ToolCall("a", {"x": "</tool_call>"}), ToolCall("b", {}))
    )


@pytest.mark.parametrize(
    ("text", "content", "problem"),
    [
        ("<tool_call>", "", "the block is not closed"),
        ('a<tool_call>{"name": "a", "arguments": {}}', "a", "the block is not closed"),
        ("<tool_call>a</tool_call>b", "b", "invalid JSON (Expecting value)"),
        ('<tool_call>{"name": "a"}</tool_call>', "", 'expected {"name": ..., "arguments": {...}}'),
        ('<tool_call>{"name": 1, "arguments": {}}</tool_call>', "", 'expected {"name": ..., "arguments": {...}}'),
        ('<tool_call>{"name": "a", "arguments": {}} x</tool_call>', "", "text after the JSON object"),
        ('<tool_call>{"name": "a", "arguments": {"x": NaN}}</tool_call>', "", "invalid JSON (NaN is not JSON)"),
        ("x</tool_call>y", "x\ny", "a block is closed that was not opened"),
    ],
)
def test_problems(text: str, content: str, problem: str) -> None:
    assert parse_action(text) == ParsedAction(content, (), (problem,))


@pytest.mark.parametrize("value", ["1e999", '"\\ud800"', "1" * 5000, "[" * 100_000])
def test_what_only_python_calls_json_is_a_problem(value: str) -> None:
    parsed = parse_action(f'<tool_call>{{"name": "a", "arguments": {{"x": {value}}}}}</tool_call>')
    assert not parsed.calls
    assert len(parsed.problems) == 1


def test_a_good_block_after_a_bad_one_is_read() -> None:
    parsed = parse_action("<tool_call>{oops" + call("a") + "<tool_call>x</tool_call>" + call("b"))
    assert [found.name for found in parsed.calls] == ["a", "b"]
    assert len(parsed.problems) == 2
