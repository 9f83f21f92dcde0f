"""What a step was measured to be, beside what it is now: rows of a table."""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.records.signals import KEYS
from agentopd.types import Annotation, Sparse

TOLERANCE = 1e-6
"""Relative."""
FLOOR = 1e-9
"""Of a mean whose parts cancel nothing is left but rounding: below this nothing differs."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number, or one column of numbers."""

    metric: str
    recorded: float
    """Of a column, as ``recomputed``, the mean of what is finite in it."""
    recomputed: float
    difference: float
    """Relative to the larger of the two; of columns the largest of all entries', relative to the largest entry."""
    same: bool


def _timed(name: str) -> bool:
    """Whether a clock decides a metric: a time, a rate, or what was in play at that moment."""
    return "second" in name or name.startswith("stream/")


def of_numbers(
    was: Mapping[str, float], now: Mapping[str, float], tolerance: float, unasked: Set[str]
) -> Iterator[Row]:
    """The metrics of a step, without what clocks measured and without those of teachers that were ``unasked``."""
    for name in [*was, *(name for name in now if name not in was)]:
        kind, _, rest = name.partition("/")
        if name == "step" or _timed(name) or (kind == "teacher" and rest.partition("/")[0] in unasked):
            continue
        a, b = float(was.get(name, math.nan)), float(now.get(name, math.nan))
        yield _row(name, a, b, abs(a - b), max(abs(a), abs(b)), tolerance)


def of_signals(was: Mapping[str, NDArray[Any]], now: Mapping[str, NDArray[Any]], tolerance: float) -> Iterator[Row]:
    """The columns of a step's tokens: coefficients, weights, divergences and what else the learner saw."""
    if not all(np.array_equal(was[key], now[key]) for key in KEYS):
        a, b = float(len(was[KEYS[0]])), float(len(now[KEYS[0]]))
        yield Row("signals: which tokens", a, b, math.inf, False)
        return
    for name in was:
        if name not in (*KEYS, "turn"):
            yield of_columns(f"signals: {name}", was[name], now.get(name, np.full_like(was[name], np.nan)), tolerance)


def of_annotations(
    teacher: str, was: Sequence[Annotation], now: Sequence[Annotation], tolerance: float
) -> Iterator[Row]:
    """What a teacher said of a step's episodes, as it is on record, beside what it says when it is asked again."""
    a, b = (_columns(one) for one in (was, now))
    for name in b:
        yield of_columns(f"teacher {teacher}: {name}", a.get(name, np.zeros(0)), b[name], tolerance)


def of_columns(name: str, was: NDArray[Any], now: NDArray[Any], tolerance: float) -> Row:
    """Two columns of numbers, entry by entry; where one is not finite, the other must be the same."""
    a, b = np.asarray(was, np.float64), np.asarray(now, np.float64)
    finite = np.isfinite(a)
    if (
        a.shape != b.shape
        or not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(b[finite]).all()
    ):
        return Row(name, _mean(a), _mean(b), math.inf, False)
    apart, largest = np.abs(a - b)[finite].max(initial=0.0), np.abs(a[finite]).max(initial=0.0)
    return _row(name, _mean(a), _mean(b), float(apart), float(largest), tolerance)


def _columns(said: Sequence[Annotation]) -> dict[str, NDArray[Any]]:
    parts: dict[str, list[NDArray[Any]]] = {}
    for one in said:
        own: dict[str, NDArray[Any]] = {
            "which tokens": np.stack([one.segment_N, one.index_N]).ravel(),
            "log-probabilities": one.taken_logprob_N,
            "entropies": one.entropy_N,
            "rewards": one.reward_S,
            "skipped turns": one.skip_S,
            **one.statistics,
        }
        if isinstance(one.block, Sparse):
            own |= {
                "likeliest tokens": one.block.ids_N_K.ravel(),
                "their log-probabilities": one.block.logprob_N_K.ravel(),
                "mass outside them": np.exp(one.block.logtail_N),
            }
        for name, column in own.items():
            parts.setdefault(name, []).append(column)
    return {name: np.concatenate(columns) for name, columns in parts.items()}


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _row(name: str, a: float, b: float, apart: float, largest: float, tolerance: float) -> Row:
    difference = apart / largest if largest else apart
    if math.isnan(apart):  # not finite, or not there, on one side alone
        difference = 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else math.inf
    return Row(name, a, b, difference, difference <= tolerance or apart <= FLOOR)
