"""What a teacher that costs money has spent, over all the processes of a run, and where that ends."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from agentopd.errors import TeacherError, describe
from agentopd.settings.base import Settings

SPENDING = "spending.jsonl"
"""The file of a run folder, one line an event, that all its teachers share."""
MILLION = 1_000_000


class Prices(Settings):
    """What the server asks for a million tokens, in a currency of one's own."""

    input: float = Field(ge=0.0)
    """Of what is sent."""
    output: float = Field(ge=0.0)
    """Of what comes back."""


class Cap(Settings):
    """Where spending ends. What is not given is not bounded."""

    requests: int | None = Field(None, ge=0)
    """How many."""
    tokens: int | None = Field(None, ge=0)
    """Both ways together."""
    cost: float | None = Field(None, ge=0.0)
    """In the currency of the prices."""


class SpentError(TeacherError):
    """A cap is reached: another request would go past it."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What was asked, and what it cost."""

    requests: int = 0
    """Those that the server may have charged: not what it refused, nor what never reached it."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """By the prices that were given; 0 without any."""

    @property
    def tokens(self) -> int:
        """Both ways together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Self) -> "Spent":
        return Spent(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Self) -> "Spent":
        return Spent(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))


class Ledger:
    """Counts what one teacher spends, from many threads; in a file, where it has one, so that a killed run has forgotten nothing.

    A request is written down before it is sent, and taken back where the server says that it was for nothing.
    """

    def __init__(
        self,
        teacher: str,
        model: str = "",
        path: Path | None = None,
        prices: Prices | None = None,
        cap: Cap | None = None,
    ) -> None:
        """Reads what was spent before.

        Args:
            teacher: The teacher's name, by which its lines are found again.
            model: The model, for those who read the file.
            path: The file; made with the first request.
            prices: What tokens cost.
            cap: Where it ends.
        """
        self.prices, self._cap, self._path = prices, cap or Cap(), path
        self._signed = {"teacher": teacher, "model": model}
        self._lock = threading.Lock()
        self.spent = sum(self._kept(), Spent())
        self._told = self.spent

    def begin(self) -> None:
        """Counts a request that is about to be sent.

        Raises:
            SpentError: It would go past the cap.
        """
        with self._lock:
            self._require_room()
            self._add(Spent(requests=1))

    def refund(self) -> None:
        """Takes a request back that was never answered, and is not charged."""
        with self._lock:
            self._add(Spent(requests=-1))

    def pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts what an answer took."""
        cost = 0.0
        if self.prices is not None:
            cost = (prompt_tokens * self.prices.input + completion_tokens * self.prices.output) / MILLION
        with self._lock:
            self._add(Spent(0, prompt_tokens, completion_tokens, cost))

    @property
    def needs_usage(self) -> bool:
        """Whether the cap is on what only the server can count."""
        return self._cap.tokens is not None or self._cap.cost is not None

    def since(self) -> Spent:
        """What was spent since this was last asked."""
        with self._lock:
            news, self._told = self.spent - self._told, self.spent
        return news

    def text(self) -> str:
        """What was spent in all, in words."""
        spent, cost = self.spent, "" if self.prices is None else f", cost {self.spent.cost:.4g} by the prices given"
        return f"{spent.requests} requests, {spent.prompt_tokens} prompt and {spent.completion_tokens} completion tokens{cost}"

    def _require_room(self) -> None:
        for name, limit in self._cap:
            if limit is not None and getattr(self.spent, name) >= limit:
                teacher = self._signed["teacher"]
                raise SpentError(
                    f"teachers.{teacher}.cap.{name}={limit:g}: reached by {self.text()}, so nothing more is asked; raise "
                    f"teachers.{teacher}.cap.{name} and resume the run"
                )

    def _add(self, news: Spent) -> None:
        self.spent += news
        if self._path is None:
            return
        told = {name: value for name, value in asdict(news).items() if value}
        if told:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:  # one write, which a kill leaves whole or absent
                    file.write(json.dumps(self._signed | told) + "\n")
            except OSError as error:
                raise TeacherError(
                    f"{self._path} cannot be written: {describe(error)}; make room, or make it writable: nothing is asked that is not written down"
                ) from error

    def _kept(self) -> Iterator[Spent]:
        if self._path is None or not self._path.exists():
            return
        text = self._path.read_text(encoding="utf-8", errors="replace")
        if text and not text.endswith("\n"):  # a full disk cut the last line short
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")
        for line in text.splitlines():
            row = _row(line)
            if row.get("teacher") == self._signed["teacher"]:
                yield Spent(**{one.name: row[one.name] for one in fields(Spent) if one.name in row})


def _row(line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return row if isinstance(row, dict) else {}
