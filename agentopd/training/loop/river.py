"""The river up to the objective: tasks become annotated trajectories, one global batch for each optimiser step.

What a step draws depends on the configuration and its seed, the step, the weights of those who act, the teachers' state, the
last step's metrics (schedules may read them, and remember) and the frozen pools; time limits aside, on nothing else. Checkpoints and the run
folder keep all of these, so a resumed run draws what the uninterrupted one would have drawn.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedModel

from agentopd.chat import Chat
from agentopd.config import Config
from agentopd.errors import ConfigError, TeacherError
from agentopd.freezing import Follower
from agentopd.objective.head import Head
from agentopd.objective.source import Source
from agentopd.objective.spec import Objective
from agentopd.profiling import span
from agentopd.rollout import TaskStream, assign, rollout_metrics
from agentopd.rollout.policy import Policy
from agentopd.rollout.stream import Lot
from agentopd.settings.choice import Choice, at, choices_in
from agentopd.settings.clock import Clock
from agentopd.settings.states import advanced
from agentopd.teachers import Prompt, Teacher, annotations_of, teaching_metrics
from agentopd.training.checks.roles import annotators
from agentopd.training.checks.unused import unused
from agentopd.training.loop.earlier import Earlier
from agentopd.training.loop.parts import Part, capped, staleness
from agentopd.training.loop.players import InTurns, player_of
from agentopd.training.loop.pool import Pool
from agentopd.training.loop.ranks import ALONE, Ranks
from agentopd.training.loop.recorded import Recorded, sourced
from agentopd.training.loop.together import annotated, rested
from agentopd.types import EXPERT, RECORDED, STUDENT, Annotation, Key, Record, Task, Trajectory

_log = logging.getLogger(__name__)

Watch: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[Trajectory], None]]]
"""Opened with a title and a number of episodes, it takes each episode that ends: a display, for instance."""


def unwatched(title: str, episodes: int) -> AbstractContextManager[Callable[[Trajectory], None]]:
    """Looks away."""
    return nullcontext(lambda _: None)


def _unnoted(trajectory: Trajectory) -> None:
    """Keeps nothing."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one step learns from."""

    step: int
    records: tuple[Record, ...]
    metrics: Mapping[str, float]
    """What was played, ``rollout/...``, and who taught what, ``teacher/...``."""


@dataclass
class River:
    """Draws global batches. ``policies`` holds the student and every teacher that can act."""

    config: Config
    run: str
    chat: Chat
    policies: Mapping[str, Policy]
    teachers: Mapping[str, Teacher]
    folder: Path | None = None
    """Where frozen episodes are kept, so that a resumed run learns from the same ones."""
    watch: Watch = unwatched
    ranks: Ranks = ALONE
    """The processes that play and ask together. Each draws the same."""
    given: Sequence[Trajectory] | None = None
    """Episodes for the frozen sources to draw from, instead of playing them."""
    follower: Follower | None = None
    """The weights that the student acts with, where they are others than those that are trained."""
    last_metrics: Mapping[str, float] = field(init=False, default_factory=dict)
    """Of the last step; empty before the first. Schedules may read them."""
    schedules: Mapping[str, Any] = field(init=False, default_factory=dict)
    """What schedules with a memory remember, by their content."""
    note: Callable[[Trajectory], None] = field(init=False, default_factory=lambda: _unnoted)
    """Takes each fresh episode as it ends, before anybody else: what keeps it through a kill."""
    played: list[Trajectory] = field(init=False, default_factory=list)
    """The fresh episodes that are over, of the step that is being drawn, or was drawn last, and of those behind it."""
    _played_by: dict[str, list[Trajectory]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._player = player_of(self.config, self.policies, self.chat, self.ranks)
        self._said: dict[str, dict[Key, Annotation]] = {}  # by teacher, of episodes that are over
        self._asked: dict[int, list[Part]] = {}
        self._counts: dict[int, dict[str, int]] = {}  # of steps that are asked for and not learned from
        self._stream = TaskStream(self.config.envs, self.config.seed, "train")
        self._annotators = annotators(self.objective, self.teachers)
        self._check_actors()
        frozen = self._of_kind("frozen")
        if self.given is not None and len(frozen) != 1:
            raise ConfigError(
                f"train_dataset: the method draws from {', '.join(frozen) or 'no frozen source'}, and episodes are given for one; "
                "give exactly one objective.sources.NAME.kind: frozen"
            )
        self._decks: dict[str, Pool | Recorded] = {name: self._pool(name, source) for name, source in frozen.items()}
        self._decks |= {name: self._recorded(name, one) for name, one in self._of_kind("recorded").items()}
        self._earlier = {name: self._replayed(name, one) for name, one in self._of_kind("replayed").items()}
        self._drawn = dict.fromkeys(self.objective.sources, 0)  # tasks that the steps before have drawn

    def _of_kind(self, kind: str) -> dict[str, Source]:
        return {name: source for name, source in self.objective.sources.items() if source.kind == kind}

    def _check_actors(self) -> None:
        for name, source in self.objective.sources.items():
            for actor in source.who:
                if actor not in self.policies and actor not in (EXPERT, RECORDED):
                    key = "actors" if actor in source.actors else "acting.by"
                    known = ", ".join([*self.policies, EXPERT])
                    raise ConfigError(
                        f"objective.sources.{name}.{key}: nobody is called {actor!r}; those who can act: {known}"
                    )

    def _pool(self, name: str, source: Source) -> Pool:
        given, tasks = self.given, range(math.ceil(source.episodes / source.per_task))

        def play() -> list[Trajectory]:
            if given is not None:
                return sourced(given, name)
            # keys of their own, which no episode of step 0 has: an `origin` is one of them
            lot = self._lot(name, source, self._stream, tasks, 0, f"{self.run}/frozen/{name}")
            with self.watch("episodes", len(lot.assignments)) as seen, self._player.paused():
                return InTurns(self.policies, self.chat, self.ranks).finish(lot, seen)

        folder = self.folder / "frozen" / name if self.folder else None
        return Pool(name, self.config.seed, source.per_task, folder, play, self.ranks)

    def _recorded(self, name: str, source: Source) -> Recorded:
        return Recorded(
            name,
            self.config.seed,
            source,
            self.folder / "recorded" / f"{name}.json" if self.folder else None,
            self.ranks,
        )

    def _replayed(self, name: str, source: Source) -> Earlier:
        if self.folder is None:
            raise ConfigError(
                f"objective.sources.{name}.kind=replayed: it draws from the run's own records, and without a folder none are kept; give the "
                "trainer a folder, or run agentopd.train"
            )
        return Earlier(name, self.config.seed, source.capacity, self.folder)

    @property
    def objective(self) -> Objective:
        """The method."""
        return self.config.objective

    @property
    def teacher_heads(self) -> dict[str, Head]:
        """The output heads of all teachers, by the names that their blocks use."""
        return {name: head for teacher in self.teachers.values() for name, head in teacher.heads.items()}

    def clock(self, step: int) -> Clock:
        """What schedules read at ``step``."""
        return Clock(step, self.config.train.steps, self.last_metrics, self.schedules)

    def draw(self, step: int) -> Drawn:
        """The annotated episodes of one global batch. What they depend on is said at the top of this module.

        Raises:
            AgentOPDError: As of :func:`agentopd.rollout.collect` and :func:`agentopd.teachers.annotate`.
        """
        self.played = [one for one in self.played if one.key.step > step]
        begin = time.monotonic()
        parts = self._parts(step)
        with span("episodes"):
            of_each = [self._finished(part) for part in parts]
        trajectories = [one for played in of_each for one in played]
        fresh = [one for part, played in zip(parts, of_each, strict=True) if part.source.plays for one in played]
        self._played_by = {
            part.name: played for part, played in zip(parts, of_each, strict=True) if part.source.kind == "fresh"
        }
        metrics = {f"rollout/{name}": value for name, value in rollout_metrics(fresh).items()}
        rested(self.ranks, self.config.rollout)
        between = time.monotonic()
        with span("annotations"), self._player.apart():
            longest = self.config.rollout.max_new_tokens
            records = annotated(self.ranks, self._annotators, trajectories, longest, self._said)
            taught = self.ranks.first(lambda: teaching_metrics(self._annotators, records))
            for one in trajectories:
                for said in self._said.values():
                    said.pop(one.key, None)
        took = {"seconds/rollout": between - begin, "seconds/teachers": time.monotonic() - between}
        for told in unused(self.config, self._annotators, trajectories) if step == 0 and self.ranks.is_first else ():
            _log.warning("%s", told)
        took |= self._player.metrics(between - begin, fresh)
        return Drawn(step, tuple(records), metrics | taught | took | staleness(fresh, step))

    def _parts(self, step: int) -> list[Part]:
        """What each source gives to ``step``; episodes of the steps behind it are begun as far ahead as may be."""
        last = min(step + self._player.ahead, max(self.config.train.steps - 1, step))
        for ahead in range(step, last + 1):
            if ahead not in self._asked:
                self._asked[ahead] = self._part_by_part(ahead)
                for part in self._asked[ahead]:
                    if part.lot is not None:
                        self._player.begin(part.lot)
        return self._asked.pop(step)

    def _part_by_part(self, step: int) -> list[Part]:
        counts = self._tasks_at(step)
        ends = accumulate(counts.values(), initial=0)  # each source has tasks of its own at every step
        parts: list[Part] = []
        for (name, source), first in zip(self.objective.sources.items(), ends, strict=False):
            parts.append(self._part(name, source, step, counts[name], first, sum(map(len, parts))))
        return parts

    def _finished(self, part: Part) -> list[Trajectory]:
        if part.lot is None:
            return part.given
        with self.watch("episodes", len(part)) as seen:
            return self._player.finish(part.lot, seen)

    def played_until(self, error: BaseException) -> list[Trajectory]:
        """The fresh episodes of a step that ``error`` ended: of all processes, where it ended them at the same place."""
        if not Ranks.is_shared(error):
            return self.played
        return [one for part in self.ranks.gather(lambda: self.played) for one in part]

    def _tasks_at(self, step: int) -> dict[str, int]:
        """The tasks of each source in ``step``, kept for :meth:`learned`; those of a replayed one that holds too little are fresh ones."""
        counts = self.config.tasks_at(self.clock(step))
        self._counts[step] = dict(counts)
        for name, earlier in self._earlier.items():
            if not earlier.ready:
                counts[str(self.objective.sources[name].of)] += counts[name]
                counts[name] = 0
        return counts

    def _drawn_before(self, name: str, step: int, count: int) -> int:
        """How many tasks the source has drawn before ``step``, where it draws ``count`` at this one: of shares that never move, a function of the step."""
        moving = any(isinstance(source.share, Choice) for source in self.objective.sources.values())
        asked = sum(counts[name] for earlier, counts in self._counts.items() if earlier < step)
        return self._drawn[name] + asked if moving else step * count

    def _part(self, name: str, source: Source, step: int, count: int, first: int, base: int) -> Part:
        """What the source gives to ``step``, of ``count`` tasks from the step's ``first`` on, keys counted from ``base``."""
        if not count:
            return Part(name, source)
        if source.kind == "fresh":
            begin = step * self.config.train.tasks_per_step + first
            indices = range(begin, begin + count)
            lot = self._lot(name, source, self._stream, indices, step, self.run, base, self._ended)
            return Part(name, source, lot=lot)
        if source.kind == "replayed":
            again = self._earlier[name].draw(step, count)
        else:
            again = self._decks[name].draw(self._drawn_before(name, step, count), count)
        if source.plays:
            tasks = [one.task for one in again]
            lot = self._lot(name, source, tasks, range(len(tasks)), step, self.run, base, self._ended, again)
            return Part(name, source, lot=lot)
        given = [
            replace(trajectory, key=Key(self.run, step, base + i), origin=trajectory.origin or trajectory.key)
            for i, trajectory in enumerate(again)
        ]
        return Part(name, source, given)

    def _ended(self, trajectory: Trajectory) -> None:
        """Notes a fresh episode that is over, and tells those who will be asked about it."""
        self.note(trajectory)
        self.played.append(trajectory)
        for name, teacher in self._annotators.items():
            if self.ranks.is_first:  # who asks servers
                teacher.begin(trajectory)
            if self._player.at_once and isinstance(teacher, Prompt) and teacher.at_once:
                with suppress(TeacherError):  # told when the whole step is annotated
                    [annotation] = annotations_of(teacher, [trajectory])
                    self._said.setdefault(name, {})[trajectory.key] = annotation

    def _lot(
        self,
        name: str,
        source: Source,
        stream: TaskStream | Sequence[Task],
        indices: Sequence[int],
        step: int,
        run: str,
        first: int = 0,
        ended: Callable[[Trajectory], None] | None = None,
        recorded: Sequence[Trajectory] = (),
    ) -> Lot:
        """The tasks ``indices`` of a stream, to be played under the shares and depths of actors of this moment.

        ``ended`` is told of each episode that is over; ``recorded`` are those that the tasks were first played in, where they are begun again.
        """
        key, clock = f"objective.sources.{name}", self.clock(step)
        actors = {actor: at(share, clock, f"{key}.actors.{actor}") for actor, share in source.actors.items()}
        seed, acting = self.config.seed, source.acts(clock)
        assignments = assign(
            stream, indices, name, actors, source.per_task, run, step, seed, first, acting, source.divided
        )
        if recorded:
            assignments = [replace(one, recorded=recorded[i // source.per_task]) for i, one in enumerate(assignments)]
        return Lot(
            assignments,
            capped(self.config.rollout, source, clock, key),
            least=step - self._player.ahead,
            advice=any(teacher.needs_expert for teacher in self._annotators.values()),
            hints={name: teacher.hint for name, teacher in self.teachers.items() if teacher.hint is not None},
            on_done=ended,
        )

    def learned(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes what was measured as ``step`` was learned from; the schedules of the next step read it, and some remember.

        Raises:
            ConfigError: A schedule watches a metric that does not exist.
        """
        counts = self._counts.pop(step, None) or self.config.tasks_at(self.clock(step))
        for name, count in counts.items():
            self._drawn[name] += count
        for name, earlier in self._earlier.items():
            earlier.note(self._played_by.get(str(self.objective.sources[name].of), ()))
        self.last_metrics = dict(metrics)
        self.schedules = advanced(choices_in(self.config), self.clock(step))

    def weights_changed(self, student: PreTrainedModel) -> None:
        """Tells policies and teachers that an optimiser step was taken."""
        with self._player.apart():
            self._player.change(lambda: self._become(student, self.policies[STUDENT].version + 1))

    def begin(self, student: PreTrainedModel, step: int) -> None:
        """Training begins, or goes on, at ``step``. Weights and steps may be others than those of the last one: it may have ended with the best."""
        self._act_by(student, step)

    def _become(self, student: PreTrainedModel, version: int) -> None:
        self._act_by(student, version)
        for teacher in self.teachers.values():
            teacher.after_step(student)
        self._tell_policies()

    def _act_by(self, student: PreTrainedModel, version: int) -> None:
        """The student acts by the weights of now, which are this version."""
        acting = student if self.follower is None else self.follower.follow(student)
        self.policies[STUDENT].update(acting, version)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it lasts no episode goes on, and the weights and the engine may be used by others."""
        with self._player.paused():
            yield

    def close(self) -> None:
        """Lets go the episodes that were begun for later steps; they are begun anew where another step is drawn."""
        self._player.close()
        self._player = player_of(self.config, self.policies, self.chat, self.ranks)
        for kept in (self._asked, self._counts, self._said):
            kept.clear()

    def _tell_policies(self) -> None:
        """Tells the policies of teachers whose weights have changed."""
        for name, teacher in self.teachers.items():
            policy = self.policies.get(name)
            if policy is not None and teacher.model is not None and policy.version != teacher.version:
                policy.update(teacher.model, teacher.version)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the Trainer's own state: plain values, and tensors of teachers."""
        teachers = {name: teacher.state() for name, teacher in self.teachers.items()}
        return {
            "last_metrics": dict(self.last_metrics),
            "schedules": dict(self.schedules),
            "version": self.policies[STUDENT].version,
            "teachers": teachers,
            "begun": dict(self._drawn),
            "earlier": {name: earlier.state() for name, earlier in self._earlier.items()},
        }

    def restore(self, state: Mapping[str, Any], student: PreTrainedModel) -> None:
        """Continues from :meth:`state`, with the weights of that moment."""
        self.last_metrics = dict(state["last_metrics"])
        self.schedules = dict(state.get("schedules", {}))  # absent where they had none to keep
        self._drawn |= state.get("begun", {})
        for name, earlier in self._earlier.items():
            earlier.restore(state["earlier"][name])
        self._act_by(student, state["version"])
        for name, teacher in self.teachers.items():
            teacher.restore(state["teachers"][name])
        self._tell_policies()
