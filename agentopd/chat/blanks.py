"""Text with named blanks, such as ``Judge this:\\n{conversation}``, that a person may replace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from agentopd.errors import ConfigError


def parts_of(key: str, text: str) -> list[tuple[str, str | None, str]]:
    """The pieces of ``text``, the setting ``key``: what is literal, the name in braces behind it, and what stands behind the name there.

    Raises:
        ConfigError: Its braces do not close.
    """
    try:
        return [
            (literal, name, (f"!{turn}" if turn else "") + (f":{form}" if form else ""))
            for literal, name, form, turn in Formatter().parse(text)
        ]
    except ValueError as error:
        raise ConfigError(f"{key}={text!r}: {error}; write {{{{ and }}}} for braces that are text") from error


@dataclass(frozen=True, slots=True)
class Blanks:
    """See :meth:`of`."""

    _parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, key: str, text: str, known: Sequence[str]) -> "Blanks":
        """Reads ``text``, the setting ``key``, in which ``{name}`` stands for one of ``known``; ``{{`` and ``}}`` are braces.

        Raises:
            ConfigError: It names something else.
        """
        found = parts_of(key, text)
        for _, name, more in found:
            if name is not None and (more or name not in known):
                told = ", ".join(f"{{{one}}}" for one in known)
                raise ConfigError(
                    f"{key}={text!r}: {{{name}}} stands for nothing; there are: {told}; write {{{{ and }}}} for "
                    "braces that are text"
                )
        return cls(tuple((literal, name) for literal, name, _ in found))

    @property
    def names(self) -> set[str]:
        """What it asks for."""
        return {name for _, name in self._parts if name is not None}

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with ``values`` in its blanks."""
        return "".join(literal + ("" if name is None else values[name]) for literal, name in self._parts)
