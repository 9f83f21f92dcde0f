"""The recipes as rows: each with the parts of its terms, those that it leaves out too, and the cells of the three axes."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import BaseModel, ValidationError

from agentopd.config.shipped import is_experimental, load_recipe, recipes
from agentopd.errors import ConfigError
from agentopd.objective.spec import ACCESS, AXES, GRANULARITY, SIGNALS, Objective
from agentopd.objective.term import TERM_PARTS, Term
from agentopd.settings.choice import Choice
from agentopd.settings.problems import explain

JOIN = " + "
"""Between the sources of a method, and between what its terms have in one column: as many entries as it has terms."""
NOTHING = "-"
COLUMNS = (
    "method", "standing", "title", *AXES, "sources", "terms", *TERM_PARTS, "aggregate", "coupling", "teachers", "paper",
)  # fmt: skip
"""The columns of a row of :func:`fields`, always all of them."""


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe, and what it stands for."""

    name: str
    recipe: Mapping[str, Any]
    objective: Objective

    @classmethod
    def load(cls, name: str) -> "Method":
        """The recipe of that name, or at that path.

        Raises:
            ConfigError: There is none, or it is none.
        """
        recipe = load_recipe(name)
        own = {part: value for part, value in recipe.items() if part not in ("teachers", "needs")}
        try:
            return cls(name, recipe, Objective.model_validate(own))
        except ValidationError as error:
            raise ConfigError(f"{name}: {explain(error, Objective)}") from None

    @classmethod
    def shipped(cls) -> list["Method"]:
        """Every recipe that agentopd ships."""
        return [cls.load(name) for name in recipes()]

    @property
    def teachers(self) -> Mapping[str, Any]:
        """Those that it brings, by name."""
        teachers: Mapping[str, Any] = self.recipe.get("teachers", {})
        return teachers

    @property
    def needs(self) -> str:
        """What it needs that does not exist yet; empty for a method that runs."""
        return str(self.recipe.get("needs", ""))

    @property
    def standing(self) -> str:
        """``runs``, ``experimental``, or what it needs; of a shipped recipe."""
        if self.needs:
            return f"needs {self.needs}"
        return "experimental" if is_experimental(self.name) else "runs"

    @property
    def plain(self) -> dict[str, Any]:
        """The recipe with every part of its terms, as a file holds it; it is read back as the same method."""
        objective = self.objective
        told = ("title", "paper", "axes", "formula", "chosen", "notes")
        shown = objective.model_dump(mode="json", include=set(told))
        root = {name: shown[name] for name in told if shown[name]}
        root |= {name: part for name, part in (("needs", self.needs), ("teachers", dict(self.teachers))) if part}
        root["sources"] = {name: _given(source) for name, source in objective.sources.items()}
        root["terms"] = [_term(name, term) for name, term in zip(objective.names, objective.terms, strict=True)]
        return root | {"aggregate": objective.aggregate.plain(), "coupling": objective.coupling.plain()}


def fields(method: Method) -> list[str]:
    """What a method has in each of :data:`COLUMNS`."""
    objective = method.objective
    found = {
        "method": method.name,
        "standing": method.standing,
        "title": objective.title,
        **{axis: ", ".join(getattr(objective.axes, axis)) for axis in AXES},
        "sources": JOIN.join(f"{name}: {short(source)}" for name, source in objective.sources.items()),
        "terms": JOIN.join(objective.names),
        **{part: JOIN.join(short(getattr(term, part)) for term in objective.terms) for part in TERM_PARTS},
        "divergence": JOIN.join(map(_divergence, objective.terms)),
        "aggregate": short(objective.aggregate),
        "coupling": short(objective.coupling),
        "teachers": JOIN.join(f"{name}: {_inline(teacher)}" for name, teacher in method.teachers.items()),
        "paper": objective.paper,
    }
    return [found[column] or NOTHING for column in COLUMNS]


def rows(methods: Sequence[Method]) -> list[tuple[str, str, str]]:
    """For a terminal: of the parts the kinds of three, a line a term."""
    return [(_marked(method), _said_of(method), "\n".join(_terms(method.objective))) for method in methods]


def _marked(method: Method) -> str:
    return method.name + (" !" if method.needs else " *" * (method.standing != "runs"))


def _said_of(method: Method) -> str:
    axes = (", ".join(getattr(method.objective.axes, axis)) for axis in AXES)
    return f"{method.objective.title}\n{'; '.join(axes)}"


def _terms(objective: Objective) -> Iterator[str]:
    for name, term in zip(objective.names, objective.terms, strict=True):
        kinds = ", ".join([_divergence(term).partition(" ")[0], term.target.kind, term.estimator.kind])
        yield kinds if len(objective.terms) == 1 else f"{name}: {kinds}"


def _divergence(term: Term) -> str:
    """From a distribution; there is none where a term is trained towards a reward."""
    return NOTHING if term.reward else short(term.divergence)


def cells(methods: Sequence[Method]) -> Iterator[tuple[str, str, str, str]]:
    """Each cell of signal, access and granularity, with the recipes in it that run; a dash where there is none."""
    running = [method for method in methods if not method.needs]
    for cell in product(SIGNALS, ACCESS, GRANULARITY):
        names = [
            method.name
            for method in running
            if all(one in getattr(method.objective.axes, axis) for one, axis in zip(cell, AXES, strict=True))
        ]
        yield *cell, ", ".join(names) or NOTHING


def grid(methods: Sequence[Method]) -> list[tuple[str, ...]]:
    """The cells for a terminal: a row for each signal and access, a column for each granularity."""
    found = {cell[:3]: cell[3] for cell in cells(methods)}
    pairs = product(SIGNALS, ACCESS)
    return [(f"{one}\n{who}", *(found[one, who, grain] for grain in GRANULARITY)) for one, who in pairs]


def short(value: Any) -> str:
    """A part on one line: a kind with its settings, without what is at its default."""
    if value == ():
        return NOTHING
    if isinstance(value, tuple):
        return " x ".join(map(short, value))
    if isinstance(value, Choice):
        parameters = inspect.signature(value.function).parameters  # of a class too
        own = {name: one for name, one in value.settings.items() if one != parameters[name].default}
        return " ".join([value.kind, *(f"{name}={short(one)}" for name, one in own.items())])
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(one)}" for name, one in value.items())
    if isinstance(value, BaseModel):
        return " ".join(f"{name}={short(one)}" for name, one in _changed(value).items()) or _EMPTY[type(value).__name__]
    return str(value)


_EMPTY = {"Source": "fresh episodes of the student", "Where": "every trainable token"}
"""What a block of settings means where all of them are at their defaults."""


def _term(name: str, term: Term) -> dict[str, Any]:
    """Every part of a term; of ``where``, which has many keys, those that select."""
    parts = term.model_dump(mode="json", include=set(TERM_PARTS))
    return {"name": name} | {part: parts[part] for part in TERM_PARTS} | {"where": _given(term.where)}


def _given(settings: BaseModel) -> dict[str, Any]:
    """Settings without those at their defaults."""
    return settings.model_dump(mode="json", include=set(_changed(settings)))


def _changed(settings: BaseModel) -> dict[str, Any]:
    """The settings that are not at their defaults."""
    default = type(settings)()
    return {name: one for name, one in dict(settings).items() if one != getattr(default, name)}


def _inline(value: Any) -> str:
    """Plain values of a file on one line, in its form."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_inline(one)}" for name, one in value.items()) + "}"
    return repr(value) if isinstance(value, str) and not value.isidentifier() else str(value)
