"""Tools by their names, as the settings of an environment give them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentopd.errors import ConfigError
from agentopd.settings.kinds import load
from agentopd.settings.problems import nearest
from agentopd.tooling import ToolSet

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
        self.functions: tuple[Callable[..., Any], ...] = tuple(
            tool
            for one, made in zip(found, self._made, strict=True)
            for tool in (ToolSet.of(made) if isinstance(one, type) else ToolSet([made]))
        )

    def reset(self) -> None:
        """Tells those that remember something, by their method ``reset``, that an episode begins."""
        for one in self._made:
            if hasattr(one, "reset"):
                one.reset()


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
