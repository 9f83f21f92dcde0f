"""A teacher whose word was recorded: what another said of the same episodes, read instead of asked (Lightning OPD, arXiv 2604.13010)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from agentopd import records as store
from agentopd.errors import ConfigError, TeacherError
from agentopd.filters import annotation_of
from agentopd.records import Records
from agentopd.teachers.base import Stateless, Teacher, TeacherContext, rowless
from agentopd.teachers.traits import Traits
from agentopd.types import Annotation, Record, Trajectory


@Traits(recorded=True)
def recorded(context: TeacherContext, *, records: str | None = None, teacher: str | None = None) -> Teacher:
    """Says what a teacher said of the same episodes before: in a run, or when ``agentopd annotate`` asked it. No model is loaded.

    An episode is found by the key under which it was played, and its tokens must be those that the teacher read. Of one that is not in
    the records it says nothing.

    Args:
        context: What the run lends.
        records: The records that hold its word; by default those that the method's one recorded source draws from.
        teacher: Its name there; by default its name here.
    """
    if records is None:
        raise ConfigError(
            f"teachers.{context.name}.records=null: the records of which source are meant is not known here; give a run folder"
        )
    opened = store.open(records)
    name = teacher or context.name
    first = next(iter(opened), None)
    corrects = first is not None and any(one.teacher == name and one.corrected_S for one in first.annotations)
    return RecordedTeacher(name=context.name, corrects=corrects, said_by=name, records=opened)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordedTeacher(Stateless):
    """See :func:`recorded`."""

    said_by: str
    records: Records

    @cached_property
    def _places(self) -> dict[str, list[str]]:
        """The keys of the records of each episode, by the key under which it was played."""
        table, places = self.records.table(["key", "origin"]), dict[str, list[str]]()
        for key, origin in zip(table["key"].to_pylist(), table["origin"].to_pylist(), strict=True):
            places.setdefault(origin or key, []).append(key)
        return places

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """What is recorded of each episode; nothing of one that is not in the records, or failed.

        Raises:
            TeacherError: The teacher said nothing of an episode that is, or read other tokens.
        """
        return [self._of(trajectory) for trajectory in trajectories]

    def _of(self, trajectory: Trajectory) -> Annotation:
        keys = self._places.get(str(trajectory.origin or trajectory.key))
        if trajectory.failure is not None or keys is None:
            return rowless(self.name, trajectory)
        for key in keys:  # runs in folders of one name share keys; of equal ones the first counts
            record = self.records[key]
            if same_tokens(record, trajectory):
                return replace(annotation_of(record, self.said_by), teacher=self.name)
        raise TeacherError(
            f"teacher {self.name!r}: {self.records.folder} holds an episode {keys[0]} of other tokens than those that are learned from; give the "
            "records that were made of the source's own"
        )


def same_tokens(record: Record, trajectory: Trajectory) -> bool:
    """Whether a record holds the tokens of a trajectory, segment by segment."""
    pairs = zip(record.trajectory.segments, trajectory.segments, strict=False)
    return len(record.trajectory.segments) == len(trajectory.segments) and all(
        np.array_equal(one.tokens_T, other.tokens_T) for one, other in pairs
    )
