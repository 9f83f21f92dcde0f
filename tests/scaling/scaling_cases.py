"""Simulated sweeps whose law is known."""

from collections.abc import Sequence

import numpy as np

from agentopd.scaling.laws import LAWS, Floats
from agentopd.scaling.points import Point

SIZES = np.geomspace(2e5, 2e7, 5)
BUDGETS = np.array([600.0, 1200.0, 2400.0, 4800.0])
TRUE = np.array([0.08, 0.12, 0.35, 0.10, 0.6])
"""E, A, a_N, B, b_D of the saturating law, at the geometric means of :data:`SIZES` and :data:`BUDGETS`."""
BOTH = ("parameters", "episodes")


def places(
    sizes: Sequence[float] | Floats = SIZES, budgets: Sequence[float] | Floats = BUDGETS
) -> list[dict[str, float]]:
    """Every size with every budget; teachers tell 50 tokens an episode."""
    return [
        {"parameters": float(size), "episodes": float(count), "teacher_tokens": 50.0 * float(count)}
        for size in sizes
        for count in budgets
    ]


def law(x: Sequence[dict[str, float]], true: Floats = TRUE, form: str = "saturating") -> Floats:
    """The law's y at places."""
    reference = {name: np.exp(np.log(values).mean()) for name, values in zip(BOTH, (SIZES, BUDGETS), strict=True)}
    x_M_K = np.log([[one[name] / reference[name] for name in BOTH] for one in x])
    y_M: Floats = np.exp(LAWS[form].evaluate(np.log(true)[None], x_M_K)[0][0])
    return y_M


def simulated(
    seed: int, x: Sequence[dict[str, float]], y_M: Floats, seeds: int = 3, tasks: int = 200, apart: float = 0.08
) -> list[Point]:
    """Runs of which each fails a binomial number of tasks, with a rate that lies ``apart`` by seed, relatively."""
    random = np.random.default_rng(seed)
    rate_S_M = np.clip(y_M * np.exp(apart * random.standard_normal((seeds, len(x)))), 0, 1)
    failed_S_M = random.binomial(tasks, rate_S_M)
    return [
        Point(f"point {place}", at, tuple((failed_S_M[:, place] / tasks).tolist()), tasks) for place, at in enumerate(x)
    ]
