"""List the methods on the three axes and the eight parts, or print one.

examples:
  agentopd methods
  agentopd methods gkd
  agentopd methods | grep outcomes
"""

import argparse
import inspect
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("name", nargs="?", help="a recipe to print")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables, or the recipe and its formula."""
    import yaml

    from agentopd.cli.table import show
    from agentopd.config.shipped import load_recipe, recipes

    if arguments.name:
        recipe = load_recipe(arguments.name)
        for line in recipe.get("formula", "").splitlines():
            print(f"# {line}")
        print(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100), end="")
        return 0
    every = {name: load_recipe(name) for name in recipes()}
    rows = [(name, _said_of(name, recipe), _parts(recipe)) for name, recipe in every.items()]
    show(("method", "what it is; signal, access, granularity; paper", "parts"), rows)
    show(("signal", "access", "granularity", "recipes that run"), list(_cells(every)))
    return 0


def _said_of(name: str, recipe: Mapping[str, Any]) -> str:
    """Title, place on the axes, paper and standing of a recipe, a line each."""
    from agentopd.config.shipped import is_experimental

    axes = "; ".join(", ".join(recipe["axes"][axis]) for axis in ("signal", "access", "granularity"))
    standing = [f"needs {recipe['needs']}"] if "needs" in recipe else []
    standing += ["experimental: its formula was not to be had in full"] if is_experimental(name) else []
    return "\n".join([recipe["title"], axes, recipe.get("paper", ""), *standing]).rstrip()


def _cells(every: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """Each cell of signal, access and granularity, with the recipes in it that run; a dash where there is none."""
    from agentopd.objective.spec import ACCESS, GRANULARITY, SIGNALS

    for cell in product(SIGNALS, ACCESS, GRANULARITY):
        places = [(name, recipe["axes"]) for name, recipe in every.items() if "needs" not in recipe]
        names = [
            name
            for name, axes in places
            if all(one in axes[axis] for one, axis in zip(cell, ("signal", "access", "granularity"), strict=True))
        ]
        yield *cell, ", ".join(names) or "-"


def _parts(recipe: Mapping[str, Any]) -> str:
    """The parts of a recipe that are not the defaults, a line each."""
    from agentopd.objective.spec import Objective
    from agentopd.objective.term import Term

    objective = Objective.model_validate(
        {name: part for name, part in recipe.items() if name not in ("teachers", "needs")}
    )
    lines = [f"source {name}: {_short(source)}" for name, source in objective.sources.items()]
    for name, term in zip(objective.names, objective.terms, strict=True):
        parts = {part: getattr(term, part) for part in Term.model_fields if part != "name"}
        lines += [f"{name}.{part}: {_short(value)}" for part, value in parts.items() if value != _default(Term, part)]
    return "\n".join([*lines, f"aggregate: {_short(objective.aggregate)}", f"coupling: {_short(objective.coupling)}"])


def _default(model: Any, part: str) -> Any:
    return getattr(model(), part)


def _short(value: Any) -> str:
    """A part on one line: a kind with its settings, without what is at its default."""
    from pydantic import BaseModel

    from agentopd.settings.choice import Choice

    if isinstance(value, tuple):
        return " x ".join(map(_short, value))
    if isinstance(value, Choice):
        parameters = inspect.signature(value.function).parameters  # of a class too
        own = {name: one for name, one in value.settings.items() if one != parameters[name].default}
        return " ".join([value.kind, *(f"{name}={_short(one)}" for name, one in own.items())])
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items())
    if isinstance(value, BaseModel):
        given = {name: one for name, one in dict(value).items() if one != _default(type(value), name)}
        return " ".join(f"{name}={_short(one)}" for name, one in given.items()) or _EMPTY[type(value).__name__]
    return str(value)


_EMPTY = {"Source": "fresh episodes of the student", "Where": "every trainable token"}
"""What a block of settings means where all of them are at their defaults."""
