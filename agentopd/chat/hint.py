"""Hints: privileged facts written into a conversation for those who may see them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

from agentopd.errors import ConfigError
from agentopd.types import Message

ALL = "facts"
"""The placeholder of a hint for everything that is known, one fact a line."""


class MissingFactsError(ConfigError):
    """An episode does not tell what a hint names."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Text with placeholders, such as ``Worked steps:\\n{steps}``, put behind the last message of a conversation's opening.

    ``{name}`` stands for the fact of that name in ``info["privileged"]``, as text or else as JSON; ``{facts}`` for all of them.
    """

    text: str
    envs: tuple[str, ...] = ()
    """The ids of the environments in which it is shown; empty means any."""
    _parts: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reads the placeholders.

        Raises:
            ConfigError: The text has none, or one that is no plain name.
        """
        try:
            found = [(literal, name, _format(form, turn)) for literal, name, form, turn in Formatter().parse(self.text)]
        except ValueError as error:
            raise ConfigError(f"hint={self.text!r}: {error}; write {{{{ and }}}} for braces that are text") from error
        names = [name for _, name, _ in found if name is not None]
        odd = [name + extra for _, name, extra in found if name is not None and (extra or not name.isidentifier())]
        if odd or not names:
            wrong = f"{{{odd[0]}}} is more than a plain name" if odd and odd[0] else "it shows no fact"
            raise ConfigError(
                f"hint={self.text!r}: {wrong}; name facts of the environment, such as {{answer}}, or {{{ALL}}}"
            )
        object.__setattr__(self, "_parts", tuple((literal, name) for literal, name, _ in found))

    def shown_in(self, env_id: str) -> bool:
        """Whether it is shown in this environment."""
        return not self.envs or env_id in self.envs

    def filled(self, facts: Mapping[str, Any]) -> str:
        """The text with its facts.

        Raises:
            MissingFactsError: A fact that it names is not among ``facts``.
        """
        known = {name: _shown(value) for name, value in facts.items()}
        known.setdefault(ALL, "\n".join(f"{name}: {value}" for name, value in known.items()))
        missing = [name for _, name in self._parts if name is not None and name not in known]
        if missing or not facts:
            told = ", ".join(facts) or "nothing"
            raise MissingFactsError(
                f"hint={self.text!r}: the environment tells {told} in info['privileged']; "
                "return what the hint names from the environment's privileged()"
            )
        return "".join(literal + ("" if name is None else known[name]) for literal, name in self._parts)

    def shown(self, messages: Sequence[Message], facts: Mapping[str, Any]) -> list[Message]:
        """The conversation with the hint behind the last message before the first action.

        Raises:
            ConfigError: As of :meth:`filled`; or nothing is said before the first action.
        """
        roles = [message["role"] for message in messages]
        last = (roles.index("assistant") if "assistant" in roles else len(roles)) - 1
        if last < 0:
            raise ConfigError("a hint stands behind a conversation's opening, and here an action comes first")
        hinted: Message = {**messages[last], "content": f"{messages[last]['content']}\n\n{self.filled(facts)}"}
        return [*messages[:last], hinted, *messages[last + 1 :]]


def _format(form: str | None, turn: str | None) -> str:
    """What stands behind a placeholder's name, as it was written."""
    return (f"!{turn}" if turn else "") + (f":{form}" if form else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
