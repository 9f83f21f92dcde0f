"""What a teacher is: it reads finished trajectories and says something beside them; it never changes them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from transformers import PreTrainedModel

from agentopd.chat import Chat, Hint
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig
from agentopd.objective.head import Head
from agentopd.teachers.identity import Identity
from agentopd.types import Annotation, Bools, Floats, Sampled, Segment, Trajectory
from agentopd.where import Where

CPU = torch.device("cpu")
EVERYWHERE = Where()
"""Every turn: the default of every kind."""


def nobody() -> PreTrainedModel:
    """Where a run lends no student."""
    raise ConfigError("there is no student to be taught by; give the teacher a model")


def alone(name: str) -> "Teacher":
    """Where there are no other teachers."""
    raise ConfigError(f"there is no other teacher, so none is called {name!r}; make them together, with build_teachers")


@dataclass(frozen=True, slots=True)
class TeacherContext:
    """What the run lends to the function that makes a teacher."""

    name: str
    """The teacher's name in the configuration; terms name it as their target."""
    chat: Chat
    load: Callable[[ModelConfig], PreTrainedModel]
    """Gives a model, on the run's device."""
    temperature: float
    """The temperature at which student and teacher are compared."""
    initial: Callable[[], PreTrainedModel] = nobody
    """Gives the student as it is before training, for ever: without its adapter where it has one, else a copy."""
    student: Callable[[], PreTrainedModel] = nobody
    """Gives the student itself, on the run's device, whose weights change as it is trained."""
    other: Callable[[str], "Teacher"] = alone
    """Gives another teacher of the run by its name."""
    device: torch.device = CPU
    """The run's device, for a model that ``load`` does not give."""
    folder: Path | None = None
    """Where it may keep what a resumed run shall find again, such as what was spent."""
    answers: Path | None = None
    """The folder of answers that were paid for, where they are kept for others too; by default ``folder``."""
    vocabulary: int | None = None
    """How many ids the student's head has, its tokenizer's and perhaps rows that fill it up; ``None`` where that is not known."""


class Teacher(Protocol):
    """Says what it thinks of turns. One that keeps no state derives from :class:`Stateless`."""

    @property
    def name(self) -> str:
        """The teacher's name in the configuration."""

    @property
    def where(self) -> Where:
        """The turns and tokens that it teaches."""

    @property
    def corrects(self) -> bool:
        """Whether its annotations hold corrected actions."""

    @property
    def needs_expert(self) -> bool:
        """Whether rollout must record, as ``turn.advice``, what the environment's expert would have done."""

    @property
    def heads(self) -> Mapping[str, Head]:
        """The output heads that its dense blocks name."""

    @property
    def model(self) -> PreTrainedModel | None:
        """A model that can also act, where there is one."""

    @property
    def hint(self) -> Hint | None:
        """What it is shown of an episode's privileged facts, in what it reads and where it acts."""

    @property
    def version(self) -> int:
        """How often the weights that it reads and acts by have changed: caches of what was read before die then."""

    @property
    def identity(self) -> Identity | None:
        """What decides what it says of a trajectory, beside that, its chat and its temperature; what it said is then kept and never asked
        again. ``None`` where asking costs nothing, or where what it says of one trajectory depends on others, or changes."""

    def begin(self, trajectory: Trajectory) -> None:
        """Hears that an episode is over, which :meth:`annotate` will be asked about: what is done elsewhere may start meanwhile."""

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """One annotation for each trajectory, in the same order; an empty one for a trajectory that failed."""

    def after_step(self, student: PreTrainedModel) -> None:
        """Sees the student after each optimiser step."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep: plain values and tensors, in dictionaries by text and in lists."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state`."""


@runtime_checkable
class Combining(Teacher, Protocol):
    """A teacher that reads what others of the run said. They speak first, and are asked though no term may name them."""

    @property
    def members(self) -> Mapping[str, Teacher]:
        """Those whom it reads."""

    def combine(self, trajectories: Sequence[Trajectory], said: Mapping[str, Sequence[Annotation]]) -> list[Annotation]:
        """As :meth:`annotate`, where ``said`` tells what each member annotated on these trajectories."""


@runtime_checkable
class Telling(Protocol):
    """What a teacher may have beside its other methods: numbers of its own for the metrics of a step."""

    def metrics(self) -> Mapping[str, float]:
        """What it did since this was last called, by names of its own; each is the metric ``teacher/<its name>/<that name>``."""


@runtime_checkable
class Spending(Protocol):
    """What a teacher that costs something may have beside its other methods."""

    def spending(self) -> str:
        """What it has cost in all, in words."""


@runtime_checkable
class Prompt(Protocol):
    """What a teacher may have that can speak of an episode as soon as it is over."""

    @property
    def at_once(self) -> bool:
        """Whether what it says of an episode depends neither on others nor on weights that are trained, so that it may be asked, in another
        thread, while the student learns from earlier ones."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Stateless:
    """A base for teachers that learn nothing and keep nothing; subclasses add ``annotate``."""

    name: str
    where: Where = EVERYWHERE
    corrects: bool = False
    needs_expert: bool = False
    heads: Mapping[str, Head] = field(default_factory=dict)
    model: PreTrainedModel | None = None
    hint: Hint | None = None

    @property
    def version(self) -> int:
        """No weights change."""
        return 0

    @property
    def identity(self) -> Identity | None:
        """Costs nothing to ask."""
        return None

    def begin(self, trajectory: Trajectory) -> None:
        """Waits to be asked."""

    def after_step(self, student: PreTrainedModel) -> None:
        """Follows nothing."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""

    def metrics(self) -> Mapping[str, float]:
        """Nothing to tell."""
        return {}


def does(teacher: Teacher, method: str) -> bool:
    """Whether a teacher has a method of its own, where :class:`Stateless` does nothing."""
    return getattr(type(teacher), method) is not getattr(Stateless, method)


def turns_of(where: Where, trajectory: Trajectory) -> Bools:
    """The turns that ``where`` selects, by who acted in them and their segment's source too, [S]; none of a failed episode."""
    selected_S = where.turns(trajectory)
    for s, turn in enumerate(trajectory.turns):
        selected_S[s] &= trajectory.failure is None
        selected_S[s] &= not where.actor or turn.actor in where.actor
        selected_S[s] &= not where.source or trajectory.segments[turn.segment].source in where.source
    return selected_S


def tokens_of(where: Where, trajectory: Trajectory, segment: Segment) -> Bools:
    """The action tokens of ``segment`` that ``where`` selects, each by its own actor, [T]; none of a failed episode."""
    acted_T = segment.turn_T >= 0
    if trajectory.failure is not None or (where.source and segment.source not in where.source):
        return np.zeros_like(acted_T)
    selected_T = acted_T.copy()
    selected_T[acted_T] = where.turns(trajectory)[segment.turn_T[acted_T]]
    if where.actor:
        actors = np.array(trajectory.actors, dtype=np.str_)
        selected_T[acted_T] &= np.isin(actors[segment.actor_T[acted_T]], where.actor)
    return selected_T


def rowless(
    teacher: str,
    trajectory: Trajectory,
    *,
    reward_S: Floats | None = None,
    skip_S: Bools | None = None,
    corrected_S: tuple[str | None, ...] = (),
    segments: tuple[Segment, ...] = (),
) -> Annotation:
    """An annotation without rows; by default it says nothing and skips every turn."""
    nothing_N = np.zeros(0, dtype=np.float32)
    return Annotation(
        teacher,
        segment_N=np.zeros(0, dtype=np.int32),
        index_N=np.zeros(0, dtype=np.int32),
        block=Sampled(),
        taken_logprob_N=nothing_N,
        entropy_N=nothing_N,
        reward_S=np.full(len(trajectory.turns), np.nan, dtype=np.float32) if reward_S is None else reward_S,
        skip_S=np.ones(len(trajectory.turns), dtype=np.bool_) if skip_S is None else skip_S,
        corrected_S=corrected_S,
        segments=segments,
    )
