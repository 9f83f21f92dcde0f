"""What a step saw at each turn of its episodes, as numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from agentopd.evaluation import by_depth
from agentopd.objective import Rows
from agentopd.objective.signals import LOSSES, STUDENT_ENTROPY, teacher_entropy
from agentopd.training.loop.learner import Signals
from agentopd.types import Trajectory

DEEPEST = 8
"""The last turn, counted from 1, that has a number of its own; all later ones share one."""


def depth_metrics(trajectories: Sequence[Trajectory], rows: Rows, signals: Signals) -> dict[str, float]:
    """Means by turn, named ``depth/<what>/<turn>``. Turns are counted from 1; ``9+`` is all from the 9th on.

    ``tokens`` is the length of an action and ``errors`` the share of turns with a bad action, both of episodes that were played for this
    step. ``<term>/divergence`` (or what the loss is), ``student_entropy`` and ``teacher_entropy/<teacher>`` are the signals of those
    names, of all tokens that were trained on but those of corrected actions.

    Args:
        trajectories: The episodes of the step.
        rows: Their rows.
        signals: What the learner saw of each row.
    """
    turns = [turn for one in trajectories if one.origin is None for turn in one.turns]
    index = [turn.index for turn in turns]
    played_A = ~rows.corrected_A
    found = _means("tokens", index, [turn.stop - turn.start for turn in turns])
    found |= _means("errors", index, [bool(turn.errors) for turn in turns])
    for name in filter(_is_shown, signals):
        found |= _means(name, rows.turn_A[played_A], signals[name][played_A])
    return found


def _is_shown(signal: str) -> bool:
    losses = tuple(f"/{loss}" for loss in LOSSES)
    return signal == STUDENT_ENTROPY or signal.startswith(teacher_entropy("")) or signal.endswith(losses)


def _means(name: str, turn: ArrayLike, value: ArrayLike) -> dict[str, float]:
    means = by_depth(np.minimum(np.asarray(turn, np.int64), DEEPEST), value)
    return {f"depth/{name}/{depth + 1}{'+' if depth == DEEPEST else ''}": mean for depth, mean, _ in means}
