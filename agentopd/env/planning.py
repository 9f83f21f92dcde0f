"""Optimal play of small games by value iteration on their tables of transitions, as Gymnasium's toy-text games have them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt

Outcome: TypeAlias = tuple[float, int, float, bool]
"""Probability, next state, reward, and whether the episode is over."""
Table: TypeAlias = Mapping[int, Mapping[int, Sequence[Outcome]]]
"""Outcomes by state and action, both counted from 0: what Gymnasium calls ``P``."""
Values: TypeAlias = npt.NDArray[np.float64]

TIE = 1e-9
"""Values that are closer are the same: they differ by rounding, and by where the iteration stopped."""
PRECISION = 1e-13
"""Of values, as a share of the largest reward."""
DISCOUNT = 0.999


def values_of(table: Table, discount: float = DISCOUNT) -> Values:
    """The optimal values [states, actions], read-only: ``Q(s, a) = sum p (r + discount * max Q(s', .))``, nothing after the end.

    Args:
        table: Of all transitions. Each state has the same actions.
        discount: Of what comes a step later, below 1.
    """
    states, actions = len(table), len(table[0])
    most = max(len(outcomes) for of_state in table.values() for outcomes in of_state.values())
    to_SAK = np.zeros((states, actions, most), dtype=np.int64)
    chance_SAK, rewards_SA = np.zeros((states, actions, most)), np.zeros((states, actions))
    for state, of_state in table.items():
        for action, outcomes in of_state.items():
            for k, (probability, to, reward, over) in enumerate(outcomes):
                rewards_SA[state, action] += probability * reward
                to_SAK[state, action, k], chance_SAK[state, action, k] = to, 0.0 if over else probability
    least = PRECISION * max(1.0, float(np.abs(rewards_SA).max()))
    values_SA, change = rewards_SA, np.inf
    while change > least:
        newer_SA = rewards_SA + discount * (chance_SAK * values_SA.max(axis=1)[to_SAK]).sum(axis=2)
        change = float(np.abs(newer_SA - values_SA).max())
        values_SA = newer_SA
    values_SA.setflags(write=False)
    return values_SA


def best(values_A: Values) -> list[int]:
    """The actions of a state that none is better than, in order."""
    return [int(action) for action in np.flatnonzero(values_A > values_A.max() - TIE)]


class Planner:
    """The expert of an environment that has its whole table as ``P`` and its state as ``s``; it plans when it is first asked."""

    def __init__(self, env: gymnasium.Env[Any, Any]):
        self._game: Any = env.unwrapped
        self._planned: tuple[Table, Values] | None = None

    @staticmethod
    def fits(env: gymnasium.Env[Any, Any]) -> bool:
        """Whether ``env`` has such a table."""
        return isinstance(getattr(env.unwrapped, "P", None), Mapping)

    def start(self) -> None:
        """Nothing is kept of an episode."""

    def took(self, action: int) -> None:
        """Nothing is kept of an episode."""

    def __call__(self) -> int:
        """The first of the best actions at the state, counted from 0."""
        table = self._game.P
        if self._planned is None or self._planned[0] is not table:
            self._planned = (table, values_of(table))
        return best(self._planned[1][int(self._game.s)])[0]
