"""What training saw at each turn: the metrics ``depth/<what>/<turn>`` of the first and of the last steps, as charts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import numpy as np

import agentopd.viewer.charts as charts
from agentopd.objective.signals import LOSSES, STUDENT_ENTROPY, UNCERTAINTY, WEIGHT, teacher_entropy
from agentopd.viewer.charts import STUDENT, TEACHER, Series
from agentopd.viewer.page import figure

Row = Mapping[str, Any]
SHARE = 10
"""The first and the last of so many equal parts of the steps are shown."""

DEPTH = re.compile(r"depth/(.+)/(\d+)(\+?)")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some consecutive rows of the metrics."""

    rows: Sequence[Row]
    dashed: bool

    @property
    def steps(self) -> str:
        """Which steps they are."""
        first, last = self.rows[0]["step"], self.rows[-1]["step"]
        return f"step {last}" if first == last else f"steps {first} to {last}"

    def curve(self, what: str, label: str, colour: str) -> Series | None:
        """The mean of a metric at each turn; ``None`` where it was not logged."""
        values: dict[int, list[float]] = {}
        for row in self.rows:
            for name, value in row.items():
                place = DEPTH.fullmatch(name)
                if place and place[1] == what and isinstance(value, int | float) and np.isfinite(value):
                    values.setdefault(int(place[2]), []).append(value)
        turns = sorted(values)
        return Series(label, turns, [fmean(values[t]) for t in turns], colour, dashed=self.dashed) if turns else None


def unit_of(signal: str) -> str:
    """What follows the name of a loss: most are in nats, those of estimators have no unit."""
    return "" if signal.endswith("surrogate") else ", in nats,"


def depth_figures(metrics: Sequence[Row]) -> list[str]:
    """Charts by turn of losses, weights, doubts, lengths of actions and bad actions, as HTML; empty where none was logged."""
    rows = [row for row in metrics if any(map(DEPTH.fullmatch, row))]
    if not rows:
        return []
    count = max(len(rows) // SHARE, 1)
    parts = [Stretch(rows[:count], True)] if len(rows) > 1 else []
    parts.append(Stretch(rows[-count:], False))
    logged = list(dict.fromkeys(place[1] for row in rows for name in row if (place := DEPTH.fullmatch(name))))
    marks = {int(place[2]): place[2] + place[3] for row in rows for name in row if (place := DEPTH.fullmatch(name))}
    losses = [name for name in logged if name.endswith(tuple(f"/{loss}" for loss in LOSSES))]
    entropies = {STUDENT_ENTROPY: "student"} | _of_each(logged, teacher_entropy("").rstrip("/"))
    wanted: list[tuple[str, dict[str, str], str, bool]] = [
        *((f"{name} by turn", {name: ""}, f"mean {name}", False) for name in losses),
        ("Entropy by turn", entropies, "entropy in nats", False),
        *((f"{what.capitalize()} by turn", _of_each(logged, what), f"{what} in nats", False) for what in UNCERTAINTY),
        *((f"{name} by turn", {name: ""}, f"mean {name}", False) for name in logged if name.endswith(f"/{WEIGHT}")),
        ("Length of actions by turn", {"tokens": ""}, "tokens", False),
        ("Turns with a bad action", {"errors": ""}, "share of turns", True),
    ]
    drawn = ((title, _series(parts, names), label, share) for title, names, label, share in wanted)
    steps = " (dashed) and ".join(part.steps for part in parts)
    return [
        figure(
            charts.lines(escape(title), series, "turn", label, share, marks),
            f"{title[0].upper()}{title[1:]} in training, {steps}.",
        )
        for title, series, label, share in drawn
        if series
    ]


def _of_each(logged: Sequence[str], what: str) -> dict[str, str]:
    """The metrics ``<what>/<teacher>``, each with its teacher."""
    return {name: name.partition("/")[2] for name in logged if name.startswith(f"{what}/")}


def _series(parts: Sequence[Stretch], names: Mapping[str, str]) -> list[Series]:
    """The curves of some metrics in each stretch; the legend names those of the last one."""
    curves = (
        part.curve(what, "" if part.dashed else who, STUDENT if i == 0 else TEACHER)
        for i, (what, who) in enumerate(names.items())
        for part in parts
    )
    return [curve for curve in curves if curve is not None]
