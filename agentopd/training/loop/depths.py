"""What a step saw at each turn of its episodes, as numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentopd.evaluation import by_depth
from agentopd.objective import Prepared, Rows
from agentopd.objective.signals import CURRENT_LOGPROB, LOSSES, STUDENT_ENTROPY, UNCERTAINTY, WEIGHT, teacher_entropy
from agentopd.training.loop.learner import Signals
from agentopd.types import Trajectory

DEEPEST = 8
"""The last turn, counted from 1, that has a number of its own; all later ones share one."""


def depth_metrics(trajectories: Sequence[Trajectory], rows: Rows, signals: Signals) -> dict[str, float]:
    """Means by turn, named ``depth/<what>/<turn>``. Turns are counted from 1; ``9+`` is all from the 9th on.

    ``tokens`` is the length of an action and ``errors`` the share of turns with a bad action, both of episodes that were played for this
    step. ``<term>/divergence`` (or what the loss is), ``<term>/weight``, ``student_entropy`` and ``teacher_entropy/<teacher>`` are the
    signals of those names, and ``disagreement/<teacher>``, ``epistemic/<teacher>`` and ``aleatoric/<teacher>`` what ``signals.py`` says,
    of all tokens that were trained on but those of corrected actions.

    Args:
        trajectories: The episodes of the step.
        rows: Their rows.
        signals: What the learner saw of each row, and the :func:`weights_of` its terms.
    """
    turns = [turn for one in trajectories if one.origin is None for turn in one.turns]
    index = [turn.index for turn in turns]
    played_A = ~rows.corrected_A
    found = _means("tokens", index, [turn.stop - turn.start for turn in turns])
    found |= _means("errors", index, [bool(turn.errors) for turn in turns])
    shown = _told(rows, signals) | {name: column for name, column in signals.items() if _is_shown(name)}
    for name, column in shown.items():
        found |= _means(name, rows.turn_A[played_A], column[played_A])
    return found


def weights_of(prepared: Prepared) -> dict[str, NDArray[np.float32]]:
    """The weight of each row in each term that has weights, ``nan`` where the term does not train the row."""
    return {
        f"{term.name}/{WEIGHT}": np.where(term.learns_A, term.weight_A, np.nan).astype(np.float32)
        for term in prepared.terms
        if term.term.weight
    }


def _told(rows: Rows, signals: Signals) -> dict[str, NDArray[Any]]:
    """What each teacher tells of its doubts on the rows that were trained on."""
    told: dict[str, NDArray[Any]] = {}
    if CURRENT_LOGPROB not in signals:
        return told
    current_A = signals[CURRENT_LOGPROB]
    for teacher, said in rows.teachers.items():
        statistics = {**said.statistics, "disagreement": np.abs(current_A - said.taken_logprob_A)}
        named = {f"{name}/{teacher}": statistics[name] for name in UNCERTAINTY if name in statistics}
        told |= {teacher_entropy(teacher): said.entropy_A, **named}
    return {name: np.where(np.isfinite(column) & ~np.isnan(current_A), column, np.nan) for name, column in told.items()}


def _is_shown(signal: str) -> bool:
    losses = tuple(f"/{seen}" for seen in (*LOSSES, WEIGHT))
    return signal == STUDENT_ENTROPY or signal.startswith(teacher_entropy("")) or signal.endswith(losses)


def _means(name: str, turn: ArrayLike, value: ArrayLike) -> dict[str, float]:
    means = by_depth(np.minimum(np.asarray(turn, np.int64), DEEPEST), value)
    return {f"depth/{name}/{depth + 1}{'+' if depth == DEEPEST else ''}": mean for depth, mean, _ in means}
