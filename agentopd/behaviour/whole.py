"""Behaviour beside loss: what the student does in its episodes, added up in memory that does not grow with their number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from agentopd.behaviour.group import DIVERGENCE, Group
from agentopd.errors import RecordError
from agentopd.filters import Filter
from agentopd.records import Records
from agentopd.types import EXPERT, Record

By: TypeAlias = Literal["step", "env", "family", "version"]
"""What groups are made by."""
ALL = "all"
"""The group of all records that are meant."""

KEYS: Mapping[By, Callable[[Record], list[str]]] = {
    "step": lambda record: [str(record.trajectory.key.step)],
    "env": lambda record: [record.trajectory.task.env_id],
    "family": lambda record: [record.trajectory.family or record.trajectory.task.env_id],
    "version": lambda record: [str(record.trajectory.turns[0].policy_version)] if record.trajectory.turns else [],
}
"""The groups of a record; an episode is of the version of the policy that acted first in it."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What was counted."""

    whole: Group
    groups: Mapping[str, Group]
    """By step, environment, family or version, in order; empty unless asked for."""
    by: By | None
    signals: bool
    """Whether a step had signals with a divergence."""

    @property
    def missing(self) -> list[str]:
        """What is not told, and why, one sentence each."""
        group, told = self.whole, list[str]()
        if not group.against:
            told.append(
                "agreement of tool calls: no turn has a teacher's correction or an expert's advice; a run keeps advice where a "
                "teacher or the sampler reads it (method=dagger), and agentopd annotate RECORDS asks a teacher of the kind openai"
            )
        if not any(taught.kl.n for taught in group.teachers.values()):
            told.append(
                "KL to a teacher: no annotation has log-probabilities of tokens that the student drew; see agentopd annotate"
            )
        if not self.signals:
            told.append(
                "divergence by term: no step has signals of a term with a teacher's distribution; a run keeps them with records.signals=true"
            )
        if not any(taught.in_top.n for taught in group.teachers.values()):
            told.append(
                "the token taken among the teacher's likeliest: no annotation holds these (block sparse, ids of teacher or union)"
            )
        if not any(taught.overlap.n for taught in group.teachers.values()):
            told.append(
                "overlap of likeliest tokens: no annotation holds the student's and the teacher's (block sparse, ids: union)"
            )
        if not group.tools:
            told.append("outcomes of tools: no turn has any; files from before they were recorded lack them")
        if group.drawn:
            told.append(
                f"how many different episodes these are: {group.drawn} of the {group.episodes} records were drawn from episodes played before, each "
                "counts, and where several are of one the intervals are too narrow"
            )
        return told


def behaviour(
    records: Records, keep: Filter | None = None, teacher: str | None = None, by: By | None = None
) -> Behaviour:
    """Adds up what the records hold.

    Args:
        records: Of one run.
        keep: Which of them are meant; by default all that did not fail.
        teacher: The only teacher that calls and tokens are held against; ``expert`` is the environment's own.
        by: Whether to count in groups, too.

    Raises:
        RecordError: None is meant, or ``teacher`` said nothing of any, or a file is damaged.
    """
    if by is not None and by not in get_args(By):
        raise RecordError(f"by={by!r}: there are {', '.join(get_args(By))}")
    keep, whole, groups, names, signalled = keep or Filter(), Group(), dict[str, Group](), set[str](), False
    for record, signals in records.with_signals():
        if not keep.keeps(record):
            continue
        signalled |= any(name.endswith(DIVERGENCE) for name in signals)
        names |= {annotation.teacher for annotation in record.annotations}
        whole.add(record, signals, teacher)
        for name in KEYS[by](record) if by else ():
            groups.setdefault(name, Group()).add(record, signals, teacher)
    if not whole.episodes:
        raise RecordError(f"{records.folder}: none of its {len(records)} records is meant; loosen the filter")
    if teacher is not None and teacher not in names | {EXPERT}:
        raise RecordError(
            f"teacher={teacher!r} annotated none of these records; those who did: {', '.join(sorted(names)) or 'nobody'}"
        )
    return Behaviour(whole, _ordered(groups), by, signalled)


def _ordered(groups: Mapping[str, Group]) -> dict[str, Group]:
    """By number where all names are numbers, else by name."""
    numbers = all(name.isdecimal() for name in groups)
    return {name: groups[name] for name in sorted(groups, key=lambda one: (int(one), one) if numbers else (0, one))}
