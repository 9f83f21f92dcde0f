"""Free-form values and text as what Parquet can hold, one to one."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.errors import RecordError

_TAG = "!"
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""Two halves that JSON would join into one character."""
_UNSAFE = re.compile("[\0\ud800-\udfff]")
_ESCAPED = re.compile("\0([0-9a-f]{4})")


def to_json(value: Any, where: str) -> str:
    """JSON that :func:`from_json` turns back into an equal value.

    A tuple becomes ``{"!tuple": [...]}``, a mapping whose keys are not all text ``{"!dict": [[key, value], ...]}``, and text in which two half
    surrogates would be read back as one character ``{"!text": ...}``, escaped.

    Raises:
        RecordError: ``value`` holds something that is not plain data. ``where`` names it in the message.
    """
    try:
        return json.dumps(_tagged(value, where))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where} cannot be written: {error}; keep it flatter, and its integers shorter") from error


def from_json(text: str) -> Any:
    """The value that :func:`to_json` wrote."""
    # most text holds no tag, and a function called for every mapping takes most of the time
    return json.loads(text, object_hook=_untagged if f'"{_TAG}' in text else None)


def all_from_json(texts: Sequence[str | None]) -> list[Any]:
    """The values that :func:`to_json` wrote, ``None`` for none; many at once are read much faster than one by one."""
    return list(from_json(f"[{','.join('null' if text is None else text for text in texts)}]"))


def _tagged(value: Any, where: str) -> Any:
    if type(value) is str:
        return {_TAG + "text": escape(value)} if _PAIR.search(value) else value
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, list):
        return [_tagged(item, where) for item in value]
    if isinstance(value, tuple):
        return {_TAG + "tuple": [_tagged(item, where) for item in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith(_TAG) and not _PAIR.search(key) for key in value):
            return {key: _tagged(item, where) for key, item in value.items()}
        return {_TAG + "dict": [[_tagged(key, where), _tagged(item, where)] for key, item in value.items()]}
    raise RecordError(
        f"{where} holds a {type(value).__name__}, {value!r:.80}; records keep plain data: "
        "use text, numbers, booleans, None, lists, tuples and dicts of them"
    )


def _untagged(found: dict[str, Any]) -> Any:
    if _TAG + "tuple" in found:
        return tuple(found[_TAG + "tuple"])
    if _TAG + "text" in found:
        return unescape(found[_TAG + "text"])
    if _TAG + "dict" in found:
        return dict(found[_TAG + "dict"])
    return found


def escape(text: str) -> str:
    """``text`` as valid UTF-8: a lone surrogate (a model can write one in JSON) or NUL becomes NUL and four hex digits."""
    return _UNSAFE.sub(lambda found: f"\0{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """What :func:`escape` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "\0" in text else text
