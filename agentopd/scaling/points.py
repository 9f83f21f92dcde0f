"""What a law is fitted to: a point is the runs of one configuration, which differ in their seed alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from agentopd.errors import ConfigError
from agentopd.scaling.laws import LAWS, SYMBOLS, Floats

SAME = 1.05
"""Values that differ by a smaller factor are one level of a variable."""
APART = 2.0
"""The factor by which teacher tokens per episode have to differ between points, or they say no more than episodes do."""
LEVELS = 3
"""Of a variable: a term with its exponent, beside what cannot be reduced, is not determined by two."""
_CLOSEST = 1e-3
"""The smallest standard error of ln y that is believed."""


NOUNS = {"parameters": "size", "episodes": "number of episodes", "teacher_tokens": "number of teacher tokens"}


@dataclass(frozen=True, slots=True)
class Point:
    """One size and budget."""

    name: str
    x: Mapping[str, float]
    """``parameters``, ``episodes``, ``teacher_tokens``; means of the runs, ``nan`` where they do not tell."""
    y_S: tuple[float, ...]
    """Of each run."""
    tasks: int | None = None
    """Of the panel, where y is the share of tasks that failed."""

    @property
    def y(self) -> float:
        """The mean. A share is (failures + 1/2) / (trials + 1), so that its logarithm exists where nothing failed."""
        mean, trials = math.fsum(self.y_S) / len(self.y_S), len(self.y_S) * (self.tasks or 0)
        return (mean * trials + 0.5) / (trials + 1) if trials else mean

    @property
    def chance(self) -> float:
        """The relative variance that drawing tasks alone gives y in one run."""
        return (1 - self.y) / self.y / self.tasks if self.tasks else 0.0


def require_positive(points: Sequence[Point]) -> None:
    """Raises ConfigError where there are none, or one has no logarithm."""
    if not points:
        raise ConfigError("there are no points, and a law is fitted to some; give finished runs")
    for one in points:
        if not 0 < one.y < math.inf:
            raise ConfigError(
                f"{one.name}: y is {one.y:g}, and a law in logarithms needs it above 0; leave the run out"
            )


def errors_of(points: Sequence[Point]) -> Floats:
    """The standard error of ln y, by point.

    A point's own three seeds say little of how far seeds lie apart. So their relative variance beyond what chance gives is taken to be the
    same everywhere, and is the mean over all points, weighted by their degrees of freedom.
    """
    free = [len(one.y_S) - 1 for one in points]
    beyond = [
        count * (float(np.var(one.y_S, ddof=1)) / one.y**2 - one.chance)
        for one, count in zip(points, free, strict=True)
        if count
    ]
    seeds = max(sum(beyond) / sum(free), 0.0) if sum(free) else 0.0
    variances = [(one.chance + seeds) / len(one.y_S) for one in points]
    return np.maximum(np.sqrt(variances), _CLOSEST)


def levels(values: Sequence[float]) -> int:
    """How many different values there are, nearly equal ones as one."""
    ordered = sorted(values)
    return 1 + sum(after > SAME * before for before, after in pairwise(ordered))


def variables_of(points: Sequence[Point]) -> tuple[tuple[str, ...], list[str]]:
    """The variables that differ between points, and a sentence for each that is left out.

    Raises:
        ConfigError: None differs.
    """
    kept, notes = [], []
    for name in ("parameters", "episodes"):
        values = [one.x[name] for one in points]
        if unknown := [one.name for one, value in zip(points, values, strict=True) if math.isnan(value)]:
            raise ConfigError(f"{unknown[0]} does not tell its {name}, so it has no place in a law; leave it out")
        if levels(values) > 1:
            kept.append(name)
        else:
            notes.append(f"all runs have {values[0]:,.0f} {name}: {_term(name)} is left out, and is part of E")
    ratios = [one.x["teacher_tokens"] / one.x["episodes"] for one in points]
    if any(map(math.isnan, ratios)) or not min(ratios) > 0:
        notes.append(f"not all runs tell their teacher tokens: {_term('teacher_tokens')} is left out")
    elif max(ratios) >= APART * min(ratios):
        kept.append("teacher_tokens")
    else:
        notes.append(
            f"teacher tokens per episode differ by a factor of {max(ratios) / min(ratios):.2f} between points, less than {APART:g}: "
            f"{_term('teacher_tokens')} is left out"
        )
    if not kept:
        raise ConfigError(
            f"the {len(points)} points are of one size and one budget of episodes, and no law is seen in them; train several student sizes or "
            "several train.steps"
        )
    return tuple(kept), notes


def _term(name: str) -> str:
    return f"the term in {SYMBOLS[name]}"


def lacking(points: Sequence[Point], variables: Sequence[str], law: str) -> str:
    """What points lack to determine a law; empty where they are enough."""
    count = len(LAWS[law].parameters(variables))
    least = {} if law == "constant" else dict.fromkeys(variables, LEVELS if law == "saturating" else 2)
    have = {name: _levels(points, name) for name in least}
    if len(points) > count and all(have[name] >= least[name] for name in least):
        return ""
    needs = [*(f"{least[name]} different {_many(name)}" for name in least), f"{count + 1} points"]
    there = [*(f"{have[name]} different {_many(name)}" for name in least), f"{len(points)} points"]
    return f"the {law} law in {' and '.join(_many(name) for name in variables)} has {count} parameters and needs {in_words(needs)}; there are {in_words(there)}"


def _levels(points: Sequence[Point], name: str) -> int:
    if name == "teacher_tokens":
        return levels([one.x[name] / one.x["episodes"] for one in points])
    return levels([one.x[name] for one in points])


def _many(name: str) -> str:
    return {
        "parameters": "sizes",
        "episodes": "numbers of episodes",
        "teacher_tokens": "numbers of teacher tokens per episode",
    }[name]


def in_words(parts: Sequence[str]) -> str:
    """Parts of a sentence, the last behind an "and"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
