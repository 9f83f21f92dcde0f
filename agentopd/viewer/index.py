"""The list of the page: one value an episode in each column, and what is true of all of them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentopd.types import Record
from agentopd.viewer.columns import Tokens
from agentopd.viewer.payload import rounded, title_of
from agentopd.viewer.shades import Shade, kind_of, measure_of_divergence, measure_of_uncertainty, ordered


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

    def plain(self, title: str, sources: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
        """What the page reads."""
        count = len(self)
        means = {name: rounded(np.array([of.get(i, np.nan) for i in range(count)])) for name, of in self.means.items()}
        names = [name for name in ordered(self.shades) if name in means]
        terms = {kind_of(name)[1] for name in names if kind_of(name)[0] == "coef"}
        nothing: list[float | None] = [None] * count
        kl, uncertainty = measure_of_divergence(names), measure_of_uncertainty(names)
        return {
            "title": title,
            "sources": list(sources),
            "notes": list(notes),
            "signals": [self.shades[name].plain(several=len(terms) > 1) for name in names],
            "measures": {"kl": kl, "uncertainty": uncertainty},
            "means": means,
            "columns": {
                **_required(self.columns),
                "kl": means.get(kl, nothing),
                "uncertainty": means.get(uncertainty, nothing),
            },
        }


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
        "reward": rounded(np.array([one.outcome.total_reward]))[0],
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
