"""Settings that are the name of a teacher: how a function says which of its settings are."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypeAlias, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor

from agentopd.settings.choice import Choice
from agentopd.settings.signature import Function, annotation_of


@dataclass(frozen=True)
class Named:
    """Marks a setting that is a teacher's name in a configuration."""

    distribution: bool = False
    """Whether a call gets that teacher's log-probabilities in its place."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.str_schema(min_length=1)


TeacherName: TypeAlias = Annotated[str, Named()]
"""A teacher by its name, which so annotates: ``rows.teachers[name]``."""
Distribution: TypeAlias = Annotated[Tensor, Named(distribution=True)]
"""A teacher: its name in a configuration; in a call its log-probabilities, [N, V], or [A] of the tokens taken."""


def teachers_of(part: Choice) -> set[str]:
    """The names that a part's settings hold of teachers."""
    return {part.settings[name] for name in _named(part.function) if part.settings[name] is not None}


def distributions_of(target: Choice) -> dict[str, str]:
    """The teachers whose distributions a target reads, by the settings that name them; in the order of its signature."""
    return {name: target.settings[name] for name, mark in _named(target.function).items() if mark.distribution}


@lru_cache(maxsize=256)
def _named(function: Function) -> dict[str, Named]:
    settings = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    marks = {p.name: next(_marks(annotation_of(p, function)), None) for p in settings}
    return {name: mark for name, mark in marks.items() if mark is not None}


def _marks(annotation: Any) -> Iterator[Named]:
    """Those within an annotation, also of one that may be null."""
    for one in get_args(annotation):
        if isinstance(one, Named):
            yield one
        yield from _marks(one)
