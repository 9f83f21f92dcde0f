"""What several seeds, episodes or comparisons allow to be said: areas under curves, their intervals, and the levels of many tests."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

import agentopd.comparing.inference as comparing
from agentopd.comparing.crossed import Spread

Column: TypeAlias = NDArray[np.float64]


def auroc(score_N: Column, positive_N: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: how often a positive scores higher than a negative, a tie counting half; ``nan`` without either."""
    low_N = np.sort(score_N[~positive_N])
    below_N = np.searchsorted(low_N, score_N[positive_N], "left") + np.searchsorted(low_N, score_N[positive_N], "right")
    return float(below_N.mean() / 2 / len(low_N)) if len(below_N) and len(low_N) else math.nan


def clustered(
    cluster_N: NDArray[np.int64], statistic: Callable[[NDArray[np.int64]], float], draws: int = 1000, seed: int = 0
) -> Column:
    """The bootstrap distribution of ``statistic`` of row indices, whole clusters drawn with replacement: rows of one episode belong together."""
    rows = [np.flatnonzero(cluster_N == cluster) for cluster in np.unique(cluster_N)]
    random = np.random.default_rng(seed)
    drawn = (random.integers(len(rows), size=len(rows)) for _ in range(draws))
    return np.array([statistic(np.concatenate([rows[i] for i in chosen])) for chosen in drawn])


def holm_levels(p_K: Sequence[float], level: float) -> list[float]:
    """The level at which Holm's procedure tests each of the hypotheses, if it comes so far: level / (K - k + 1) for the k-th smallest p-value."""
    rank = np.argsort(np.argsort(p_K, kind="stable"), kind="stable")
    return [float(level / (len(p_K) - k)) for k in rank]


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences of pairs of runs, one a seed: their mean, standard deviation and number."""

    mean: float
    spread: float
    n: int

    @property
    def error(self) -> float:
        """Of the mean."""
        return self.spread / math.sqrt(self.n)

    @property
    def p(self) -> float:
        """Two-sided, of Student's t test that the mean is 0; 1 where all differences are 0."""
        if self.spread == 0.0:
            return float(self.mean == 0.0)
        return float(2 * student_t.sf(abs(self.mean) / self.error, self.n - 1))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Of the mean, by Student's t."""
        half = float(student_t.isf((1 - confidence) / 2, self.n - 1)) * self.error
        return self.mean - half, self.mean + half


def paired(difference_N: ArrayLike) -> Paired:
    """Differences, one a seed, at least two. Seeds are the units: what tasks of one run have in common does not pass for many runs."""
    values_N = np.asarray(difference_N, np.float64)
    return Paired(float(values_N.mean()), float(values_N.std(ddof=1)), len(values_N))


def detectable(spread: float, n: int, level: float, power: float = 0.8) -> float:
    """The smallest true mean of ``n`` differences that a two-sided t test at ``level`` finds with probability ``power``, nearly."""
    return comparing.detectable(Spread(spread**2, 0.0, 0.0), n, 1, level, power)
