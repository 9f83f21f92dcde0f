"""What a tool returned, as the text that a model reads; and text that any tokenizer can take."""

import json
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from pydantic import BaseModel


def answer(value: Any) -> str:
    """The text of what a tool returned.

    Text stays as it is and ``None`` is ``ok``. Numbers, booleans, dicts, lists, tuples, sets (sorted), dataclasses, pydantic models
    and arrays are JSON. An enum member is its value; any other object whose class defines ``__str__`` (a date, a decimal, a path)
    is what that says.

    Raises:
        TypeError: ``value`` is or holds bytes, or an object without a text of its own.
        ValueError: ``value`` holds itself, or an integer too long to be written.
    """
    if value is None:
        return "ok"
    if not isinstance(value, str | bool | int | float | dict | list | tuple):
        value = _plain(value)
    return str.__str__(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    """One step towards what JSON knows."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value)  # the order of a set of strings changes from process to process
    if hasattr(value, "tolist") and not isinstance(value, memoryview):
        return value.tolist()
    bases = type(value).__mro__[:-1]  # without object, whose text is an address
    if isinstance(value, bytes | bytearray) or not any("__str__" in vars(base) for base in bases):
        raise TypeError(f"{type(value).__name__} has no text form")
    return str(value)


def well_formed(text: str) -> str:
    """``text`` without half surrogates, which no tokenizer takes: a high and a low one become a character, others U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str.__str__(text)


def well_formed_data(value: Any) -> Any:
    """A copy of plain data with every string well-formed, keys included."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed_data(key): well_formed_data(item) for key, item in value.items()}
    return [well_formed_data(item) for item in value] if isinstance(value, list) else value
