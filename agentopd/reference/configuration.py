"""The page of every setting: sections of a configuration in the order of its keys, then the kinds of each part."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agentopd.config import Config
from agentopd.config.loading import LONG_FORMS
from agentopd.reference.docstrings import cell, fields_of, prose, settings_of
from agentopd.reference.values import default, taken
from agentopd.settings.kinds import Kinds, as_it_is
from agentopd.settings.parts import SCHEDULE
from agentopd.settings.signature import Function, model_of

_HEAD = """# Every setting

<!-- Written by `python -m agentopd.reference configuration`; what it says is in the code, beside each setting. -->

A configuration is a YAML file. `a.b=value` on the command line sets any key of it, with values in YAML; in a list an entry is counted from 0
(`envs.0.id=...`). An unknown key, a number out of range and parts that do not go together are errors before anything is trained, which
`agentopd train CONFIG --check` tells without training. `config.yaml` of a run has every setting as it was.

"""
_SCHEDULES = """A schedule may stand for any number of a method's parts that need not be whole; a teacher's settings take none. Many examples:
`docs/objective.md`.

"""
_TABLE = "| key | takes | default | what it does |\n|---|---|---|---|\n"


@dataclass(frozen=True, slots=True)
class _Walk:
    """What is to be described: settings by where they stand, and the kinds that they choose from, each once."""

    places: dict[type[BaseModel], list[str]] = field(default_factory=dict)
    parts: dict[str, Kinds] = field(default_factory=dict)

    def settings(self, model: type[BaseModel], place: str) -> None:
        """Takes settings in, then all that stands in them."""
        known = model in self.places
        self.places.setdefault(model, []).append(place)
        for name, one in {} if known else model.model_fields.items():
            self._value(one.annotation, one.metadata, f"{place}.{name}" if place else name)

    def _value(self, annotation: Any, metadata: Sequence[Any], place: str) -> None:
        for mark in (*metadata, *getattr(annotation, "__metadata__", ())):
            if isinstance(mark, Kinds) and mark.part not in self.parts:
                self.parts[mark.part] = mark
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            self.settings(annotation, place)
            return
        step = {dict: ".<name>", tuple: ".<i>"}.get(getattr(annotation, "__origin__", None), "")  # type: ignore[arg-type]
        for inner in get_args(annotation):
            self._value(inner, (), place + step)

    def kinds(self, part: Kinds) -> None:
        """Takes in what stands in the settings of the kinds of a part."""
        for kind, function in part.registry.items():
            for name, one in _model(function).model_fields.items():
                self._value(one.annotation, one.metadata, f"{part.part} {kind}.{name}")


def page() -> str:
    """The page, as Markdown."""
    walk = _Walk()
    walk.settings(Config, "")
    for part in [*walk.parts.values()]:
        walk.kinds(part)
    walk.parts[SCHEDULE.part] = SCHEDULE
    sections = [_section(walk, model, places) for model, places in walk.places.items()]
    return _HEAD + "\n".join([*sections, *(_kinds(walk, part) for part in walk.parts.values())])


def _section(walk: _Walk, model: type[BaseModel], places: Sequence[str]) -> str:
    short = [".".join(map(str, key)) for key, long in LONG_FORMS.items() if _written(long) in places]
    beside = [f"Short, where there is one: `{key}`.\n\n" for key in short]
    if places[1:]:
        beside.append(f"Also {', '.join(f'`{place}`' for place in places[1:])}.\n\n")
    table = _table(walk, model.model_fields, fields_of(model))
    return f"## {_heading(places)}\n\n{prose(model)}\n\n{''.join(beside)}{table}"


def _written(long: Sequence[str | int]) -> str:
    """A place as the headings have it."""
    return ".".join("<i>" if isinstance(part, int) else part for part in long)


def _heading(places: Sequence[str]) -> str:
    return f"`{places[0]}`" if places[0] else "The root"


def _kinds(walk: _Walk, part: Kinds) -> str:
    intro = _SCHEDULES if part.part == SCHEDULE.part else ""
    return f"## Kinds of {part.part}\n\n{intro}" + "\n".join(_kind(walk, part, *one) for one in part.registry.items())


def _kind(walk: _Walk, part: Kinds, kind: str, function: Function) -> str:
    table = _table(walk, _model(function).model_fields, settings_of(function))
    return f"### {part.part}: `{kind}`\n\n{prose(function)}\n" + (f"\n{table}" if table else "")


def _model(function: Function) -> type[BaseModel]:
    return model_of(function, as_it_is)


def _table(walk: _Walk, fields: Mapping[str, FieldInfo], said: Mapping[str, str]) -> str:
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows(walk, fields, said))
    return _TABLE + rows if rows else ""


def _rows(walk: _Walk, fields: Mapping[str, FieldInfo], said: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    def told(what: Any) -> str:
        if isinstance(what, Kinds):
            return f"[{what.part}](#{anchor(f'Kinds of {what.part}')})"
        return f"[settings](#{anchor(_heading(walk.places[what]))})"

    for name, one in fields.items():
        given = "required" if one.is_required() else default(one.get_default(call_default_factory=True))
        yield f"`{name}`", taken(one.annotation, told, one.metadata), given, cell(said.get(name, ""))


def anchor(heading: str) -> str:
    """Where a heading is, as Markdown's readers link to it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
