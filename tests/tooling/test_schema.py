"""Arguments against a schema that somebody else wrote, to be read or to do harm."""

import contextlib
import re
import time
import traceback
from typing import Any

import pytest
from jsonschema import validators

from agentopd.errors import ConfigError, EnvError, ToolError
from agentopd.tooling import keywords
from agentopd.tooling import schema as schema_module
from agentopd.tooling.keywords import PATTERNS
from agentopd.tooling.schema import LONGEST, checker

DIALECTS = [f"http://json-schema.org/draft-0{number}/schema#" for number in (3, 4, 6, 7)] + [
    f"https://json-schema.org/draft/{name}/schema" for name in ("2019-09", "2020-12")
]
LONG = "a" * 60 + "!"
"""Of which ``^(a+)+$`` takes years where a matcher goes back."""


def told(part: dict[str, Any], value: Any, **around: Any) -> str:
    """What is wrong with ``value`` as the argument ``a``; empty where nothing is."""
    try:
        checker("t", {"type": "object", "properties": {"a": part}} | around)({"a": value})
    except ToolError as error:
        return f"{error.kind} {error}"
    return ""


@pytest.mark.parametrize("inner", DIALECTS)
@pytest.mark.parametrize("outer", [None, DIALECTS[-1], DIALECTS[1]])
def test_a_part_that_names_a_dialect_is_bounded_too(inner: str, outer: str | None) -> None:
    around = {"$schema": outer} if outer else {}
    assert "does not match" in told({"$schema": inner, "type": "string", "pattern": "^(a+)+$"}, LONG, **around)
    whole = {"additionalProperties": {"pattern": "^(a+)+$"}, "$schema": inner}
    assert "does not match" in told({"$ref": "#"}, {"b": LONG}, **whole)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_number_too_large_for_a_float_is_the_models_mistake_or_none(dialect: str) -> None:
    word = "divisibleBy" if dialect == DIALECTS[0] else "multipleOf"
    for part, value, right in ((0.5, 10**400, True), (7.5, 10**400, False), (3, 10**400, False), (2, 10**400, True)):
        assert (told({word: part}, value, **{"$schema": dialect}) == "") is right
    assert "not a multiple" in told({word: 10**400}, 1.5, **{"$schema": dialect})


MULTIPLES = [
    (0.5, 1.5),
    (0.1, 0.3),
    (0.01, 1.1),
    (3, 9.0),
    (3, 9.5),
    (3, 9),
    (3, 10),
    (5, 1e308),
    (1e-300, 1e300),
]


@pytest.mark.parametrize(("part", "value"), [*MULTIPLES, (2, True), (2, "x"), (0.5, -2)])
def test_multiples_are_those_of_jsonschema(part: float, value: Any) -> None:
    right = validators.validator_for({})({"multipleOf": part}).is_valid(value)
    assert (told({"multipleOf": part}, value) == "") is right


UNIQUE = [
    [],
    [1, 1.0],
    [1, True],
    [0, False, "0"],
    [[1], [True]],
    [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}],
    [{}, []],
    [None, "None"],
]


@pytest.mark.parametrize("items", UNIQUE)
def test_items_are_unique_by_the_rules_of_json_schema(items: list[Any]) -> None:
    right = items is not UNIQUE[1] and items is not UNIQUE[5]
    assert (told({"uniqueItems": True}, items) == "") is right
    assert told({"uniqueItems": False}, items) == ""


@pytest.mark.parametrize(
    ("part", "value", "answer"),
    [
        ({"uniqueItems": True}, ["x", *range(10_000)], "^$"),
        ({"uniqueItems": True}, [{"a": n} for n in range(10_000)], "^$"),
        ({"items": {"enum": [{"k": n} for n in range(3000)]}}, list(range(3000)), "is not one of|asks for too much"),
        ({"items": {"required": [f"k{n}" for n in range(500)]}}, [{}] * 500, "is a required property"),
        ({"anyOf": [{"items": {"required": [f"k{n}" for n in range(500)]}}]}, [{}] * 500, "asks for too much"),
    ],
)
def test_long_lists_against_long_lists_take_no_square_of_time(part: Any, value: Any, answer: str) -> None:
    begin = time.process_time()
    found = told(part, value)
    assert time.process_time() - begin < 5
    assert re.search(answer, found)


def test_a_long_list_in_the_schema_itself_takes_no_square_of_time() -> None:
    begin = time.process_time()
    assert told({"enum": ["x", *range(5000)]}, 7, **{"$schema": DIALECTS[1]}) == ""
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("part", [{"type": 5}, {"minLength": "q"}, [1], {"enum": 5}, None, {"$ref": 5}])
def test_a_reference_to_what_is_no_schema_blames_no_one(part: Any) -> None:
    with pytest.raises(EnvError, match="tool t: its schema cannot be used"):
        told({"$ref": "#/x"}, "text", x=part)


@pytest.mark.parametrize("word", ["$schema", "$id"])
def test_an_address_that_python_cannot_read_makes_a_schema_none(word: str) -> None:
    with pytest.raises(ConfigError, match="tool t: its schema is none: Invalid IPv6 URL"):
        checker("t", {"type": "object", word: "http://[x"})


@pytest.mark.parametrize(
    ("pattern", "value", "right"),
    [
        (r"^\p{L}+$", "\u00e9", True),
        (r"^\p{L}+$", "5", False),
        (r"^(?<year>\d{4})$", "1999", True),
        (r"^\<b\>$", "<b>", True),
        (r"^[&&b]$", "&", True),
        (r"^[^[\]]+$", "ab", True),
        (r"^[\[\]a-]+$", "<", False),
        ("a{99999999999999999999}", "b", True),
    ],
)
def test_patterns_of_javascript_are_looked_for_or_left_to_the_tool(pattern: str, value: str, right: bool) -> None:
    assert (told({"pattern": pattern}, value) == "") is right


@pytest.mark.parametrize("dialect", DIALECTS[-2:])
def test_what_is_left_unevaluated_takes_no_time(dialect: str) -> None:
    twice = {f"A{n}": {"dependentSchemas": {name: {"$ref": f"#/$defs/A{n + 1}"} for name in "ab"}} for n in range(40)}
    schemas: list[dict[str, Any]] = [
        {"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False},
        {"unevaluatedProperties": False, "dependentSchemas": twice["A0"]["dependentSchemas"]},
    ]
    begin = time.process_time()
    for schema in schemas:
        found = checker("t", {"$schema": dialect, "type": "object", "$defs": twice | {"A40": {}}} | schema)
        with contextlib.suppress(ToolError):
            found({LONG: 1, "a": 1, "b": 1})
    assert time.process_time() - begin < 5


def test_names_of_places_are_looked_up_once() -> None:
    many: dict[str, Any] = {f"d{n}": {"properties": {"q": {}}} for n in range(1000)}
    schema = {"type": "object", "allOf": [{"$ref": "#far"}] * 500, "$defs": {**many, "x": {"$anchor": "far"}}}
    check, begin = checker("t", schema), time.process_time()
    assert check({"a": 1}) == {"a": 1}
    assert time.process_time() - begin < 3


def test_what_draft_3_extends_is_looked_at() -> None:
    schema = {"$schema": DIALECTS[0], "extends": {"properties": {"a": {"$ref": "#/d"}}}, "d": {"type": "string"}}
    assert "not of type 'string'" in told({}, 5, **schema)


def test_what_the_arguments_make_costly_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_module, "SECONDS", 0.1)
    check = checker("t", {"type": "object", "properties": {"a": {"allOf": [{"items": {}}] * 500}}})
    begin = time.process_time()
    with pytest.raises(ToolError, match="t: the schema asks for too much"):
        check({"a": [1] * 10_000})
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    "part", [{"$ref": "#"}, {"type": "object", "allOf": [{"$ref": "#"}]}, {"properties": {"a": {"$ref": "#"}}}]
)
def test_no_nesting_reaches_the_end_of_the_stack(part: Any) -> None:
    """At which some of what is compiled panics, with what is no ``Exception``."""
    value: dict[str, Any] = {}
    for _ in range(120):
        value = {"a": value}
    check = checker("t", {"$ref": "#/$defs/p", "type": "object", "$defs": {"p": part}})

    with pytest.raises(ToolError, match="t: the arguments are nested too deep") as raised:
        check(value)
    assert raised.value.__cause__ is not None
    assert len(list(traceback.walk_tb(raised.value.__cause__.__traceback__))) < 500


def test_a_schema_that_is_nested_too_deep_is_refused() -> None:
    part: dict[str, Any] = {}
    for _ in range(100):
        part = {"not": part}
    with pytest.raises(ConfigError, match="tool t: its schema is nested too deep"):
        checker("t", {"type": "object", "not": part})


def test_a_schema_that_is_too_large_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(ConfigError, match=f"^tool t: its schema has .* characters; at most {LONGEST} can be looked at"):
        checker("t", {"type": "object", "description": "x" * LONGEST})


def test_patterns_of_all_schemas_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keywords, "_compiled", {f"old{n}" for n in range(keywords.COMPILED - 1)})
    checker("t", {"type": "object", "properties": {"a": {"pattern": "new0"}, "b": {"pattern": "old1"}}})
    with pytest.raises(ConfigError, match="tool t: its schema has 1 patterns beside the 256 of other schemas"):
        checker("t", {"type": "object", "properties": {"a": {"pattern": "new1"}}})


def test_names_that_nobody_looks_for_are_left_to_the_tool() -> None:
    part = {
        "patternProperties": {"^(?!x-)": {"type": "string"}, "^n": {"type": "number"}},
        "additionalProperties": False,
    }
    assert told(part, {"x-size": 5}) == ""
    assert "not of type 'number'" in told(part, {"n": "5"})


def test_patterns_are_compiled_before_a_call_and_their_number_is_bounded() -> None:
    def made(count: int) -> Any:
        parts = {f"a{i}": {"pattern": f"^x{i}" + r"\w{60}$"} for i in range(count // 2)}
        inside: dict[str, Any] = {
            "additionalProperties": {"patternProperties": {f"^n{i}": {} for i in range(count - count // 2)}}
        }
        return checker("t", {"type": "object", "properties": parts} | inside)

    begin = time.process_time()
    check, ready = made(PATTERNS), time.process_time()
    with pytest.raises(ToolError, match="does not match"):
        check({f"a{i}": "x" for i in range(PATTERNS // 2)})
    assert time.process_time() - ready < (ready - begin) / 2
    with pytest.raises(
        ConfigError, match=f"tool t: its schema has {PATTERNS + 1} different patterns; at most {PATTERNS}"
    ):
        made(PATTERNS + 1)
