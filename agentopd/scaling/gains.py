"""The law of self-distillation: what training gains is linear in how far the teacher is ahead of the student before it.

"A Predictive Law for On-Policy Self-Distillation From World Feedback" (arXiv 2605.30070): the student's gain in success against the gap between it
and itself as its teacher, which is told more, across kinds of what it is told, families of models and sizes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentopd.comparing.runs import Run, arms_of
from agentopd.errors import ConfigError
from agentopd.evaluation import CONFIDENCE, Interval
from agentopd.run_files import BEFORE_PANEL
from agentopd.scaling.fitting import HUBER
from agentopd.scaling.kept import FORMAT
from agentopd.scaling.laws import Floats
from agentopd.scaling.runs import configured
from agentopd.scaling.whole import RESAMPLES
from agentopd.teachers import traits_of
from agentopd.training.checks.roles import model_of
from agentopd.training.loop.folder import RunFolder

LAW = "self_distillation"
"""Its name."""
FEWEST = 5
"""Points: two parameters, and a resample that leaves some out still tells them."""
_ROUNDS = 50
_MEDIAN = 0.6745
"""The median absolute deviation of a normal distribution, in standard deviations."""
_SMALLEST = 1e-6
"""Of a residual that counts as one."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The runs of one configuration: means over seeds, in shares of the panel's tasks."""

    name: str
    gap: float
    """The teacher's success minus the student's, both before training."""
    gain: float
    """The student's success after training minus that before."""
    seeds: int


@dataclass(frozen=True, slots=True)
class GainLaw:
    """gain = intercept + slope gap."""

    points: tuple[Gain, ...]
    intercept: float
    slope: float
    draw_R_2: Floats
    """Intercept and slope of each resample of the points."""
    correlation: float
    heldout: dict[str, float]
    """How far the gain of the point with the largest gap is missed by a fit to the others: of the law, and of their mean gain."""

    def interval(self, place: int) -> Interval:
        """Of the intercept (0) or the slope (1), 95%."""
        low, high = np.quantile(self.draw_R_2[:, place], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Interval(float(low), float(high))


def gains_of(paths: Sequence[str | Path]) -> tuple[list[Gain], list[str]]:
    """The points that folders of runs or sweeps hold, and a sentence for each run that is left out.

    Raises:
        ConfigError: A folder is neither, or a run has no teacher that is the student itself and has played the panel before training.
    """
    arms, notes = arms_of(paths)
    found = []
    for arm in arms:
        pairs = [_gain(run) for run in arm.runs.values()]
        gap, gain = np.mean(pairs, axis=0)
        found.append(Gain(arm.name, float(gap), float(gain), len(pairs)))
    return found, notes


def _gain(run: Run) -> tuple[float, float]:
    panels, config = RunFolder(run.path).load_panels(), configured(run)
    selves = [
        name
        for name, choice in config.teachers.items()
        if name in panels and traits_of(choice).initial and model_of(name, choice) is None
    ]
    if len(selves) != 1 or BEFORE_PANEL not in panels:
        raise ConfigError(
            f"{run.path}: the law of self-distillation is of a teacher that is the student itself and is told more (kind privileged or self with a "
            f"hint), which has played the panel before training; this run has {len(selves)} of them"
        )
    before = panels[BEFORE_PANEL].success.value
    return panels[selves[0]].success.value - before, run.panel.success.value - before


def gain_law(points: Sequence[Gain]) -> GainLaw:
    """Fits the law, by Huber's loss in units of the residuals' median absolute deviation.

    Raises:
        ConfigError: The points are too few, or their gaps do not differ.
    """
    gap_M, gain_M = np.array([one.gap for one in points]), np.array([one.gain for one in points])
    if len({*gap_M.tolist()}) < FEWEST:
        raise ConfigError(
            f"the law of self-distillation needs {FEWEST} points with different gaps between student and teacher; there are "
            f"{len({*gap_M.tolist()})} in {len(points)} points; train with other hints, or other sizes"
        )
    drawn_R_M = np.random.default_rng(0).integers(len(points), size=(2 * RESAMPLES, len(points)))
    told_R_M = drawn_R_M[np.ptp(gap_M[drawn_R_M], axis=1) > 0][:RESAMPLES]
    [(intercept, slope)] = _lines(gap_M[None], gain_M[None])
    last = int(gap_M.argmax())
    others = np.arange(len(points)) != last
    [(left, right)] = _lines(gap_M[None, others], gain_M[None, others])
    missed = {LAW: left + right * gap_M[last] - gain_M[last], "constant": gain_M[others].mean() - gain_M[last]}
    return GainLaw(
        tuple(points),
        float(intercept),
        float(slope),
        _lines(gap_M[told_R_M], gain_M[told_R_M]),
        float(np.corrcoef(gap_M, gain_M)[0, 1]) if np.ptp(gain_M) else 0.0,
        {name: abs(float(off)) for name, off in missed.items()},
    )


def _lines(gap_R_M: Floats, gain_R_M: Floats) -> Floats:
    """Intercepts and slopes, [R, 2], by weighted least squares, again and again with the weights of Huber's loss."""
    weight_R_M = np.ones_like(gap_R_M)
    for _ in range(_ROUNDS):
        share_R_M = weight_R_M / weight_R_M.sum(axis=1, keepdims=True)
        gap_R, gain_R = (share_R_M * gap_R_M).sum(axis=1), (share_R_M * gain_R_M).sum(axis=1)
        from_R_M = gap_R_M - gap_R[:, None]
        slope_R = (share_R_M * from_R_M * gain_R_M).sum(axis=1) / (share_R_M * from_R_M**2).sum(axis=1)
        off_R_M = np.abs(gain_R_M - gain_R[:, None] - slope_R[:, None] * from_R_M)
        scale_R = np.maximum(np.median(off_R_M, axis=1) / _MEDIAN, _SMALLEST)
        weight_R_M = np.minimum(1.0, HUBER / np.maximum(off_R_M / scale_R[:, None], HUBER))
    return np.stack([gain_R - slope_R * gap_R, slope_R], axis=1)


def lines(law: GainLaw) -> list[str]:
    """What the law says, in points of success."""
    low, high = law.interval(0)
    flat, steep = law.interval(1)
    unsure = "" if flat > 0 or steep < 0 else ": these runs do not tell it from 0"
    own, mean = law.heldout[LAW], law.heldout["constant"]
    return [
        "law: gain = intercept + slope (success of the teacher - success of the student, both before training)",
        f"intercept: {100 * law.intercept:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]",
        f"slope: {law.slope:.2f} [{flat:.2f}, {steep:.2f}]{unsure}",
        f"fit: {len(law.points)} points, {sum(one.seeds for one in law.points)} runs, correlation {law.correlation:.2f}",
        f"held out: the gain at the largest gap is missed by {100 * own:.1f} points, and by {100 * mean:.1f} where the mean gain of the others is "
        f"foretold{'' if own < mean else ': the law is of no use there'}",
    ]


def to_dict(law: GainLaw, notes: Sequence[str]) -> dict[str, Any]:
    """Plain data, shares between 0 and 1."""
    return {
        "format": FORMAT,
        "measure": "gain",
        "law": LAW,
        "parameters": {
            name: {"value": value, "low": law.interval(place).low, "high": law.interval(place).high}
            for place, (name, value) in enumerate((("intercept", law.intercept), ("slope", law.slope)))
        },
        "correlation": law.correlation,
        "points": [asdict(one) for one in law.points],
        "held_out": law.heldout,
        "notes": list(notes),
    }
