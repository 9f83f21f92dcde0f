"""Where the time of a run went: what its folder keeps of stages and panels, and the clocks of its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentopd.run_files import PANEL_STAGE, STUDENT_STAGE, TEACHER_STAGE
from agentopd.viewer.page import table

_KEPT = {
    STUDENT_STAGE: "student loaded, or made in its cold start",
    TEACHER_STAGE: "teachers loaded, or made in their stage",
    PANEL_STAGE: "panels before and after training",
}

Row = Mapping[str, Any]
LOSS = "train/loss"
"""What the metrics of every optimiser step have."""


def times(metrics: Sequence[Row], kept: Mapping[str, float]) -> str:
    """A table as HTML; empty where nothing was timed.

    Args:
        metrics: The rows of the run's metrics, each with the run's clock, ``seconds``.
        kept: From :func:`agentopd.run_files.read_times`.
    """
    rows = [[label, duration(kept[name]), ""] for name, label in _KEPT.items() if name in kept]
    rows += _steps([row for row in metrics if isinstance(row.get("seconds"), int | float)])
    return table(["", "time", ""], rows) if rows else ""


def _steps(rows: Sequence[Row]) -> list[list[str]]:
    """The steps after the first, whose row's clock has all that came before in it, and the parts that were timed in them."""
    at = [i for i, row in enumerate(rows) if LOSS in row]  # a step that plays nothing has no times of a rollout
    if len(at) < 2:
        return []
    first, later = rows[at[0]], rows[at[0] + 1 :]
    whole = float(later[-1]["seconds"]) - float(first["seconds"])
    count = len(at) - 1
    shown = [[f"training, {count} steps after the first", duration(whole), f"{duration(whole / count)} a step"]]
    panels = sum(
        float(row["seconds"]) - float(before["seconds"])
        for before, row in zip(rows[at[0] :], later, strict=False)
        if any(name.startswith("panel/") for name in row)
    )
    parts = {
        "rollouts": _sum(later, "seconds/rollout"),
        "teachers": _sum(later, "seconds/teachers"),
        "learner: forward and backward": _sum(later, "seconds/learner"),
        "panels on the way": panels or None,
    }
    known = {name: seconds for name, seconds in parts.items() if seconds is not None}
    if "rollouts" in known:
        known["the rest: optimiser, records, checkpoints"] = max(whole - sum(known.values()), 0.0)
    within = {
        "the acting model, within rollouts": _sum(later, "rollout/seconds/policy"),
        "environments, added up though they run at the same time": _sum(later, "rollout/seconds/env"),
    }
    known |= {name: seconds for name, seconds in within.items() if seconds is not None}
    return shown + [[f"· {name}", duration(seconds), _share(seconds, whole)] for name, seconds in known.items()]


def _sum(rows: Sequence[Row], name: str) -> float | None:
    found = [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
    return sum(found) if found else None


def _share(seconds: float, of: float) -> str:
    return f"{100 * seconds / of:.0f}%" if of > 0 else ""


def duration(seconds: float) -> str:
    """Seconds in a unit that fits."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds >= 0.001 else f"{1e6 * seconds:.0f} µs"
