"""What an episode costs by size, and how a budget is best split between size and episodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentopd.errors import ConfigError
from agentopd.evaluation import CONFIDENCE, Interval
from agentopd.planning.hardware import hardware
from agentopd.planning.seconds import stages
from agentopd.planning.setup import setup_of
from agentopd.planning.step import by_records
from agentopd.scaling.laws import Floats
from agentopd.scaling.points import levels
from agentopd.scaling.runs import Measured, configured
from agentopd.scaling.whole import Fitted
from agentopd.settings.amounts import amount_of
from agentopd.training.run.stages import tokenizer_of
from agentopd.training.show.display import attended

UNITS = ("flops", "seconds")
BEYOND = 100.0
"""So many times smaller than the smallest size and larger than the largest the best one is looked for."""
_GRID = 801


@dataclass(frozen=True, slots=True)
class Cost:
    """An episode of a student of N parameters costs ``scale`` (N / ``reference``)^``exponent``."""

    unit: str
    reference: float
    scale: float
    exponent: float

    def of_episode(self, parameters: Floats) -> Floats:
        """In its unit."""
        return self.scale * (parameters / self.reference) ** self.exponent


@dataclass(frozen=True, slots=True)
class Split:
    """The size and the episodes at which a budget buys the smallest y."""

    budget: float
    cost: Cost
    parameters: float
    interval: Interval
    """Of the parameters, 95%."""
    episodes: float
    y: float
    at_end: bool
    """Whether the best size lies at an end of those looked at, so that it is none."""
    determined: bool
    """Whether the interval leaves out an end of those looked at."""


def read(text: str) -> tuple[str, float]:
    """A budget as it is given on the command line, such as ``flops=1e18``.

    Raises:
        ConfigError: It is none.
    """
    return amount_of(text, "--budget", UNITS)


@attended()
def cost_of(found: Sequence[Measured], unit: str) -> Cost:
    """How an episode's cost goes with size, by a straight line through logarithms; of each size the runs with most episodes are asked.

    Seconds are those that steps took. FLOPs are counted (``agentopd plan``) for episodes as long as the records of a run say.

    Raises:
        ConfigError: Runs do not tell their seconds, or are of one size.
        RecordError: A run has no records to take lengths from.
    """
    longest: dict[float, Measured] = {}
    for one in sorted(found, key=lambda one: one.point.x["episodes"]):
        longest[one.point.x["parameters"]] = one
    sizes = np.array([*longest])
    if levels(sizes.tolist()) < 2:
        raise ConfigError("--budget: all runs are of one size, so there is nothing to split; leave it out")
    each = np.array([_seconds(one) if unit == "seconds" else _flops(one) for one in longest.values()])
    reference = float(np.exp(np.log(sizes).mean()))
    slope, scale = np.polyfit(np.log(sizes / reference), np.log(each), 1)
    return Cost(unit, reference, float(np.exp(scale)), float(slope))


def _seconds(one: Measured) -> float:
    costs = [run.costs() for run in one.arm.runs.values()]
    seconds = float(np.mean([cost["seconds"] / cost["episodes"] for cost in costs]))
    if not seconds > 0:
        raise ConfigError(f"--budget: {one.point.name} does not tell its seconds; give a budget in flops")
    return seconds


def _flops(one: Measured) -> float:
    run = next(iter(one.arm.runs.values()))
    config = configured(run)
    setup, _ = setup_of(config, lambda: tokenizer_of(config, lambda _: None))
    step = by_records(config, run.path)
    counted = stages(setup, step, hardware("H100"))  # operations are the same on every device
    return sum(stage.work.flops for stage in counted) / step.episodes


def split(fitted: Fitted, found: Sequence[Measured], cost: Cost, budget: float) -> Split:
    """Looks along all sizes whose episodes take the whole budget for the smallest y. Teacher tokens per episode are those of the points.

    Raises:
        ConfigError: The law has no term of both size and episodes, so nothing is gained by either.
    """
    if missing := {"parameters", "episodes"} - {*fitted.variables}:
        raise ConfigError(
            f"--budget: the law has no term in {' and '.join(sorted(missing))}, so there is nothing to split; leave it out"
        )
    sizes = [one.point.x["parameters"] for one in found]
    ratio = _teaching(found)
    tried = np.geomspace(min(sizes) / BEYOND, max(sizes) * BEYOND, _GRID)
    episodes = budget / cost.of_episode(tried)
    places = [
        {"parameters": size, "episodes": count, "teacher_tokens": count * ratio}
        for size, count in zip(tried.tolist(), episodes.tolist(), strict=True)
    ]
    best = int(fitted.logs(fitted.theta_P[None], places)[0].argmin())
    drawn = tried[fitted.logs(fitted.draw_R_P, places).argmin(axis=1)]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="nearest")
    return Split(
        budget,
        cost,
        float(tried[best]),
        Interval(float(low), float(high)),
        float(episodes[best]),
        fitted.value(places[best]),
        best in (0, _GRID - 1),
        bool(low > tried[0] or high < tried[-1]),
    )


def _teaching(found: Sequence[Measured]) -> float:
    ratios = [one.point.x["teacher_tokens"] / one.point.x["episodes"] for one in found]
    return float(np.exp(np.mean(np.log(ratios)))) if min(ratios) > 0 else math.nan
