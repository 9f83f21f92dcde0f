"""What replaying found: one verdict an episode."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from agentopd.isolation.compared import Difference
from agentopd.types import Key

Status: TypeAlias = Literal["same", "differs", "unplayable"]
"""``unplayable``: it could not be played to where it got, so nothing is known of the rest."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one episode."""

    key: Key
    env_id: str
    status: Status
    turns: int = 0
    """How many recorded turns were played again and were the same."""
    difference: Difference | None = None
    """The first, of an episode that ``differs``."""
    note: str = ""
    """Why it is ``unplayable`` and what to do, what may be why it differs, or how far a failed episode was compared."""

    @property
    def told(self) -> str:
        """All that is to be said of it, in a line."""
        return "; ".join(text for text in (str(self.difference or ""), self.note) if text)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        difference = None if self.difference is None else asdict(self.difference)
        own = {"key": str(self.key), "env": self.env_id, "status": self.status, "turns": self.turns}
        return own | {"difference": difference, "note": self.note}


@dataclass(frozen=True, slots=True)
class Replay:
    """Of all episodes, in the order of the records."""

    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()
    """What concerns many: packages that have another version than the records say."""

    @property
    def same(self) -> bool:
        """Whether every episode was played again and is what it was."""
        return all(verdict.status == "same" for verdict in self.verdicts)

    def counts(self) -> dict[str, Counter[Status]]:
        """How many there are of each status, by environment."""
        found: dict[str, Counter[Status]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.env_id, Counter())[verdict.status] += 1
        return found

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        total = Counter(verdict.status for verdict in self.verdicts)
        counted = {"episodes": len(self.verdicts)} | {name: total[name] for name in ("same", "differs", "unplayable")}
        return counted | {"notes": list(self.notes), "verdicts": [verdict.plain() for verdict in self.verdicts]}
