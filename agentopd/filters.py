"""Which records are meant: one selection, for training from records, exporting them and counting in them."""

from typing import Annotated

import numpy as np
from pydantic import Field, field_validator, model_validator

from agentopd.errors import RecordError
from agentopd.settings.base import Settings
from agentopd.types import Annotation, Bools, Record
from agentopd.where import Names


class Between(Settings):
    """A range, both ends included; an end that is not given is open."""

    least: float | None = None
    """The lower end."""
    most: float | None = None
    """The upper end."""

    @model_validator(mode="after")
    def _holds_something(self) -> "Between":
        if self.least is None and self.most is None:
            raise ValueError("give least, most or both, such as {least: 0.5}")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least {self.least:g} is above most {self.most:g}, so nothing is in between")
        return self

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in it; ``nan`` lies nowhere."""
        above = self.least is None or value >= self.least
        return above and (self.most is None or value <= self.most) and not np.isnan(value)


class Measured(Between):
    """A range for the mean of what one teacher's annotation says of its tokens."""

    teacher: str
    """Whose annotation."""
    statistic: str = "entropy"
    """``entropy`` of the teacher's distribution in nats, or a statistic of the annotation, such as ``epistemic``."""


class Disagreement(Between):
    """A range for how far two teachers are apart: the mean |log q1(y) - log q2(y)| over tokens that both read, in nats."""

    teachers: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)]
    """The two."""


class Filter(Settings):
    """A selection of records. Every setting that is given must hold; an empty one is every episode that did not fail."""

    success: bool | None = None
    """Episodes that succeeded (true) or did not (false)."""
    reward: Between | None = None
    """The total reward."""
    turns: Between | None = None
    """How many turns the episode has."""
    errors: Between | None = None
    """How many bad actions the episode has: calls that were malformed, unknown or failed."""
    failed: bool | None = False
    """Episodes that an infrastructure failure ended: none, only these (true), or all (null)."""
    env: Names = ()
    """Episodes in one of these environments."""
    family: Names = ()
    """Episodes whose task is of one of these families."""
    tag: Names = ()
    """Episodes in an environment with one of these tags."""
    actor: Names = ()
    """Episodes in which one of these acted."""
    uncertainty: Measured | None = None
    """How unsure a teacher was."""
    disagreement: Disagreement | None = None
    """How far two teachers were apart."""

    @field_validator("turns", "errors")
    @classmethod
    def _counts(cls, given: Between | None) -> Between | None:
        if given is not None and given.most is not None and given.most < 0:
            raise ValueError(f"most {given.most:g}: a count is 0 or more")
        return given

    def keeps(self, record: Record) -> bool:
        """Whether ``record`` is meant.

        Raises:
            RecordError: It was not annotated by a teacher that the filter reads, or without that statistic.
        """
        return self._episode(record) and self._taught(record)

    def _episode(self, record: Record) -> bool:
        one = record.trajectory
        counted = (
            (self.reward, one.outcome.total_reward),
            (self.turns, float(len(one.turns))),
            (self.errors, float(sum(len(turn.errors) for turn in one.turns))),
        )
        return (
            (self.success is None or one.outcome.success == self.success)
            and (self.failed is None or (one.failure is not None) == self.failed)
            and (not self.env or one.task.env_id in self.env)
            and (not self.family or (one.family or one.task.env_id) in self.family)
            and (not self.tag or not set(self.tag).isdisjoint(one.task.tags))
            and (not self.actor or not {turn.actor for turn in one.turns}.isdisjoint(self.actor))
            and all(wanted is None or wanted.holds(value) for wanted, value in counted)
        )

    def _taught(self, record: Record) -> bool:
        uncertain, apart = self.uncertainty, self.disagreement
        if uncertain is not None and not uncertain.holds(_mean(record, uncertain)):
            return False
        return apart is None or apart.holds(_apart(record, *apart.teachers))


def annotation_of(record: Record, teacher: str) -> Annotation:
    """What ``teacher`` said.

    Raises:
        RecordError: Nothing.
    """
    for annotation in record.annotations:
        if annotation.teacher == teacher:
            return annotation
    given = ", ".join(annotation.teacher for annotation in record.annotations) or "no teacher"
    raise RecordError(
        f"record {record.trajectory.key} was annotated by {given}, not by {teacher!r}; add it: agentopd annotate RECORDS --teacher ..."
    )


def _mean(record: Record, wanted: Measured) -> float:
    annotation = annotation_of(record, wanted.teacher)
    if wanted.statistic == "entropy":
        values_N = annotation.entropy_N
    elif wanted.statistic in annotation.statistics:
        values_N = annotation.statistics[wanted.statistic]
    else:
        known = ", ".join(["entropy", *annotation.statistics])
        raise RecordError(
            f"uncertainty.statistic={wanted.statistic}: record {record.trajectory.key} has of {wanted.teacher!r} only: {known}"
        )
    known_N = values_N[_played(record, annotation) & ~np.isnan(values_N)]
    return float(known_N.mean()) if len(known_N) else float("nan")


def _apart(record: Record, one: str, other: str) -> float:
    first, second = (_by_token(record, annotation_of(record, name)) for name in (one, other))
    both = first.keys() & second.keys()
    return float(np.mean([abs(first[token] - second[token]) for token in both])) if both else float("nan")


def _by_token(record: Record, annotation: Annotation) -> dict[tuple[int, int], float]:
    """The log-probability of each token that was taken in the episode, by segment and position."""
    played_N = _played(record, annotation)
    columns = annotation.segment_N, annotation.index_N, annotation.taken_logprob_N
    segments, positions, logprobs = (column_N[played_N].tolist() for column_N in columns)
    return dict(zip(zip(segments, positions, strict=True), logprobs, strict=True))


def _played(record: Record, annotation: Annotation) -> Bools:
    """Which rows are tokens of the episode; the rest are what the teacher wrote itself, in segments of its own."""
    played_N: Bools = annotation.segment_N < len(record.trajectory.segments)
    return played_N
