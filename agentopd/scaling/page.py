"""The page of a law: one HTML file that needs no network."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

import agentopd.viewer.charts as charts
from agentopd.scaling.cost import Split
from agentopd.scaling.gains import GainLaw, lines
from agentopd.scaling.points import SAME, Point
from agentopd.scaling.runs import MEASURES
from agentopd.scaling.telling import residuals, sentences, tables
from agentopd.scaling.whole import Scaling
from agentopd.viewer.charts import BEFORE, OTHER, STUDENT, TEACHER, Series
from agentopd.viewer.page import figure, grid, page, table

COLOURS = (STUDENT, TEACHER, OTHER, BEFORE)
_PLACES = 60


def html(found: Scaling, title: str, measure: str, best: Split | None, notes: Sequence[str]) -> str:
    """The whole page."""
    parameters, *held_out, points = tables(found)
    told = "".join(
        f"<p>{escape(line[0].upper() + line[1:])}.</p>" for line in (*sentences(found, measure, best), *notes)
    )
    drawn = [chart for name in found.fitted.variables for chart in _along(found, name, measure)]
    sections = [
        ("Law", told + table(*parameters)),
        ("Points", grid(drawn)),
        ("Residuals", grid([_residuals(found, name) for name in found.fitted.variables])),
        ("Held out", "".join(table(*one) for one in held_out)),
        ("Numbers", table(*points)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    return page(title, f"{len(found.points)} points, {sum(len(one.y_S) for one in found.points)} runs", body)


def gains_html(law: GainLaw, title: str, notes: Sequence[str]) -> str:
    """The page of a law of self-distillation."""
    ends = [min(one.gap for one in law.points), max(one.gap for one in law.points)]
    line = Series("", ends, [law.intercept + law.slope * gap for gap in ends], STUDENT, dashed=True)
    dots = [Series("", [one.gap], [one.gain], STUDENT) for one in law.points]
    drawn = charts.lines("Gain by gap", [line, *dots], "teacher minus student, before training", "gain")
    told = "".join(f"<p>{escape(text[0].upper() + text[1:])}.</p>" for text in (*lines(law), *notes))
    rows = [(one.name, str(one.seeds), f"{one.gap:+.3f}", f"{one.gain:+.3f}") for one in law.points]
    body = f"<section>{told}{figure(drawn, 'Shares of the panel: runs (dots) and the law (dashed).')}</section>"
    return page(title, "Self-distillation", body + table(("point", "seeds", "gap", "gain"), rows))


def _along(found: Scaling, name: str, measure: str) -> Iterator[str]:
    """Charts of y along a variable, a colour for each value of the others, with the law dashed."""
    groups = _groups(found.points, [other for other in found.fitted.variables if other != name])
    for begin in range(0, len(groups), len(COLOURS)):
        series, some = [], groups[begin : begin + len(COLOURS)]
        for (label, points), colour in zip(some, COLOURS, strict=False):
            ordered = sorted(points, key=lambda one: one.x[name])
            x = np.geomspace(ordered[0].x[name], ordered[-1].x[name], _PLACES).tolist()
            law = [found.fitted.value({**ordered[0].x, name: place}) for place in x]
            series.append(Series("", x, law, colour, dashed=True))
            series += [Series(label if one is ordered[0] else "", [one.x[name]], [one.y], colour) for one in ordered]
        of = f", {some[0][0]}" if len(some) == 1 and some[0][0] else ""  # no legend names a colour that is alone
        caption = f"Seen (dots) and the law (dashed), along {_plain(name)}{of}: {MEASURES[measure]}."
        yield figure(charts.lines(f"Law along {name}", series, _plain(name), "y", log=True), caption)


def _residuals(found: Scaling, name: str) -> str:
    off = residuals(found)
    ends = [one.x[name] for one in found.points]
    dots = [Series("", [point.x[name]], [residual], STUDENT) for point, residual in zip(found.points, off, strict=True)]
    zero = Series("", [min(ends), max(ends)], [0.0, 0.0], BEFORE, dashed=True)
    chart = charts.lines(f"Residuals along {name}", [zero, *dots], _plain(name), "standard errors", log=True)
    return figure(
        chart, f"ln(seen / law) in standard errors, along {_plain(name)}; a bend says that the form is wrong."
    )


def _groups(points: Sequence[Point], names: Sequence[str]) -> list[tuple[str, list[Point]]]:
    """The points that agree in these variables."""
    groups: list[tuple[str, list[Point]]] = []
    for one in sorted(points, key=lambda point: [point.x[name] for name in names]):
        mine = groups[-1][1] if groups else []
        if mine and all(one.x[name] < SAME * mine[0].x[name] for name in names):
            mine.append(one)
        else:
            groups.append((", ".join(f"{one.x[name]:,.0f} {_plain(name)}" for name in names), [one]))
    return groups


def _plain(name: str) -> str:
    return name.replace("_", " ")
