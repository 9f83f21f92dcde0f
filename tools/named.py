"""Tools by their names, as the settings of an environment give them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from gymnasium.error import DependencyNotInstalled

from agentopd.errors import AgentOPDError, ConfigError, EnvError, describe
from agentopd.settings.kinds import load
from agentopd.settings.problems import nearest
from agentopd.tooling import Tool, ToolSet, brief, tool_names
from agentopd.tooling.loop import submit

TOOLS: Mapping[str, str] = {
    "calculator": "agentopd.tools.calculator:calculate",
    "python": "agentopd.tools.python:Python",
}
"""Where a name leads: to a ``@tool`` function, or to a class whose objects have ``@tool`` methods."""


class Named:
    """Tools of one environment, for its ``extra_tools``."""

    def __init__(self, names: Sequence[str]):
        """Makes an object of each class among them, without arguments.

        Args:
            names: Out of ``TOOLS``, or import paths ``package.module:name`` of the same form.

        Raises:
            ConfigError: There is no such tool, or it cannot be made.
            DependencyNotInstalled: It needs another package.
        """
        if isinstance(names, str):
            raise ConfigError(f"tools={names!r}: give a list, such as [{names}]")
        found = [(name, _found(name)) for name in names]
        made = [_Latest(name, one) if isinstance(one, type) else ToolSet([one]) for name, one in found]
        self._objects = [one for one in made if isinstance(one, _Latest)]
        self.functions: tuple[Tool, ...] = tuple(tool for one in made for tool in one)

    def reset(self) -> None:
        """Begins an episode: objects with a method ``reset``, plain or async, are told so by it, others are made anew, so that none keeps
        what an earlier episode left in it.

        Raises:
            EnvError: One cannot be made or reset.
        """
        for one in self._objects:
            one.begin()


class _Latest:
    """The object of a class of tools that the present episode has."""

    def __init__(self, name: str, kind: type):
        self._name, self._kind = name, kind
        with self._blamed(ConfigError, "be made without arguments", "; name a class of yours that gives them"):
            self._object = kind()

    def __iter__(self) -> Iterator[Tool]:
        for name, tool in zip(tool_names(self._kind), ToolSet.of(self._object), strict=True):
            yield replace(tool, function=self._now(name, tool.function))

    def begin(self) -> None:
        if not hasattr(self._kind, "reset"):
            with self._blamed(EnvError, "be made anew"):
                self._object = self._kind()
            return
        with self._blamed(EnvError, "be reset"):
            reset = self._object.reset()
            if iscoroutine(reset):
                submit(reset).result()

    def _now(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The method of the object that is there when it is called, under the name of the method, by which crashes are logged."""

        @wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._object, name)(*args, **kwargs)

        @wraps(function)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            return await getattr(self._object, name)(*args, **kwargs)

        return waiting if iscoroutinefunction(function) else plain

    @contextmanager
    def _blamed(self, kind: type[AgentOPDError], what: str, remedy: str = "") -> Iterator[None]:
        try:
            yield
        except (ImportError, DependencyNotInstalled):
            raise
        except Exception as error:  # the user's code
            raise kind(
                f"tools: {self._name} cannot {what}: {brief(describe(error), 200)}{remedy if isinstance(error, TypeError) else ''}"
            ) from error


def _found(name: str) -> Any:
    if ":" not in name and name not in TOOLS:
        raise ConfigError(
            f"tools: {name!r} is not known{nearest(name, TOOLS)}; there are: {', '.join(TOOLS)}; one of yours is written "
            "package.module:name"
        )
    try:
        return load(TOOLS.get(name, name))
    except ValueError as error:
        raise ConfigError(f"tools: {error}") from error
