"""How a run changed from its first steps to its last: divergence and success by depth, weights, tools, and where the time went."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

import agentopd.viewer.charts as charts
from agentopd.objective.signals import LOSSES, WEIGHT
from agentopd.records import Records
from agentopd.viewer.charts import BEFORE, STUDENT, Series
from agentopd.viewer.depths import DEPTH, unit_of
from agentopd.viewer.page import figure, grid, heat, missing, table
from agentopd.viewer.times import duration

Row = Mapping[str, Any]
STRETCHES = 10
"""Parts of a run that are told apart."""
DEEPEST = 12
"""Turns, and lengths of episodes, that have a row of their own."""
BINS = 12

_TOOL = re.compile(r"rollout/tools/(.+)/(calls|errors|seconds)")
_TOOL_HEAD = ("tool", "calls an episode", "ended in an error", "a call took")
_ERROR = re.compile(r"rollout/errors/(.+)")
_ERROR_HEAD = ("kind of bad action", "an episode")


def by_depth(metrics: Sequence[Row], stored: Records | None) -> list[str]:
    """Tables of the divergence by turn, and of success by an episode's length, over the run; empty where neither was logged.

    Raises:
        RecordError: A file of the records is damaged.
    """
    return [*_losses(metrics), *(_success(stored) if stored is not None else [])]


def _losses(metrics: Sequence[Row]) -> list[str]:
    rows = [row for row in metrics if any(map(DEPTH.fullmatch, row))]
    names = [found for row in rows for name in row if (found := DEPTH.fullmatch(name))]
    losses = dict.fromkeys(found[1] for found in names if found[1].endswith(tuple(f"/{loss}" for loss in LOSSES)))
    parts = _parts(rows)
    shown = []
    for loss in losses:
        turns = sorted({int(found[2]) for found in names if found[1] == loss})[:DEEPEST]
        marks = {int(found[2]): found[2] + found[3] for found in names if found[1] == loss}
        cells = [
            (f"turn {marks[turn]}", [_mean(part, f"depth/{loss}/{marks[turn]}") for part in parts]) for turn in turns
        ]
        caption = f"Mean {loss}{unit_of(loss)} at each turn of training's episodes, by optimiser steps."
        shown.append(heat([_steps(part[0]["step"], part[-1]["step"]) for part in parts], cells, caption))
    return shown


def _success(stored: Records) -> list[str]:
    columns = stored.table(["step", "turns", "success", "failure"])
    if not len(columns):
        return []
    step, turns, success = (np.array(columns[name].to_pylist()) for name in ("step", "turns", "success"))
    success &= np.array(columns["failure"].is_null().to_pylist(), np.bool_)
    steps = np.unique(step)
    parts = np.array_split(steps, min(STRETCHES, len(steps)))
    lengths = [length for length in np.unique(turns) if length > 0][:DEEPEST]
    cells = [
        (
            f"{length} turns" if length > 1 else "1 turn",
            [_rate(success[(turns == length) & _within(step, part)]) for part in parts],
        )
        for length in lengths
    ]
    cells.append(("all", [_rate(success[_within(step, part)]) for part in parts]))
    caption = "Success of training's episodes by how many turns they took, by optimiser steps; empty where fewer than five took so many."
    # records count from 0 what metrics call the first step
    return [heat([_steps(part[0] + 1, part[-1] + 1) for part in parts], cells, caption, share=True)]


def _within(step: NDArray[Any], part: NDArray[Any]) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (step >= part[0]) & (step <= part[-1])
    return within


def _rate(success: NDArray[Any]) -> float | None:
    return float(success.mean()) if len(success) >= 5 else None


def weights(stored: Records | None) -> str:
    """Histograms of the weights of tokens in the first and the last recorded step, as HTML; empty where no term weighs.

    Raises:
        RecordError: A file of the records is damaged.
    """
    if stored is None or not stored.signal_steps:
        return ""
    first, last = stored.signal_steps[0], stored.signal_steps[-1]
    begin, end = stored.signals(first), stored.signals(last)
    names = [name for name in end if name.endswith(f"/{WEIGHT}")]
    figures = []
    for name in names:
        known = {step: _known(seen[name]) for step, seen in ((first, begin), (last, end)) if name in seen}
        if all(len(values) and np.ptp(values) == 0 and values[0] == 1 for values in known.values()):
            continue
        top = max((float(np.percentile(values, 99)) for values in known.values() if len(values)), default=1.0) or 1.0
        edges = np.linspace(0.0, top, BINS + 1)
        series = [
            Series(f"step {step + 1}", list(range(BINS)), _shares(values, edges), colour)
            for (step, values), colour in zip(known.items(), (BEFORE, STUDENT), strict=False)
        ]
        marks = {i: f"{edges[i]:.2g}" for i in range(0, BINS, 2)}
        chart = charts.bars(escape(name), series, "weight of a token", "share of tokens", share=True, marks=marks)
        figures.append(
            figure(
                chart,
                f"{name}: how much tokens count, in the first and the last recorded step; the last bar holds all above.",
            )
        )
    if names and not figures:
        return missing("Every token weighs the same.")
    return grid(figures) if figures else ""


def _known(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values[np.isfinite(values)], np.float64)


def _shares(values: NDArray[Any], edges: NDArray[Any]) -> list[float]:
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return [float(count) for count in counts / max(len(values), 1)]


def tools(metrics: Sequence[Row]) -> str:
    """What became of calls in the first and the last steps, as HTML: by tool, and by kind of bad action; empty where none was made."""
    return "".join(
        _table_of(metrics, *one) for one in ((_TOOL, _TOOL_HEAD, _of_tool), (_ERROR, _ERROR_HEAD, _of_error))
    )


def _table_of(
    metrics: Sequence[Row],
    form: re.Pattern[str],
    heads: Sequence[str],
    cells: Callable[[Sequence[Row], str], list[str]],
) -> str:
    """A table with a row for each name of the metrics that ``form`` finds, and cells for the first and the last steps."""
    rows = [row for row in metrics if any(name.startswith("rollout/") for name in row)]
    names = sorted({found[1] for row in rows for name in row if (found := form.fullmatch(name))})
    if not names:
        return ""
    parts = _parts(rows)
    ends = [parts[0], parts[-1]] if len(parts) > 1 else parts
    first, *others = heads
    head = [first]
    for part in ends:
        steps = f", steps {_steps(part[0]['step'], part[-1]['step'])}"
        head += [others[0] + steps, *others[1:]]
    return table(
        head, [[name.replace("_", " "), *(cell for part in ends for cell in cells(part, name))] for name in names]
    )


def _of_tool(part: Sequence[Row], name: str) -> list[str]:
    calls = _logged(part, f"rollout/tools/{name}/calls")
    errors, seconds = (_logged(part, f"rollout/tools/{name}/{what}") for what in ("errors", "seconds"))
    if not calls.sum():
        return ["0", "", ""]
    # each step by how many calls it had
    return [
        f"{calls.mean():.2f}",
        f"{100 * np.average(errors, weights=calls):.1f}%",
        duration(float(np.average(seconds, weights=calls))) if seconds.any() else "",
    ]


def _logged(part: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A metric of each row; a step that has nothing to count logs none."""
    return np.array([float(row.get(name, 0.0)) for row in part])


def _of_error(part: Sequence[Row], name: str) -> list[str]:
    return [f"{_logged(part, f'rollout/errors/{name}').mean():.2f}"]


def _parts(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Rows in up to :data:`STRETCHES` parts of about one size."""
    count = min(STRETCHES, len(rows))
    ends = [round(i * len(rows) / count) for i in range(count + 1)] if count else []
    return [rows[start:stop] for start, stop in pairwise(ends)]


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float) and np.isfinite(row[name])]
    return fmean(values) if values else None


def _steps(first: Any, last: Any) -> str:
    return f"{first}" if first == last else f"{first}-{last}"
