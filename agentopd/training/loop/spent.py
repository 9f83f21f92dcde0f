"""What a run takes, step by step and in all: episodes, tokens of the student, tokens of teachers, seconds. What ends it once that is enough."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState

from agentopd.config.sections import Budget
from agentopd.run_files import SPENT_EPISODES, SPENT_STUDENT, SPENT_TEACHER, STEP_SECONDS
from agentopd.types import CONTEXT, STUDENT, Record

COSTS = {
    "episodes": SPENT_EPISODES,
    "student_tokens": SPENT_STUDENT,
    "teacher_tokens": SPENT_TEACHER,
    "seconds": STEP_SECONDS,
}
"""What a run took, by the metric whose sum over its steps it is."""


def totals(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the steps of a run have taken so far, by the names of :data:`COSTS`; ``nan`` where its metrics do not tell."""
    rows = {name: [float(row[metric]) for row in history if metric in row] for name, metric in COSTS.items()}
    return {name: math.fsum(values) if values else math.nan for name, values in rows.items()}


def spent(records: Sequence[Record]) -> dict[str, float]:
    """Of the records that a step learns from.

    Episodes and the student's tokens are those that were played for it, not drawn from what was played before. Teachers' tokens are those of
    which one told a probability, each teacher's for itself, and those that others than the student wrote in the episodes that were played.
    """
    played = [record.trajectory for record in records if record.trajectory.origin is None]
    written, own = 0, 0
    for one in played:
        for segment in one.segments:
            count_A = np.bincount(segment.actor_T[segment.turn_T != CONTEXT], minlength=len(one.actors))
            written += int(count_A.sum())
            own += sum(int(count) for actor, count in zip(one.actors, count_A, strict=True) if actor == STUDENT)
    told = sum(len(said.segment_N) for record in records for said in record.annotations)
    return {
        SPENT_EPISODES: float(len(played)),
        SPENT_STUDENT: float(own),
        SPENT_TEACHER: float(told + written - own),
    }


class Spend(TrainerCallback):
    """Ends training after the step with which its budget, if it has one, is spent: with a panel and a checkpoint, where it has such."""

    def __init__(self, budget: Budget | None) -> None:
        tokens, seconds = (None, None) if budget is None else (budget.tokens, budget.seconds)
        self._most = {"student_tokens": tokens or math.inf, "seconds": seconds or math.inf}
        self._spent = dict.fromkeys(self._most, 0.0)

    def _add(self, logs: Mapping[str, Any]) -> None:
        for name in self._spent:
            self._spent[name] += float(logs.get(COSTS[name], 0.0))

    @property
    def _is_over(self) -> bool:
        return any(self._spent[name] >= most for name, most in self._most.items())

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A run that goes on has spent what its checkpoint tells; one that was ended before its last panel has no step left."""
        self._spent = dict.fromkeys(self._most, 0.0)
        for logs in state.log_history:
            self._add(logs)
        control.should_training_stop |= self._is_over

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """What is logged of a step comes before its panel and its checkpoint."""
        logs = kwargs.get("logs") or {}
        self._add(logs)
        if SPENT_STUDENT in logs and self._is_over:
            control.should_training_stop = True
            control.should_evaluate |= args.eval_strategy != "no"
            control.should_save |= args.save_strategy != "no"
