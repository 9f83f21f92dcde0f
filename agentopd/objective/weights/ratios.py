"""Importance ratios: rows that an older student sampled, or another one, weighed by how likely they are now."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from agentopd.objective.columns import Reals, TeacherColumns
from agentopd.objective.contract import checked_by, idle
from agentopd.objective.rows import Rows
from agentopd.objective.weights.grouping import group, mean_over
from agentopd.objective.weights.marks import needs_live, needs_statistics
from agentopd.objective.weights.named import NotNegative, Positive, ask
from agentopd.settings.choice import numbers_of


def _require_bounds(settings: Mapping[str, Any]) -> None:
    """Refuses bounds that let nothing through, whatever schedules give between their ends, and those of the other rule."""
    least, most = min(numbers_of(settings["low"]), default=0.0), max(numbers_of(settings["high"]), default=math.inf)
    if settings["rule"] == "masked":
        if least > most:
            raise ValueError(f"low={least:g} is above high={most:g}, so no ratio is kept; set low to at most high")
        unused, other = idle(importance, settings, "cap"), "truncated"
    else:
        unused, other = idle(importance, settings, "low", "high"), "masked"
    if unused:
        raise ValueError(f"{unused}: rule={settings['rule']} does not read it; leave it out, or set rule: {other}")


@needs_statistics("surprisal")
@needs_live
@checked_by(_require_bounds)
def importance(
    rows: Rows,
    teacher: TeacherColumns | None,
    *,
    level: Literal["token", "sequence", "geometric"] = "token",
    rule: Literal["truncated", "masked"] = "truncated",
    cap: Positive = 2.0,
    low: NotNegative = 0.5,
    high: Positive = 5.0,
) -> Reals:
    """r = p / mu, detached: the student's probability as it is now, over that which the token was sampled with.

    ``truncated`` is min(r, cap): truncated importance sampling, and the min(r, 2) of SDPO (arXiv 2601.20802). ``masked`` is r inside
    [low, high] and 0 outside: IcePop's mask at level ``token``, with the bounds 0.5 and 5 here, and masked importance sampling at level
    ``sequence``. It corrects what is sampled from an older student, from a replayed one, or by an engine whose numbers differ.
    A score function with ``importance: ratio`` or ``clipped`` has p / mu already, unless its ``logprobs`` are ``recomputed``; with both
    the ratio would be squared, which is refused.

    Args:
        rows: The rows of the term. Corrected actions were not sampled, so no term over them should have this weight.
        teacher: Not read.
        level: The ratio of the token; of the whole trajectory, the product over its rows; or its geometric mean over them.
        rule: Which of the two.
        cap: Of ``truncated``.
        low: Of ``masked``, at most ``high``.
        high: Of ``masked``.
    """
    if rule == "masked" and low > high:
        raise ValueError(f"low={low} is above high={high}, so no ratio is kept; set low to at most high")
    now_A, then_A = (-ask(rows, teacher, "surprisal", logprobs=kind) for kind in ("recomputed", "behaviour"))
    log_A: Reals = now_A - then_A
    if level == "sequence":
        trajectory_A = group(rows, "trajectory")
        log_A = np.bincount(trajectory_A, weights=log_A).astype(np.float64)[trajectory_A]
    elif level == "geometric":
        log_A = mean_over(rows, log_A, "trajectory")
    most = np.log(cap if rule == "truncated" else high)
    ratio_A: Reals = np.exp(np.minimum(log_A, most))
    return ratio_A if rule == "truncated" else np.where((log_A <= most) & (ratio_A >= low), ratio_A, 0.0)
