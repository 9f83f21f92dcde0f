"""What is said of a wrong setting: its path, what is wrong, what would be right."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

Location: TypeAlias = tuple[str | int, ...]

LONGEST = 120
"""Characters of a value that a message repeats."""
KEYED = frozenset({"key_env", "url"})
"""Settings whose value no message repeats that does not know it: it may hold a key."""
WORDS = {
    "dict_type": "expected a mapping of names to values",
    "model_type": "expected a mapping of settings",
    "tuple_type": "expected a list",
}
"""What YAML calls what pydantic names by Python's types."""


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint for a misspelt word, empty where nothing is near."""
    found = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def explain(
    error: ValidationError,
    model: type[BaseModel],
    more: Callable[[Location], Iterable[str]] = lambda _: (),
    spelt: Callable[[Location], Location] = lambda location: location,
) -> str:
    """One sentence for each problem, on one line.

    Args:
        error: What ``model`` said.
        model: What was validated; its fields are the keys that are listed where one is unknown.
        more: Keys that are valid at a place besides the fields.
        spelt: How the user wrote the path to a place.
    """
    return "; ".join(_sentence(problem, model, more, spelt) for problem in error.errors())


def shown(value: Any) -> str:
    """``value`` as a message repeats it: in full, unless it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _sentence(problem: Any, model: type[BaseModel], more: Any, spelt: Any) -> str:
    location: Location = tuple(part for part in problem["loc"] if part != "[key]")
    kind, path = problem["type"], ".".join(map(str, spelt(location)))
    if kind == "extra_forbidden":
        siblings = [*_fields(model, location[:-1]), *more(location[:-1])]
        return f"{path}: unknown key{nearest(str(location[-1]), siblings)}; valid keys: {', '.join(siblings)}"
    if kind == "missing":
        return f"{path}: missing, and it has no default"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return message if not path or message.startswith(f"{path}.") else f"{path}: {message}"
    given = problem["input"]
    got = f"a {type(given).__name__}" if KEYED.intersection(location) else shown(given)
    return f"{path}: {WORDS.get(kind, message)} (got {got})"


def _fields(model: Any, location: Sequence[str | int]) -> list[str]:
    """The fields of the settings at a place below ``model``."""
    for part in location:
        model = _below(_bare(model), part)
    settings = _bare(model)
    return list(settings.model_fields) if _is_model(settings) else []


def _below(annotation: Any, part: str | int) -> Any:
    """The type of what has the key ``part``; of a mapping or a list, that of its values."""
    if _is_model(annotation):
        return annotation.model_fields[part].annotation
    values = [inner for inner in get_args(annotation) if inner is not Ellipsis]
    return values[-1] if values else None


def _bare(annotation: Any) -> Any:
    """Takes the annotations off, and the object of an optional one."""
    while get_origin(annotation) in (Annotated, Union, UnionType):
        annotation = next(inner for inner in get_args(annotation) if inner is not type(None))
    return annotation


def _is_model(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)
