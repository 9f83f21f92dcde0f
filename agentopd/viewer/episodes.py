"""What the records of a run show: episodes before and after training."""

from collections.abc import Iterable
from html import escape
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.objective.signals import LOSSES
from agentopd.records import Records
from agentopd.records.signals import ByTrajectory, Columns
from agentopd.types import Record
from agentopd.viewer.decoding import Decode
from agentopd.viewer.page import missing
from agentopd.viewer.shades import SHADED
from agentopd.viewer.transcript import Shading, episode

SAMPLES = 2
"""Successes shown, and failures shown, of the first recorded step and of the last."""


def samples(stored: Records | None, decode: Decode | None, view: str = "") -> str:
    """Episodes of the first and of the last recorded step, shaded on one scale, as HTML; ``view`` is the file that shows all.

    Raises:
        RecordError: A file is damaged.
    """
    if stored is None or not stored.steps:
        return missing("No episode was recorded.")
    steps = sorted({stored.steps[0], stored.steps[-1]})
    signals: dict[int, Columns] = {step: stored.signals(step) if step in stored.signal_steps else {} for step in steps}
    name = shading_name(signals[steps[-1]])
    scale = _scale([seen[name] for seen in signals.values() if name in seen])
    parts = [_caption(name, scale, decode is not None)]
    for step in steps:
        of_step = ByTrajectory(signals[step])
        chosen = [*_chosen(stored.step(step), True), *_chosen(stored.step(step), False)]
        parts.append(f"<h3>Step {step}</h3>" if chosen else missing(f"Step {step} recorded no episode."))
        for i, record in enumerate(chosen):
            shading = _shading(of_step.of(record.trajectory.key), name, scale)
            parts.append(episode(record.trajectory, decode, shading, unfold=i == 0, view=view))
    return "".join(parts)


def shading_name(signals: Iterable[str]) -> str:
    """The signal to shade by: what the first divergence, else the first loss, is called; empty without any."""
    names = list(signals)
    return next((name for kind in LOSSES for name in names if name.endswith(f"/{kind}")), "")


def _chosen(step: Iterable[Record], success: bool) -> list[Record]:
    fitting = (r for r in step if (r.trajectory.outcome.success and r.trajectory.failure is None) == success)
    return list(islice(fitting, SAMPLES))


def _scale(columns: list[NDArray[Any]]) -> float:
    known = np.concatenate(
        [np.zeros(0), *(np.abs(column[np.isfinite(column)].astype(np.float64)) for column in columns)]
    )
    return float(np.percentile(known, SHADED)) or float(known.max()) or 1.0 if len(known) else 1.0


def _shading(signals: Columns, name: str, scale: float) -> Shading:
    if name not in signals:
        return Shading("")
    rows = np.flatnonzero(np.isfinite(signals[name]))
    places = zip(signals["segment"][rows].tolist(), signals["index"][rows].tolist(), strict=True)
    return Shading(name, dict(zip(places, signals[name][rows].tolist(), strict=True)), scale)


def _caption(name: str, scale: float, readable: bool) -> str:
    text = "From the first and the last recorded step. "
    if not readable:
        return missing(text + "No tokenizer lies in the run folder, so tokens are not shaded.")
    if not name:
        return missing(text + "No signals were recorded, so tokens are not shaded.")
    legend = f"Tokens are shaded by {name}; full colour is {scale:.3g} or more. Point at one to see its number."
    return f"<p>{escape(text + legend)}</p>"
