"""Tools by their names, as the settings of an environment give them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import Any

from agentopd.errors import ConfigError
from agentopd.settings.kinds import load
from agentopd.settings.problems import nearest
from agentopd.tooling import Tool, ToolSet

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
        """
        if isinstance(names, str):
            raise ConfigError(f"tools={names!r}: give a list, such as [{names}]")
        found = [_found(name) for name in names]
        self._made = [one() if isinstance(one, type) else one for one in found]
        self._classes = {place: one for place, one in enumerate(found) if isinstance(one, type)}
        self.functions: tuple[Tool, ...] = tuple(
            tool for place, made in enumerate(self._made) for tool in self._tools(place, made)
        )

    def reset(self) -> None:
        """Begins an episode: objects with a method ``reset`` are told so by it, others are made anew, so that none keeps what an earlier
        episode left in it."""
        for place, one in self._classes.items():
            if hasattr(one, "reset"):
                self._made[place].reset()
            else:
                self._made[place] = one()

    def _tools(self, place: int, made: Any) -> ToolSet:
        if place not in self._classes:
            return ToolSet([made])
        return ToolSet([replace(tool, function=self._latest(place, tool)) for tool in ToolSet.of(made)])

    def _latest(self, place: int, tool: Tool) -> Callable[..., Any]:
        """The method of the object that is there when it is called."""
        name = tool.function.__name__

        def plain(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._made[place], name)(*args, **kwargs)

        async def waiting(*args: Any, **kwargs: Any) -> Any:
            return await getattr(self._made[place], name)(*args, **kwargs)

        return waiting if iscoroutinefunction(tool.function) else plain


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
