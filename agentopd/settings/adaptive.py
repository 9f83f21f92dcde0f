"""Schedules that remember: what they give depends on what was measured in the steps so far.

Such a schedule has an attribute ``advance(state, clock, **settings)``, which makes its next state, plain values as JSON holds them,
once after each step: ``clock`` has the step's number and what was measured in it, ``state`` is ``None`` at first. The schedule itself
reads ``clock.state``. The river keeps the states, one for each content (two settings with the same schedule share it), and
checkpoints keep them with it.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import Field

from agentopd.settings.clock import Clock, progress
from agentopd.settings.problems import nearest

Advance: TypeAlias = Callable[..., Any]
Schedule = TypeVar("Schedule", bound=Callable[..., float])


def advanced_by(advance: Advance) -> Callable[[Schedule], Schedule]:
    """Gives a schedule a memory that ``advance`` renews after each step."""

    def mark(schedule: Schedule) -> Schedule:
        schedule.advance = advance  # type: ignore[attr-defined]
        return schedule

    return mark


def measured(clock: Clock, metric: str, seen: bool) -> float | None:
    """What ``metric`` was in the step of ``clock``; ``None`` where it is not finite, or of a term that trained nothing in it.

    Args:
        clock: The step that ended.
        metric: Its name.
        seen: Whether it was there before, so that it may be absent once.

    Raises:
        ValueError: There is no such metric.
    """
    value = clock.metrics.get(metric)
    if value is not None:
        return value if math.isfinite(value) else None
    if seen:
        return None
    room, _, rest = metric.partition("/")
    term = rest.rpartition("/")[0]
    if room == "train" and clock.metrics.get(f"objective/{term}/rows") == 0.0:
        return None
    raise ValueError(
        f"metric={metric}: nothing of that name was measured{nearest(metric, clock.metrics)}; give one of: "
        f"{', '.join(clock.metrics) or 'none'}"
    )


def _next_taid(
    state: Any, clock: Clock, *, metric: str, start: float, end: float, alpha: float, momentum: float
) -> Any:
    """``t``, the moving average ``m`` of the relative fall of the loss, and the ``loss`` that the next is held against."""
    before = state or {"t": start, "m": 0.0, "loss": None}
    t, m, last = before["t"], before["m"], before["loss"]
    loss = measured(clock, metric, seen=last is not None)
    if loss is not None and last:
        m = momentum * m + (1.0 - momentum) * (last - loss) / last
        t = t + alpha * (1.0 - t) / (1.0 + math.exp(-m))
    floor = start + (end - start) * progress(replace(clock, step=clock.step + 1))
    return {"t": min(end, max(floor, t)), "m": m, "loss": last if loss is None else loss}


@advanced_by(_next_taid)
def taid(
    clock: Clock,
    *,
    metric: str,
    start: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4,
    end: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0,
    alpha: Annotated[float, Field(ge=0.0)] = 5e-4,
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99,
) -> float:
    """The share t of the teacher in TAID's target (arXiv 2501.16937): the faster the loss falls, the faster t rises.

    After step n, with L_n the metric: d = (L_{n-1} - L_n) / L_{n-1};  m = momentum m + (1 - momentum) d;
    t = min(end, max(linear(n + 1), t + alpha sigmoid(m) (1 - t))), where linear goes from ``start`` to ``end`` over the run.

    Args:
        clock: The step.
        metric: The loss that is watched, such as ``train/loss/divergence``; at a step where the term trains nothing, t only follows
            the line.
        start: t at first.
        end: t at last, not below ``start``.
        alpha: How much faster than the line.
        momentum: Of the relative fall.
    """
    if end < start:
        raise ValueError(f"end={end} is below start={start}, and t only rises; swap them")
    return float(clock.state["t"]) if clock.state else start


def _next_retire(
    state: Any, clock: Clock, *, metric: str, start: float, end: float, patience: int, margin: float
) -> Any:
    """The ``best`` value so far, the steps ``since``, and whether it has ``retired``."""
    before = state or {"best": None, "since": 0, "retired": False}
    best = before["best"]
    value = measured(clock, metric, seen=best is not None)
    if value is None:
        return before
    if best is None or value < best - margin * abs(best):
        return before | {"best": value, "since": 0}
    since = before["since"] + 1
    return before | {"since": since, "retired": before["retired"] or since >= patience}


@advanced_by(_next_retire)
def retire(
    clock: Clock,
    *,
    metric: str,
    start: float = 1.0,
    end: float = 0.0,
    patience: Annotated[int, Field(ge=1)] = 20,
    margin: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0,
) -> float:
    """``start``, until ``metric`` has not shrunk for ``patience`` steps; from then on ``end``.

    Args:
        clock: The step.
        metric: What is watched, such as ``train/distil/divergence``. Steps at which its term trains nothing do not count.
        start: The value at first.
        end: The value afterwards, for good.
        patience: Steps in a row.
        margin: The share of its best value by which it has to be less to count as shrunk.
    """
    return end if clock.state and clock.state["retired"] else start


def _next_threshold(
    state: Any, clock: Clock, *, metric: str, part: str, every: int, threshold: float, by: float, margin: float
) -> Any:
    """``phi``, the ``sum`` and ``count`` of what was measured since it was looked at last, and the ``mean`` until then."""
    before = state or {"phi": threshold, "sum": 0.0, "count": 0, "mean": None}
    value = measured(clock, metric, seen=before["mean"] is not None or before["count"] > 0)
    if value is not None:
        before = before | {"sum": before["sum"] + value, "count": before["count"] + 1}
    if (clock.step + 1) % every or not before["count"]:
        return before
    mean, last = before["sum"] / before["count"], before["mean"]
    worse = last is not None and mean >= last + margin
    return {"phi": min(1.0, before["phi"] + by) if worse else before["phi"], "sum": 0.0, "count": 0, "mean": mean}


@advanced_by(_next_threshold)
def distillm(
    clock: Clock,
    *,
    metric: str,
    part: Literal["fresh", "replayed", "shown"],
    every: Annotated[int, Field(ge=1)] = 20,
    threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0,
    by: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1,
    margin: Annotated[float, Field(ge=0.0)] = 0.1,
) -> float:
    """The share of one of three sources in DistiLLM's adaptive scheduler with off-policy replay (arXiv 2402.03898).

    With t the part of the run that is over: phi (1 - t) of the tasks are fresh, phi t are replayed, the other 1 - phi are shown. Every so many
    steps phi grows where the mean of ``metric`` over them is higher than over as many before, by ``margin`` or more.

    Args:
        clock: The step.
        metric: The loss that is watched, such as ``train/loss/divergence``.
        part: Whose share is meant; the three have all else alike.
        every: Steps over which the mean is taken.
        threshold: phi at first.
        by: How much it grows, up to 1.
        margin: By how much more the loss has to be.
    """
    phi = float(clock.state["phi"]) if clock.state else threshold
    over = clock.step / clock.total
    return {"fresh": phi * (1.0 - over), "replayed": phi * over, "shown": 1.0 - phi}[part]


SOLVED_WITHIN = "rollout/solved_within"
"""The metric of how many turns cover the successes of a step; absent where there was none."""


def _next_depth(
    state: Any, clock: Clock, *, metric: str, every: int, momentum: float, least: float, full: float
) -> Any:
    """The moving averages of the ``centre`` of the divergence and of the turns that were ``solved`` in, renewed after full depth."""
    if not _is_probe(state, clock.step, every):
        return state
    before = state or {"centre": None, "solved": None}
    nowhere = (
        clock.metrics.get(f"{metric.rpartition('/')[0]}/divergence", 1.0) <= 0.0
    )  # where student and teacher agree
    seen = {
        "centre": measured(clock, metric, seen=nowhere or before["centre"] is not None),
        "solved": clock.metrics.get(SOLVED_WITHIN),
    }
    return {name: _averaged(before[name], value, momentum) for name, value in seen.items()}


def _averaged(before: float | None, value: float | None, momentum: float) -> float | None:
    if before is None or value is None:
        return before if value is None else value
    return momentum * before + (1.0 - momentum) * value


def _is_probe(state: Any, step: int, every: int) -> bool:
    """Whether a step has full depth: every so often, and as long as nothing is known."""
    return not state or state["centre"] is None or step % every == 0


@advanced_by(_next_depth)
def adaptive_depth(
    clock: Clock,
    *,
    metric: str = "train/loss/centre",
    every: Annotated[int, Field(ge=1)] = 10,
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5,
    least: Annotated[float, Field(ge=1.0)] = 1.0,
    full: Annotated[float, Field(ge=1.0)] = 1000.0,
) -> float:
    """TurnOPD's depth of episodes, H = max(H_eff, H_cov) turns rounded up (arXiv 2607.05804), for the ``max_turns`` of a source.

    H_eff is the turn at which the divergence lies on average, sum_k k s_k d_k / sum_k s_k d_k, with d_k its mean at turn k and s_k the share of
    episodes that reach that turn; H_cov is the least number of turns within which four fifths of the successes were
    won. Both are moving averages over the steps of full depth, since an episode that was cut short tells nothing of what
    lies deeper: the first step, and every so many. Without a success so far, H is H_eff.

    Args:
        clock: The step.
        metric: H_eff of one step: ``train/<term>/centre``, of a term whose loss is a divergence.
        every: Steps from one of full depth to the next.
        momentum: What a moving average keeps of itself, at each step of full depth.
        least: The least depth.
        full: Full depth; ``rollout.max_turns`` is the depth where that is less.
    """
    if full < least:
        raise ValueError(f"full={full} is below least={least}; swap them")
    if _is_probe(clock.state, clock.step, every):
        return full
    known = [value for value in clock.state.values() if value is not None]
    return min(full, max(least, float(math.ceil(max(known)))))
