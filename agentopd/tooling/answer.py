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


def plain_data(value: Any) -> Any:
    """A fresh copy of ``value`` as plain data by the rules of :func:`answer`, every string well-formed, keys included.

    Plain data are text, booleans, numbers, ``None``, and lists and dicts of them, of exactly these types.

    Raises:
        TypeError: ``value`` is or holds what has no text of its own, or a dict in it has a key that is neither text nor a number.
        ValueError: A part of it cannot be converted.
        RecursionError: ``value`` holds itself.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, Mapping):
        return {_plain_key(key): plain_data(item) for key, item in value.items()}
    return [plain_data(item) for item in value] if isinstance(value, list | tuple) else plain_data(_plain(value))


def _plain_key(key: Any) -> Any:
    found = plain_data(key)
    if isinstance(found, list | dict):
        raise TypeError(f"the key {key!r} is neither text nor a number")
    return found
