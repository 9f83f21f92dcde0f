"""The page of a comparison: one HTML file that needs no network."""

import json
import math
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from scipy.stats import t as student_t

import agentopd.viewer.charts as charts
from agentopd.comparing.runs import Arm
from agentopd.comparing.telling import METHOD, sentences, tables
from agentopd.comparing.whole import Comparison, Rated
from agentopd.config.differing import value_at
from agentopd.evaluation import CONFIDENCE
from agentopd.viewer.charts import BEFORE, OTHER, STUDENT, TEACHER, Series
from agentopd.viewer.page import figure, grid, missing, page, table

COLOURS = (STUDENT, TEACHER, OTHER)
"""Of arms; the first arm is drawn beside them in every chart, in a colour of its own."""


def html(found: Comparison, title: str) -> str:
    """The whole page."""
    arms, pairs = tables(found)
    told = "".join(f"<p>{escape(line[0].upper() + line[1:])}.</p>" for line in sentences(found))
    sections = [
        ("Differences", table(*pairs) + told),
        ("Arms", table(*arms) + "<p>Means of an arm's runs; seconds are those of training steps.</p>"),
        ("Success", _success(found.arms)),
        ("Learning curves", _curves([one.arm for one in found.arms])),
        ("Settings", _settings(found)),
    ]
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    facts = f"{len(found.arms)} arms on the same {found.tasks} held-out tasks. {escape(METHOD)}"
    return page(title, facts, body)


def _success(arms: Sequence[Rated]) -> str:
    places = list(range(len(arms)))
    limits = [one.interval.low for one in arms], [one.interval.high for one in arms]
    bars = [Series("", places, [one.value for one in arms], STUDENT, *limits)]
    marks = (
        {place: str(place + 1) for place in places} if len(arms) > 4 else {i: a.arm.name for i, a in enumerate(arms)}
    )
    caption = "Success on the panel after training, with 95% intervals over seeds and tasks" + (
        ": " + ", ".join(f"{place + 1} {one.arm.name}" for place, one in enumerate(arms)) if len(arms) > 4 else ""
    )
    return figure(charts.bars("Success", bars, "", "success", share=True, marks=marks), caption + ".")


def _curves(arms: Sequence[Arm]) -> str:
    """A chart for every three arms, beside the first."""
    first, *others = arms
    drawn = []
    for begin in range(0, len(others), len(COLOURS)):
        few = others[begin : begin + len(COLOURS)]
        coloured = [(first, BEFORE), *zip(few, COLOURS, strict=False)]
        if series := [one for arm, colour in coloured for one in curve(arm, colour)]:
            drawn.append(
                figure(
                    charts.lines("Learning curves", series, "episodes played", "success", share=True),
                    "Success on validation tasks during training: means over seeds, with 95% intervals by Student's t over seeds.",
                )
            )
    return grid(drawn) if drawn else missing("No panel was played during training (train.eval_every).")


def curve(arm: Arm, colour: str) -> Iterator[Series]:
    """The mean over an arm's seeds at the steps at which all of them played a panel; the band needs two seeds."""
    of_runs = [{point.step: point for point in run.curve()} for run in arm.runs.values()]
    steps = sorted(set.intersection(*(set(one) for one in of_runs)))
    played = [float(np.mean([one[step].episodes for one in of_runs])) for step in steps]
    if not steps or any(map(math.isnan, played)):
        return
    success_S_P = np.array([[one[step].success for step in steps] for one in of_runs])
    mean_P, low, high = success_S_P.mean(axis=0), list[float](), list[float]()
    if (seeds := len(of_runs)) > 1:
        half_P = student_t.isf((1 - CONFIDENCE) / 2, seeds - 1) * success_S_P.std(axis=0, ddof=1) / math.sqrt(seeds)
        low, high = np.maximum(mean_P - half_P, 0.0).tolist(), np.minimum(mean_P + half_P, 1.0).tolist()
    yield Series(arm.name, played, mean_P.tolist(), colour, low, high)


def _settings(found: Comparison) -> str:
    paths = sorted({path for pair in found.pairs for path in pair.settings})
    if not paths:
        return missing("The arms' configurations are the same.")
    rows = [[path, *(json.dumps(value_at(one.arm.config, path)) for one in found.arms)] for path in paths]
    return table(["in which arms differ", *(one.arm.name for one in found.arms)], rows)
