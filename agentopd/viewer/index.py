"""The list of the page: one value an episode in each column, and what is true of all of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.types import Record
from agentopd.viewer.columns import Tokens
from agentopd.viewer.payload import exact, rounded, title_of
from agentopd.viewer.shades import Measure, Shade, kind_of, measure_of_divergence, measure_of_uncertainty, ordered
from agentopd.viewer.sources import Source, notes_on, where_of


@dataclass(slots=True)
class Index:
    """Columns that grow an episode at a time. ``block`` and ``place`` say where the page finds an episode whole."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    shades: dict[str, Shade] = field(default_factory=dict)
    means: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    """Of each signal the mean of each episode, by its number."""

    def __len__(self) -> int:
        return len(self.columns["key"])

    def add(self, record: Record, tokens: Tokens, source: str, block: int, place: int) -> None:
        """Adds an episode of the records ``source``."""
        for name, values in tokens.signals.items():
            self.shades.setdefault(name, Shade(name)).add(values)
            known = values[np.isfinite(values)]
            if len(known):
                self.means[name][len(self)] = float(known.mean())
        for name, value in {**_plain(record), "from": source, "block": block, "place": place}.items():
            self.columns[name].append(value)

    def plain(self, title: str, sources: Sequence[Source]) -> dict[str, Any]:
        """What the page reads."""
        means = {name: rounded(self._mean(name)) for name in self.means}
        names = [name for name in ordered(self.shades) if name in means]
        terms = {kind_of(name)[1] for name in names if kind_of(name)[0] == "coef"}
        measures = {"kl": measure_of_divergence(names), "uncertainty": measure_of_uncertainty(names)}
        return {
            "title": title,
            "sources": [source.name for source in sources],
            "notes": notes_on(sources),
            "where": where_of(sources),
            "signals": [self.shades[name].plain(several=len(terms) > 1) for name in names],
            "measures": {name: measure and measure.plain() for name, measure in measures.items()},
            "means": means,
            "columns": {
                **_required(self.columns),
                **{name: self._measured(measure) for name, measure in measures.items()},
            },
        }

    def _mean(self, name: str) -> NDArray[np.float64]:
        return np.array([self.means[name].get(i, np.nan) for i in range(len(self))])

    def _measured(self, measure: Measure | None) -> list[float | None]:
        return [None] * len(self) if measure is None else rounded(measure.sign * self._mean(measure.signal))


def _plain(record: Record) -> dict[str, Any]:
    """The columns of a record that need nothing else."""
    one = record.trajectory
    versions = [turn.policy_version for turn in one.turns]
    errors = [error for turn in one.turns for error in turn.errors]
    kinds = [*dict.fromkeys(errors), *([one.failure.kind] if one.failure else [])]
    return {
        "key": str(one.key),
        "title": title_of(record),
        "outcome": "failed" if one.failure else "success" if one.outcome.success else "no success",
        "reward": exact(one.outcome.total_reward),
        "turns": len(one.turns),
        "tokens": sum(turn.stop - turn.start for turn in one.turns),
        "errors": len(errors),
        "error": " ".join(kinds),
        "version": max(versions, default=None),
        "step": one.key.step,
        "env": one.task.env_id,
        "family": one.family,
        "task": one.task.id,
        "stop": one.outcome.stop,
        "source": one.segments[0].source if one.segments else "",
        "split": one.task.split,
        "tag": " ".join(one.task.tags),
        "actor": " ".join(dict.fromkeys(turn.actor for turn in one.turns)),
    }


NAMES = (
    "key", "title", "outcome", "reward", "turns", "tokens", "errors", "error", "version", "step", "env", "family", "task", "stop",
    "source", "split", "tag", "actor", "from", "block", "place",
)  # fmt: skip
"""The columns that the page reads, beside ``kl`` and ``uncertainty``."""


def _required(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: columns[name] for name in NAMES}
