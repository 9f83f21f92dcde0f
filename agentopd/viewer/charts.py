"""Small charts as inline SVG: text stays text, and colours are the page's, so that they follow light and dark."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

INK, GRID = "#000001", "#000002"
STUDENT, BEFORE, TEACHER, OTHER = "#000011", "#000012", "#000013", "#000014"
LEGEND = 80
"""Letters that a line of the legend has room for; a mark and its gap count as six."""

_VARIABLES = {
    INK: "--muted",
    GRID: "--line",
    STUDENT: "--student",
    BEFORE: "--before",
    TEACHER: "--teacher",
    OTHER: "--other",
}
"""Colours that stand for variables of the page's style sheet."""

_STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agentopd",
    "text.parse_math": False,
    "font.size": 10.0,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one colour, with a band or error bars where ``low`` and ``high`` are given. Without a label no legend names it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


def lines(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    share: bool = False,
    marks: Mapping[int, str] | None = None,
    log: bool = False,
) -> str:
    """A line chart as SVG.

    A series of one point is a dot; ``share`` fixes the y axis to 0 to 1, in per cent; ``marks`` are the places that the x axis names; ``log``
    makes that axis logarithmic.
    """
    with matplotlib.rc_context(dict(_STYLE)):
        figure, axes = _frame(x_label, y_label, share)
        for one in series:
            axes.plot(
                one.x,
                one.y,
                color=one.colour,
                label=one.label,
                linestyle="--" if one.dashed else "-",
                linewidth=1.6,
                marker="o" if len(one.x) == 1 or (len(one.x) <= 12 and not one.dashed) else None,
                markersize=3.5,
            )
            if one.low:
                axes.fill_between(one.x, one.low, one.high, color=one.colour, alpha=0.15, linewidth=0)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_locator(NullLocator())
        if marks:
            axes.set_xticks(list(marks), list(marks.values()))
        return _svg(title, figure, axes)


def bars(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    share: bool = False,
    marks: Mapping[int, str] | None = None,
) -> str:
    """Grouped bars over whole numbers as SVG, with error bars where a series has limits; ``marks`` are the places that the x axis names."""
    width = 0.8 / max(len(series), 1)
    with matplotlib.rc_context(dict(_STYLE)):
        figure, axes = _frame(x_label, y_label, share)
        for i, one in enumerate(series):
            places = [x + (i - (len(series) - 1) / 2) * width for x in one.x]
            axes.bar(places, one.y, width * 0.92, color=one.colour, label=one.label)
            for x, low, high in zip(places, one.low, one.high, strict=False):
                axes.plot([x, x], [low, high], color=INK, linewidth=1)
        if marks:
            axes.set_xticks(list(marks), list(marks.values()))
        else:
            axes.set_xticks(sorted({x for one in series for x in one.x}))
        return _svg(title, figure, axes)


def _frame(x_label: str, y_label: str, share: bool) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.0, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # steps and turns are whole
    axes.grid(axis="y", linewidth=0.8)
    axes.tick_params(length=0)
    if share:
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    return figure, axes


def _svg(title: str, figure: Figure, axes: Axes) -> str:
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        columns = max(min(4, LEGEND // (max(map(len, labels)) + 6)), 1)
        figure.legend(loc="outside upper left", ncols=columns, handlelength=1.2, columnspacing=1.2)
    text = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # several charts share one page: nothing refers to the ids of groups, and their style would reach the whole page
    drawn = re.sub(r'<g id="[^"]*">', "<g>", drawn)
    drawn = re.sub(r"<style.*?</style>", "", drawn, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, f"var({variable})")
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
