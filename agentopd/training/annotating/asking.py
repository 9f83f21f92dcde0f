"""Asks teachers about episodes, and the store before them."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agentopd.config import Config
from agentopd.errors import ConfigError
from agentopd.records import thin
from agentopd.records.store import Store
from agentopd.serving.waiting import RefusedError
from agentopd.teachers import Combining, Identity, Teacher, annotate, rowless
from agentopd.teachers.asking import OF_THIS
from agentopd.teachers.identity import digest, read_of
from agentopd.teachers.views import UnreadableError
from agentopd.training.annotating.question import Question
from agentopd.types import Annotation, Key, Trajectory

_log = logging.getLogger(__name__)

TOGETHER = 8
"""Episodes that are asked about together, at least. What was said of them is kept at once: a kill loses what is on its way, and no more."""
AHEAD = 64
"""Episodes that teachers hear of before they are asked about them: what is done elsewhere goes on meanwhile."""

UNADVISED = (
    "the records hold no advice of the environments' experts, who are asked only while episodes are played, and only for a method that "
    "learns from them; play such episodes (method=dagger), or choose another teacher"
)
"""Why nobody can repeat what an expert would have done."""

Said = dict[str, Annotation]
"""What teachers said of one episode, by their names."""


@dataclass
class Asking:
    """Teachers, with what they said before."""

    asked: Question
    teachers: Mapping[str, Teacher]
    chat_digest: str
    store: Store
    anew: dict[str, int] = field(init=False)
    """How many episodes each teacher was asked about."""
    unread: dict[str, str] = field(default_factory=dict)
    """Why a teacher could not read the last episodes that it could not read, by its name."""
    _decides: dict[str, str | None] = field(init=False)
    _begun: set[Key] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.anew = dict.fromkeys(self.teachers, 0)
        self._decides = {name: self._decision(teacher) for name, teacher in self.teachers.items()}
        self._heads = {name: head for teacher in self.teachers.values() for name, head in teacher.heads.items()}
        self._units = together(self.teachers)

    @property
    def config(self) -> Config:
        """The run's, with these teachers."""
        return self.asked.config

    def _decision(self, teacher: Teacher) -> str | None:
        """What decides an annotation beside the episode; ``None`` where it is not kept."""
        identity = getattr(teacher, "identity", None)  # a class of one's own may know nothing of it
        if identity is None:
            return None
        if not isinstance(identity, Identity):
            found = type(identity).__name__
            raise ConfigError(
                f"teachers.{teacher.name}: its identity is a {found}; return agentopd.teachers.Identity or None"
            )
        who = identity.text
        if identity.numbers:
            who = self.store.known(identity.text, identity.numbers, identity.tolerance)
        asked = self.asked
        limits = [self.config.temperature, self.config.rollout.max_new_tokens, asked.block, asked.k]
        return digest(who, self.chat_digest, limits)

    def __call__(self, trajectories: Sequence[Trajectory], on_done: Callable[[int], None]) -> list[Said]:
        """What every teacher says of each episode, in their order; ``on_done`` hears how many are done.

        Raises:
            TeacherError: A teacher failed. What was said so far is kept in the store.
        """
        keys = [self._keys(trajectory) for trajectory in trajectories]
        said = [self._kept(one) for one in keys]
        order = [i for some in groups(trajectories) for i in some]
        done = 0
        for some in groups(trajectories):
            for i in order[done : done + AHEAD]:
                self._begin(trajectories[i], said[i])
            self._ask([trajectories[i] for i in some], [keys[i] for i in some], [said[i] for i in some])
            done += len(some)
            on_done(done)
        return [{name: one[name] for name in self.teachers} for one in said]

    def _keys(self, trajectory: Trajectory) -> dict[str, str]:
        read = read_of(trajectory)
        return {name: digest(decides, read) for name, decides in self._decides.items() if decides is not None}

    def _kept(self, keys: Mapping[str, str]) -> Said:
        """What the store knows, signed with the names that the teachers have here."""
        found = {name: self.store.get(key) for name, key in keys.items()}
        return {name: signed(one, name) for name, one in found.items() if one is not None}

    def _begin(self, trajectory: Trajectory, said: Said) -> None:
        if trajectory.key not in self._begun:
            self._begun.add(trajectory.key)
            for name in self._missing(said):
                self.teachers[name].begin(trajectory)

    def _missing(self, said: Said) -> list[str]:
        """Who is to be asked: those who share a unit with somebody whose word is missing."""
        return [name for unit in self._units if not unit <= said.keys() for name in self.teachers if name in unit]

    def _ask(self, trajectories: Sequence[Trajectory], keys: Sequence[Mapping[str, str]], said: Sequence[Said]) -> None:
        """Fills what is missing in ``said``, and keeps it."""
        for unit in self._units:
            rows = [i for i, one in enumerate(said) if not unit <= one.keys()]
            if not rows:
                continue
            teachers, asked = {n: t for n, t in self.teachers.items() if n in unit}, [trajectories[i] for i in rows]
            fresh = self._answers(teachers, asked)
            for i, one in zip(rows, fresh or [_nothing(teachers, trajectory) for trajectory in asked], strict=True):
                said[i].update(one)
            pairs = zip(rows, fresh or [], strict=False)
            self.store.put({keys[i][name]: one[name] for i, one in pairs for name in one if name in keys[i]})
            for name in unit:
                self.anew[name] += len(rows)

    def _answers(self, teachers: Mapping[str, Teacher], trajectories: Sequence[Trajectory]) -> list[Said] | None:
        """What ``teachers`` say now, thinned; ``None`` of episodes none of which one can read, which nobody is to repeat unasked."""
        unadvised = all(turn.advice is None for trajectory in trajectories for turn in trajectory.turns)
        if unadvised and any(teacher.needs_expert for teacher in teachers.values()):
            self.unread |= dict.fromkeys(teachers, UNADVISED)
            return None
        try:
            made = annotate(teachers, trajectories, self.config.rollout.max_new_tokens)
        except (UnreadableError, RefusedError) as error:
            if isinstance(error, RefusedError) and not self._goes_on(teachers, error):
                raise
            _log.warning("%s; these %d episodes are skipped", error, len(trajectories))
            self.unread |= dict.fromkeys(teachers, str(error))
            return None
        heads, temperature = self._heads, self.config.temperature
        kept = [thin(one, self.asked.block, self.asked.k, heads, temperature) for one in made]
        return [{one.teacher: one for one in record.annotations} for record in kept]

    def _goes_on(self, teachers: Mapping[str, Teacher], error: RefusedError) -> bool:
        """Whether others of the episodes may be answered, and a refusal is not kept for good as the teachers' word."""
        return error.status in OF_THIS and all(self._decides[name] is None for name in teachers)


def _nothing(teachers: Mapping[str, Teacher], trajectory: Trajectory) -> Said:
    return {name: rowless(name, trajectory) for name in teachers}


def groups(trajectories: Sequence[Trajectory]) -> list[list[int]]:
    """Which episodes are asked about together, ``TOGETHER`` or more but for the last: those of one task always are."""
    by_task: dict[str, list[int]] = {}
    for i, trajectory in enumerate(trajectories):
        by_task.setdefault(trajectory.task.id, []).append(i)
    made: list[list[int]] = []
    for same in by_task.values():
        if made and len(made[-1]) < TOGETHER:
            made[-1] += same
        else:
            made.append(list(same))
    return made


def together(teachers: Mapping[str, Teacher]) -> list[frozenset[str]]:
    """Those who must speak together: whoever reads others with those whom it reads; each of the rest alone."""
    units = [frozenset([name]) for name in teachers]
    for name, teacher in teachers.items():
        if isinstance(teacher, Combining):
            own = {name, *teacher.members}
            joined = frozenset().union(*(unit for unit in units if not unit.isdisjoint(own)))
            units = [*(unit for unit in units if unit.isdisjoint(own)), joined]
    return units


def signed(annotation: Annotation, name: str) -> Annotation:
    """``annotation`` as said by the teacher ``name``."""
    return replace(annotation, teacher=name)
