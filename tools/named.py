"""Tools by their names, as the settings of an environment give them."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from inspect import isawaitable, iscoroutinefunction
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
        """Begins an episode: objects with a method ``reset``, plain or async, that is no tool are told so by it, others that had an episode
        are closed and made anew, so that none keeps what an earlier one left in it.

        Raises:
            EnvError: One cannot be made or reset.
        """
        for one in self._objects:
            one.begin()

    def close(self) -> None:
        """Ends what the objects hold: those with a method ``close``, plain or async, are told so by it, also where another's fails.

        Raises:
            EnvError: One cannot be closed.
        """
        with ExitStack() as ending:
            for one in reversed(self._objects):
                ending.callback(one.end)


class _Latest:
    """The object of a class of tools that the present episode has."""

    def __init__(self, name: str, kind: type):
        self._name, self._kind = name, kind
        if not tool_names(kind):
            raise ConfigError(f"tools: {name} has no method marked with @tool; mark those that are to be called")
        with self._blamed(ConfigError, "be made without arguments", "; name a class of yours that gives them"):
            self._object = kind()
        self._used = self._closed = False

    def __iter__(self) -> Iterator[Tool]:
        for name, tool in zip(tool_names(self._kind), ToolSet.of(self._object), strict=True):
            yield replace(tool, function=self._now(name, tool.function))

    def begin(self) -> None:
        if self._closed or (self._used and not self._has("reset")):
            self.end()
            with self._blamed(EnvError, "be made anew"):
                self._object = self._kind()
            self._closed = False
        self._used = True
        self._tell("reset", "be reset")

    def end(self) -> None:
        if not self._closed:
            self._closed = True  # also where it fails: nobody closes it twice
            self._tell("close", "be closed")

    def _has(self, name: str) -> bool:
        """Whether there is such a method for the environment; one that is a tool is the model's."""
        return name not in tool_names(self._kind) and callable(getattr(self._kind, name, None))

    def _tell(self, name: str, what: str) -> None:
        if not self._has(name):
            return
        with self._blamed(EnvError, what):
            told = getattr(self._object, name)()
            if isawaitable(told):
                submit(_awaited(told)).result()

    def _now(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The method of the object that is there when it is called, under the name of the method, by which crashes are logged."""

        # not of the bound method, which would hold the first object as long as the environment lives
        told = getattr(self._kind, name)

        @wraps(told)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._object, name)(*args, **kwargs)

        @wraps(told)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            return await getattr(self._object, name)(*args, **kwargs)

        return waiting if iscoroutinefunction(function) else plain

    @contextmanager
    def _blamed(self, kind: type[AgentOPDError], what: str, remedy: str = "") -> Iterator[None]:
        try:
            yield
        except DependencyNotInstalled:
            raise
        except Exception as error:  # the user's code
            raise kind(
                f"tools: {self._name} cannot {what}: {brief(describe(error), 200)}{remedy if isinstance(error, TypeError) else ''}"
            ) from error


async def _awaited(told: Awaitable[Any]) -> None:
    await told


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
