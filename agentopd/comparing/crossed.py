"""The mean of numbers that stand in a table of seeds and tasks, both drawn from many, and what can be said of it.

Every run plays every task, so seeds and tasks are crossed. The mean has the variance A/S + B/T + E/(S T): what differs from seed to
seed, from task to task, and the rest, which includes the chance in a single episode. The interval is of a bootstrap with two levels:

- tasks are resampled with replacement, their means shrunk first to what is theirs (Davison and Hinkley, "Bootstrap Methods and their
  Application", 1997, section 3.8), since a mean over S runs still holds a share of the rest;
- seeds are too few to be resampled: three of them have ten different resamples, whose spread is too small by a factor of 0.8 and whose
  tails are a normal distribution's. In their place the seeds' mean is drawn from Student's t with S - 1 degrees of freedom around what
  was seen, as exact for normal differences as the t interval is.

A seed's mean varies by chance at least as much as the rest says. Where few seeds happen to lie closer together than that, they are taken
to vary by half of it: they lie so close by luck, and would else make an interval too narrow to believe.

The sum of both errors is the Behrens-Fisher distribution, whose intervals are conservative where the parts are estimated from few
(Robinson, Annals of Statistics 4 (1976), 963-971). To resample rows and columns of the table alike (Owen, "The pigeonhole bootstrap",
Annals of Applied Statistics 1 (2007), 386-411) is right for many seeds; with three it may call a fifth of all
equal arms different (``docs/comparing.md`` has the figures).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import t as student_t

from agentopd.evaluation import CONFIDENCE, Interval

Column = NDArray[np.float64]
RESAMPLES = 2000
"""Of the tasks."""
LEAST = 0.5
"""Of the variance that chance alone gives the means of seeds, what they have at least."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Components of the variance of a table of seeds and tasks."""

    seeds: float
    """From seed to seed, over all tasks; below 0, but not far, where seeds lie closer together than chance has it."""
    tasks: float
    """From task to task, over all seeds."""
    rest: float
    """What is left: a seed's luck with a task, and chance."""

    def of_seeds(self, seeds: int, tasks: int) -> float:
        """The part of the variance of the mean of a table of that size that more seeds make smaller."""
        return (self.seeds + self.rest / tasks) / seeds

    def of_tasks(self, tasks: int) -> float:
        """The part that they do not."""
        return self.tasks / tasks


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a table, with what is known of its error."""

    value: float
    seeds: int
    tasks: int
    spread: Spread
    error_R: Column
    """The error that the choice of tasks makes, by resample."""
    widest: float
    """The least that an interval reaches to each side. Where all numbers are equal, a task with another one may have gone unseen: the share of
    such tasks of which none is among these with a probability of 5%."""

    @property
    def scale(self) -> float:
        """The standard error that the seeds make."""
        return math.sqrt(self.spread.of_seeds(self.seeds, self.tasks))

    def below(self, x: float) -> float:
        """How probable it is that the true mean is below ``x``, a value exactly there counting half."""
        off_R = x - self.value - self.error_R
        if self.scale == 0.0:
            return float(((off_R > 0) + 0.5 * (off_R == 0)).mean())
        return float(student_t.cdf(off_R / self.scale, self.seeds - 1).mean())

    @property
    def p(self) -> float:
        """Two-sided, of the hypothesis that the true mean is 0."""
        return min(1.0, 2 * min(low := self.below(0.0), 1 - low)) if self.value else 1.0

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Of the mean."""
        tail = (1 - confidence) / 2
        low, high = self._quantile(tail), self._quantile(1 - tail)
        return Interval(min(low, self.value - self.widest), max(high, self.value + self.widest))

    def _quantile(self, share: float) -> float:
        if self.scale == 0.0:
            return self.value + float(np.quantile(self.error_R, share))
        reach = self.scale * float(student_t.isf(min(share, 1 - share), self.seeds - 1)) + np.abs(self.error_R).max()
        inside = self.value - 1.01 * reach, self.value + 1.01 * reach  # rounding must not put a quantile at an end
        return float(brentq(lambda x: self.below(x) - share, *inside, xtol=1e-9))


def crossed(value_S_T: ArrayLike) -> Mean:
    """The mean over seeds and tasks.

    Args:
        value_S_T: A number for each seed and task, at least two of each, [S, T].

    Raises:
        ValueError: It is no such table.
    """
    table_S_T = np.asarray(value_S_T, np.float64)
    if table_S_T.ndim != 2 or min(table_S_T.shape) < 2:
        raise ValueError(f"crossed: a table of shape {table_S_T.shape}; give two seeds and two tasks at least")
    seeds, tasks = table_S_T.shape
    mean, mean_S, mean_T = float(table_S_T.mean()), table_S_T.mean(axis=1), table_S_T.mean(axis=0)
    rest_S_T = table_S_T - mean_S[:, None] - mean_T + mean
    rest = float((rest_S_T**2).sum()) / ((seeds - 1) * (tasks - 1))
    of_seeds, of_tasks = tasks * float(mean_S.var(ddof=1)), seeds * float(mean_T.var(ddof=1))
    spread = Spread((max(of_seeds, LEAST * rest) - rest) / tasks, max(of_tasks - rest, 0.0) / seeds, rest)
    kept = math.sqrt(spread.tasks * seeds / of_tasks) if of_tasks else 0.0
    error_R = _weights(tasks) @ ((mean_T - mean) * kept)
    unseen = 0.0 if np.ptp(table_S_T) else 1 - (1 - CONFIDENCE) ** (1 / tasks)
    return Mean(mean, seeds, tasks, spread, error_R, unseen)


@lru_cache(maxsize=4)
def _weights(tasks: int) -> Column:
    """How much each task counts in each resample, [R, T], less its share; widened by sqrt(T / (T - 1)), or the spread of a resample is
    that of a sample of one task less."""
    drawn_R_T = np.random.default_rng(0).multinomial(tasks, np.full(tasks, 1 / tasks), RESAMPLES)
    return np.asarray((drawn_R_T / tasks - 1 / tasks) * math.sqrt(tasks / (tasks - 1)))
