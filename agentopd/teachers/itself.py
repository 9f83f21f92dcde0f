"""A teacher that is the student itself: as it began, as it was some steps ago, or an average of what it has been."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, cast

from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from agentopd.errors import ConfigError, under
from agentopd.freezing import Twin, initial
from agentopd.teachers.base import EVERYWHERE, Teacher, TeacherContext
from agentopd.teachers.hints import Told, hint_of
from agentopd.teachers.local import LocalTeacher, reader
from agentopd.teachers.traits import Examined, Traits
from agentopd.where import Where


def _examine(given: Examined) -> None:
    _require_one_way(given.settings["average"], given.settings["interpolate"])


def _require_one_way(average: float | None, interpolate: float | None) -> None:
    if average is not None and interpolate is not None:
        raise ConfigError(
            f"average={average:g}: it follows the student, and interpolate={interpolate:g} stays between it and its start; give one of them"
        )


@Traits(model=True, initial=True, hint=True, corrects=False, rewards=False, statistics=("coverage",), examine=_examine)
def itself(
    context: TeacherContext,
    *,
    every: Annotated[int, Field(ge=1)] | None = None,
    average: Annotated[float, Field(gt=0.0, le=1.0)] | None = None,
    interpolate: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None,
    hint: Told | None = None,
    where: Where = EVERYWHERE,
    max_tokens: Annotated[int, Field(ge=1)] = 16384,
) -> Teacher:
    """The student's own weights: a reference, a previous self that acts as the opponent, or a slow teacher behind a hint.

    Fixed by default: the student as it began. With ``every`` or ``average`` it follows: after each ``every``-th optimiser step
    t <- t + average (s - t), from the teacher's weights t to the student's s; where one of the two is left out it is 1. So
    ``every`` alone is the student as it was at the last such step, the previous self of SPIN (arXiv 2401.01335), and
    ``average`` alone an exponential moving average, the teacher of SDPO (arXiv 2601.20802) at its rate 0.05. What others call
    the decay of such an average, OPSD's 0.999 (arXiv 2601.18734), is 1 - average: ``average: 0.001``. With ``interpolate`` it moves to
    t = s_0 + interpolate (s - s_0) instead, between the student as it began, s_0, and as it is: it never leaves its start for good.
    ``every: 1`` is the live student.

    A fixed one under an adapter is the student with the adapter off, which costs nothing. One that follows holds a copy of the
    parameters that are trained, and no others, and a checkpoint keeps it. A Trainer's ``teacher_model`` leaves it as it is.

    Args:
        context: What the run lends.
        every: Optimiser steps between two moves toward the student.
        average: The share of the way to the student in one move.
        interpolate: The share of the way to the student from where it began; not together with ``average``.
        hint: What its prompt says beside what the student sees, as for ``privileged``; nothing by default.
        where: The turns and tokens that it teaches; the others cost nothing.
        max_tokens: The largest number of tokens in one forward, padding included. A longer view is read alone.

    Raises:
        ConfigError: The hint is malformed, or both ``average`` and ``interpolate`` are given.
    """
    with under(f"teachers.{context.name}"):
        _require_one_way(average, interpolate)
        shown = None if hint is None else hint_of(hint, where.env)
    student = context.student()
    if every is None and average is None and interpolate is None:
        return reader(context, initial(student), where, max_tokens, shown)
    twin = Twin(student)
    start = None if interpolate is None else twin.weights
    made = partial(FollowingTeacher, every=every or 1, rate=average or interpolate or 1.0, start=start)
    return reader(context, cast(PreTrainedModel, twin), where, max_tokens, shown, made)


@dataclass(frozen=True, eq=False, kw_only=True)
class FollowingTeacher(LocalTeacher):
    """See :func:`itself`. It ``reads`` a :class:`~agentopd.freezing.Twin` of the student."""

    every: int
    rate: float
    """The share of the way to the student in one move."""
    start: dict[str, Tensor] | None = None
    """The weights that each move sets out from; ``None`` for those where the last one ended."""

    @property
    def twin(self) -> Twin:
        """The weights that follow."""
        return cast(Twin, self.reads)

    @property
    def version(self) -> int:
        """How often it moved."""
        return self.twin.steps // self.every

    def after_step(self, student: PreTrainedModel) -> None:
        """Counts the step, and moves when it is time."""
        self.twin.steps += 1
        if self.twin.steps % self.every == 0:
            if self.start is not None:
                self.twin.restore(self.start)
            self.twin.approach(self.rate)

    def state(self) -> dict[str, Any]:
        """The steps seen, and the weights; where they began, if that is where each move sets out from."""
        start = {} if self.start is None else {"start": dict(self.start)}
        return {"steps": self.twin.steps, "weights": self.twin.weights, **start}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.twin.steps = state["steps"]
        self.twin.restore(state["weights"])
        if self.start is not None:
            self.start.update(state["start"])
