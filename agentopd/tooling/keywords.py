"""Keywords of JSON Schema whose work ``jsonschema`` leaves without bound, or which it answers with an exception of its own."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from pydantic_core import SchemaError as PatternError
from pydantic_core import SchemaValidator, core_schema

from agentopd.tooling.action import brief

PATTERNS = 64
"""Different patterns in the schema of one tool."""
COMPILED = 256
"""Different patterns in the schemas of all tools that this process has met: each may take twelve megabytes, and stays."""
UNEVALUATED = ("unevaluatedItems", "unevaluatedProperties")
"""Keywords that are left out: ``jsonschema`` matches patterns for them by going back, and follows references without end."""

_PARTS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\\\]])*\]", re.DOTALL)
"""Of a pattern: escapes, and classes of characters."""
_compiling, _compiled = threading.Lock(), set[str]()

Keyword = Callable[[Any, Any, Any, Any], Any]
"""Of validator, the keyword's value, what is checked, and the schema around: gives errors."""


def bounded(keywords: Mapping[str, Keyword]) -> dict[str, Keyword]:
    """The keywords of a dialect, of which none takes more than time that grows with schema times arguments, once :func:`compile_patterns` was told of the schema.

    Patterns that look around, which linear time excludes, are not looked for; nor is what other keywords left unevaluated.
    """
    taken: dict[str, Keyword] = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional(keywords["additionalProperties"]),
        "uniqueItems": _unique_items,
        **{name: _multiple_of for name in ("multipleOf", "divisibleBy") if name in keywords},
        **{name: _left_out for name in UNEVALUATED if name in keywords},
    }
    return {**keywords, **taken}


def compile_patterns(schema: Any) -> None:
    """Compiles the patterns of a schema, which may take half a second each, so that no call has to.

    Raises:
        ValueError: They are more than :data:`PATTERNS`, or this process met more than :data:`COMPILED`; then none is compiled.
    """
    found = set(_patterns(schema))
    if len(found) > PATTERNS:
        raise ValueError(f"{len(found)} different patterns; at most {PATTERNS} can be looked for")
    with _compiling:
        if len(new := found - _compiled) + len(_compiled) > COMPILED:
            raise ValueError(
                f"{len(new)} patterns beside the {len(_compiled)} of other schemas; a process can look for {COMPILED}"
            )
        _compiled.update(new)
        for pattern in new:
            _matcher(pattern)


def _patterns(schema: Any) -> Iterator[str]:
    left = [schema]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield from (part["pattern"],) if isinstance(part.get("pattern"), str) else ()
            yield from part["patternProperties"] if isinstance(part.get("patternProperties"), dict) else ()
            left += part.values()
        elif isinstance(part, list):
            left += part


@cache
def _matcher(pattern: str) -> SchemaValidator | None:
    """What finds ``pattern`` in a text; ``None`` where it cannot be found in linear time, or might mean something else there."""
    if any(_is_doubtful(part[0]) for part in _PARTS.finditer(pattern)):
        return None
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern))
    except PatternError:
        return None


def _is_doubtful(part: str) -> bool:
    """Whether an escape or a class means one thing in JavaScript and another in Rust, whose expressions are linear: of ``\\<`` a word's
    beginning, of ``[a&&b]`` what both have."""
    inside = re.sub(r"\\.", "", part[1:], flags=re.DOTALL)
    return part[1] in "<>" if part[0] == "\\" else re.search(r"\[|&&|--|~~", inside) is not None


def _found(pattern: str, text: str) -> bool | None:
    """Whether ``pattern`` is in ``text``; ``None`` where nobody looks."""
    matcher = _matcher(pattern)
    return None if matcher is None else matcher.isinstance_python(text)


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and _found(pattern, instance) is False:
        yield _wrong(f"{brief(repr(instance), 60)} does not match {brief(repr(pattern), 60)}")


def _pattern_properties(validator: Any, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, part in patterns.items() if isinstance(instance, dict) else ():
        for key, value in instance.items():
            if _found(pattern, key):
                yield from validator.descend(value, part, path=key, schema_path=pattern)


def _left_out(validator: Any, part: Any, instance: Any, schema: Any) -> tuple[()]:
    return ()


def _additional(keyword: Keyword) -> Keyword:
    """That keyword where no pattern of a name is looked for any more: names that one fits, or may fit, are no additional ones."""

    def additional(validator: Any, part: Any, instance: Any, schema: Mapping[str, Any]) -> Any:
        patterns = schema.get("patternProperties", {})
        if isinstance(instance, dict) and patterns:
            instance = {
                key: value
                for key, value in instance.items()
                if all(_found(pattern, key) is False for pattern in patterns)
            }
            schema = {word: given for word, given in schema.items() if word != "patternProperties"}
        return keyword(validator, part, instance, schema)

    return additional


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """Compares by hash; ``jsonschema`` compares each with each where items cannot be sorted."""
    if wanted and isinstance(instance, list) and len({_same(item) for item in instance}) < len(instance):
        yield _wrong(f"{brief(repr(instance), 60)} has non-unique elements")


def _same(value: Any) -> Any:
    """What is equal for plain data that JSON Schema calls equal: ``1`` and ``1.0``, but not ``true``."""
    if isinstance(value, dict):
        return dict, frozenset((key, _same(item)) for key, item in value.items())
    if isinstance(value, list):
        return list, tuple(map(_same, value))
    return (bool, value) if isinstance(value, bool) else value


def _multiple_of(validator: Any, part: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """As ``jsonschema``, and exact where a number is too large for a float."""
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    try:
        quotient = instance / part if isinstance(part, float) else None
        is_multiple = instance % part == 0 if quotient is None else int(quotient) == quotient
    except OverflowError:
        is_multiple = (Fraction(instance) / Fraction(part)).denominator == 1
    if not is_multiple:
        yield _wrong(f"{brief(repr(instance), 60)} is not a multiple of {part}")


def _wrong(message: str) -> Exception:
    from jsonschema import ValidationError

    error: Exception = ValidationError(message)
    return error
