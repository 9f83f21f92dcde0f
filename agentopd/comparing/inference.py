"""Many comparisons at once, and how many seeds one of them takes."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from agentopd.comparing.crossed import Spread

LEVEL = 0.05
"""How often a comparison of equal arms may be called a difference."""
POWER = 0.8
"""How often a difference is to be found."""
MOST_SEEDS = 1000
"""Beyond which nobody is told to go."""


def holm(p_K: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics 6 (1979), 65-70), in the order given.

    The k-th smallest of K is multiplied by K - k + 1, and is at least the one before it and at most 1.
    """
    order = np.argsort(p_K, kind="stable")
    scaled = np.asarray(p_K, np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]


def detectable(spread: Spread, seeds: int, tasks: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that runs of ``seeds`` seeds on ``tasks`` tasks find with probability ``power``, nearly.

    sqrt(t^2 V + z^2 W) at level / 2, and the same at 1 - power, added: V is the variance that seeds make, with Student's t of seeds - 1
    degrees of freedom, W the variance that tasks make, with the normal distribution's z. For V alone it is the usual formula of a t test.
    """
    of_seeds, of_tasks = spread.of_seeds(seeds, tasks), spread.of_tasks(tasks)
    tails = (level / 2, 1 - power)
    squares = [
        float(student_t.isf(tail, seeds - 1)) ** 2 * of_seeds + float(norm.isf(tail)) ** 2 * of_tasks for tail in tails
    ]
    return sum(map(math.sqrt, squares))


def seeds_needed(
    difference: float, spread: Spread, tasks: int, level: float = LEVEL, power: float = POWER
) -> int | None:
    """How many seeds find a true difference of this size with probability ``power``; ``None`` where even :data:`MOST_SEEDS` do not."""
    enough = [n for n in (2, MOST_SEEDS) if detectable(spread, n, tasks, level, power) <= abs(difference)]
    if not difference or MOST_SEEDS not in enough:
        return None
    low, high = 1, 2 if 2 in enough else MOST_SEEDS  # it falls with the seeds
    while high - low > 1:
        middle = (low + high) // 2
        if detectable(spread, middle, tasks, level, power) <= abs(difference):
            high = middle
        else:
            low = middle
    return high
