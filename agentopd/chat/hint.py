"""Hints: privileged facts written into a conversation for those who may see them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agentopd.chat.blanks import parts_of
from agentopd.errors import ConfigError
from agentopd.types import Message

ALL = "facts"
"""The placeholder of a hint for everything that the environment tells, one fact a line."""

NEXT = "next_observation"
"""What came back for the action that is looked at."""
FEEDBACK = "episode_feedback"
"""What the environment said of bad actions, and how the episode ended."""
SIBLING = "sibling"
"""Another episode of the same task, which succeeded."""
DEMONSTRATION = "demonstration"
"""A recorded episode of the same task, which succeeded."""
HINDSIGHT = frozenset({NEXT, FEEDBACK, SIBLING, DEMONSTRATION})
"""The placeholders for what no environment tells beforehand: a teacher that reads an episode finds it out, one that acts cannot."""


class MissingFactsError(ConfigError):
    """An episode does not tell what a hint names."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Text with placeholders, such as ``Worked steps:\\n{steps}``, put into a conversation's opening.

    ``{name}`` stands for the fact of that name in ``info["privileged"]``, as text or else as JSON; ``{facts}`` for all of them; a name
    of ``HINDSIGHT`` for what is known once the episode is over.
    """

    text: str
    envs: tuple[str, ...] = ()
    """The ids of the environments in which it is shown; empty means any."""
    place: Literal["opening", "system"] = "opening"
    """Behind the last message of the opening, or behind the system message, where one is made if there is none."""
    facts: tuple[tuple[str, str], ...] = ()
    """Facts that are the same in all episodes, by name."""
    demonstrations: str | None = None
    """The folder of the records that ``{demonstration}`` is taken from."""
    _parts: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Reads the placeholders.

        Raises:
            ConfigError: The text has none and does not stand in the system message, or one that is no plain name; or ``facts`` or
                ``demonstrations`` are not what it names.
        """
        found = parts_of("hint", self.text)
        names = [name for _, name, _ in found if name is not None]
        odd = [name + extra for _, name, extra in found if name is not None and (extra or not name.isidentifier())]
        if odd or not (names or self.place == "system"):
            wrong = f"{{{odd[0]}}} is more than a plain name" if odd and odd[0] else "it shows no fact"
            raise ConfigError(
                f"hint={self.text!r}: {wrong}; name facts of the environment, such as {{answer}}, or {{{ALL}}}"
            )
        object.__setattr__(self, "_parts", tuple((literal, name) for literal, name, _ in found))
        if self.place == "system" and self.by_turn:
            raise ConfigError(
                f"hint.place=system: {{{NEXT}}} is another text for each turn, and stands behind the last message before it; leave place out"
            )
        self._require_named()

    def _require_named(self) -> None:
        for name, _ in self.facts:
            if name in HINDSIGHT | {ALL}:
                raise ConfigError(f"hint.facts.{name}: this name already has a meaning; choose another")
            if name not in self.names:
                raise ConfigError(
                    f"hint.facts.{name}: hint={self.text!r} does not show it; write {{{name}}} in the text"
                )
        if (DEMONSTRATION in self.names) == (self.demonstrations is None):
            what = f"shows {{{DEMONSTRATION}}} and names no records of them; set hint.demonstrations to a run's folder"
            if self.demonstrations is not None:
                what = f"does not show what hint.demonstrations={self.demonstrations} holds; write {{{DEMONSTRATION}}} in the text"
            raise ConfigError(f"hint={self.text!r}: it {what}")

    @property
    def names(self) -> frozenset[str]:
        """What its placeholders name."""
        return frozenset(name for _, name in self._parts if name is not None)

    @property
    def hindsight(self) -> frozenset[str]:
        """What it names that is known only once an episode is over."""
        return self.names & HINDSIGHT

    @property
    def by_turn(self) -> bool:
        """Whether each turn is shown another one: it names what came back for the turn's action."""
        return NEXT in self.names

    def shown_in(self, env_id: str) -> bool:
        """Whether it is shown in this environment."""
        return not self.envs or env_id in self.envs

    def filled(self, facts: Mapping[str, Any]) -> str:
        """The text with its facts.

        Args:
            facts: What the environment told, and what hindsight adds, by name.

        Raises:
            MissingFactsError: A fact that it names is not known.
        """
        told = {name: _shown(value) for name, value in facts.items()}
        known = told | dict(self.facts)
        known.setdefault(ALL, "\n".join(f"{name}: {value}" for name, value in told.items() if name not in HINDSIGHT))
        missing = sorted(self.names - known.keys())
        if missing or (ALL in self.names and not known[ALL]):
            raise MissingFactsError(
                f"hint={self.text!r}: the environment tells {', '.join(facts) or 'nothing'} in info['privileged']; "
                "return what the hint names from the environment's privileged()"
            )
        return "".join(literal + ("" if name is None else known[name]) for literal, name in self._parts)

    def shown(self, messages: Sequence[Message], facts: Mapping[str, Any]) -> list[Message]:
        """The conversation with the hint in its opening.

        Raises:
            ConfigError: As of :meth:`filled`; or nothing is said before the first action.
        """
        roles = [message["role"] for message in messages]
        last = (roles.index("assistant") if "assistant" in roles else len(roles)) - 1
        if last < 0:
            raise ConfigError("a hint stands in a conversation's opening, and here an action comes first")
        if self.place == "opening":
            return self.behind(messages, last, facts)
        if roles[0] == "system":
            return self.behind(messages, 0, facts)
        return [{"role": "system", "content": self.filled(facts)}, *messages]

    def behind(self, messages: Sequence[Message], at: int, facts: Mapping[str, Any]) -> list[Message]:
        """The messages with the hint behind the content of the one ``at``, counted from 0."""
        said = messages[at]["content"]
        filled = self.filled(facts)
        hinted: Message = {**messages[at], "content": f"{said}\n\n{filled}" if said else filled}
        return [*messages[:at], hinted, *messages[at + 1 :]]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
