"""What is counted while records stream by: nothing here grows with their number."""

import math
from collections import Counter
from dataclasses import dataclass, field

from agentopd.evaluation import Rate


@dataclass(slots=True)
class Mean:
    """A mean, and the largest value."""

    n: int = 0
    total: float = 0.0
    most: float = math.nan

    def add(self, value: float, n: int = 1) -> None:
        """Adds ``n`` values whose sum is ``value``; of several the largest is not known."""
        self.n += n
        self.total += value
        if n == 1:
            self.most = value if math.isnan(self.most) else max(self.most, value)

    @property
    def value(self) -> float:
        """The mean, ``nan`` of nothing."""
        return self.total / self.n if self.n else math.nan


@dataclass(slots=True)
class Share:
    """How many of so many."""

    hits: int = 0
    n: int = 0

    def add(self, hit: bool | int, n: int = 1) -> None:
        """Adds ``n`` of which so many are hits."""
        self.hits += int(hit)
        self.n += n

    @property
    def value(self) -> float:
        """The share, ``nan`` of nothing."""
        return self.rate.value

    @property
    def rate(self) -> Rate:
        """With its interval."""
        return Rate(self.hits, self.n)


@dataclass(slots=True)
class Agreement:
    """Calls of one's own beside those of a reference, over the turns in which there is one; calls are counted as often as they are made."""

    turns: int = 0
    made: int = 0
    wanted: int = 0
    named: int = 0
    """Calls that both make, by name alone."""
    exact: int = 0
    """Calls that both make, with the same arguments."""
    over: int = 0
    """Turns with more calls than the reference makes."""
    excess: int = 0
    """By how many more, summed."""

    def add(self, own: Counter[tuple[str, str]], reference: Counter[tuple[str, str]]) -> None:
        """Adds one turn: calls as name and arguments."""
        names, their_names = (_names(calls) for calls in (own, reference))
        self.turns += 1
        self.made += own.total()
        self.wanted += reference.total()
        self.named += (names & their_names).total()
        self.exact += (own & reference).total()
        more = max(own.total() - reference.total(), 0)
        self.over += more > 0
        self.excess += more

    @property
    def precision(self) -> Share:
        """Of the calls made, those of tools that the reference calls too."""
        return Share(self.named, self.made)

    @property
    def recall(self) -> Share:
        """Of the calls of the reference, those whose tools were called."""
        return Share(self.named, self.wanted)

    @property
    def exact_precision(self) -> Share:
        """Of the calls made, those that the reference makes with the same arguments."""
        return Share(self.exact, self.made)

    @property
    def exact_recall(self) -> Share:
        """Of the calls of the reference, those that were made with the same arguments."""
        return Share(self.exact, self.wanted)

    @property
    def over_calling(self) -> Share:
        """Of the turns, those with more calls than the reference makes."""
        return Share(self.over, self.turns)


def _names(calls: Counter[tuple[str, str]]) -> Counter[str]:
    names = Counter[str]()
    for (name, _), count in calls.items():
        names[name] += count
    return names


@dataclass(slots=True)
class Tool:
    """What became of the calls of one tool that were run."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """``ok``, or the kinds of errors."""
    seconds: Mean = field(default_factory=Mean)
    cut: int = 0
    """Calls whose answer was cut."""

    @property
    def calls(self) -> int:
        """How many were run."""
        return self.outcomes.total()


@dataclass(slots=True)
class Taught:
    """One teacher's distributions at the tokens of the episodes."""

    kl: Mean = field(default_factory=Mean)
    """log p - log q of the token taken, in nats: p that it was drawn with, q the teacher's. Its mean over tokens that the student drew from
    its own distribution estimates KL(student || teacher)."""
    in_top: Share = field(default_factory=Share)
    """Tokens taken that are among the teacher's likeliest, of rows that hold these."""
    mass: Mean = field(default_factory=Mean)
    """The teacher's probability of the ids that its rows hold."""
    overlap: Share = field(default_factory=Share)
    """Of the student's likeliest ids, those among the teacher's, of rows that hold both."""
    k: set[int] = field(default_factory=set)
    """How many of the likeliest the rows hold."""


@dataclass(slots=True)
class Depth:
    """The turns at one depth."""

    turns: int = 0
    bad: int = 0
    """Those with a bad action."""
    kl: dict[str, Mean] = field(default_factory=dict)
    """:attr:`Taught.kl` by teacher."""
    divergence: dict[str, Mean] = field(default_factory=dict)
    """The loss of each term that is a divergence, in nats, by its name: from the signals of optimiser steps."""
