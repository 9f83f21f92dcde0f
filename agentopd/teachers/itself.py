"""A teacher that is the student itself: as it began, as it was some steps ago, or an average of what it has been."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

from pydantic import Field
from transformers import PreTrainedModel

from agentopd.chat import Hint
from agentopd.errors import under
from agentopd.freezing import Twin, initial
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.local import LocalTeacher, reader
from agentopd.teachers.traits import Traits
from agentopd.where import Where


@Traits(model=True, initial=True, hint=True, corrects=False, rewards=False, statistics=("coverage",))
def itself(
    context: TeacherContext,
    *,
    every: Annotated[int, Field(ge=1)] | None = None,
    average: Annotated[float, Field(gt=0.0, le=1.0)] | None = None,
    hint: str | None = None,
    where: Where = EVERYWHERE,
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
) -> Teacher:
    """The student's own weights: a reference, a previous self that acts as the opponent, or a slow teacher behind a hint.

    Fixed by default: the student as it began. With ``every`` or ``average`` it follows: after each ``every``-th optimiser step
    t <- t + average (s - t), from the teacher's weights t to the student's s; where one of the two is left out it is 1. So
    ``every`` alone is the student as it was at the last such step, the previous self of SPIN (arXiv 2401.01335), and
    ``average`` alone an exponential moving average, the teacher of SDPO (arXiv 2601.20802) at its rate 0.05. What others call
    the decay of such an average, OPSD's 0.999 (arXiv 2601.18734), is 1 - average: ``average: 0.001``.

    A fixed one under an adapter is the student with the adapter off, which costs nothing. One that follows holds a copy of the
    parameters that are trained, and no others, and a checkpoint keeps it. A Trainer's ``teacher_model`` leaves it as it is.

    Args:
        context: What the run lends.
        every: Optimiser steps between two moves toward the student.
        average: The share of the way to the student in one move.
        hint: What its prompt says beside what the student sees, as for ``privileged``; nothing by default.
        where: The turns and tokens that it teaches; the others cost nothing.
        max_tokens: The largest number of tokens in one forward, padding included. A longer view is read alone.

    Raises:
        ConfigError: The hint is malformed.
    """
    with under(f"teachers.{context.name}"):
        shown = None if hint is None else Hint(hint, where.env)
    student = context.student()
    if every is None and average is None:
        return reader(context, initial(student), where, max_tokens, shown)
    made = partial(FollowingTeacher, every=every or 1, average=average or 1.0)
    return reader(context, cast(PreTrainedModel, Twin(student)), where, max_tokens, shown, made)


@dataclass(frozen=True, eq=False, kw_only=True)
class FollowingTeacher(LocalTeacher):
    """See :func:`itself`. Its ``model`` is a :class:`~agentopd.freezing.Twin` of the student."""

    every: int
    average: float

    @property
    def twin(self) -> Twin:
        """The weights that follow."""
        return cast(Twin, self.model)

    @property
    def version(self) -> int:
        """How often it moved."""
        return self.twin.steps // self.every

    def after_step(self, student: PreTrainedModel) -> None:
        """Counts the step, and moves when it is time."""
        self.twin.steps += 1
        if self.twin.steps % self.every == 0:
            self.twin.approach(self.average)

    def state(self) -> dict[str, Any]:
        """The steps seen, and the weights."""
        return {"steps": self.twin.steps, "weights": self.twin.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.twin.steps = state["steps"]
        self.twin.restore(state["weights"])
