"""What is looked at: a configuration, and all that is made of it, each once and when it is first asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentopd.chat import Chat
from agentopd.config import Config
from agentopd.config.asked import grouped_by
from agentopd.errors import AgentOPDError
from agentopd.freezing import initial
from agentopd.models import ModelConfig, head_of
from agentopd.offloading import moved, on_device
from agentopd.rollout import TaskStream, assign, collect
from agentopd.rollout.policy import Generation, Policy, Request
from agentopd.rollout.scripted import ScriptedPolicy
from agentopd.settings.choice import Choice
from agentopd.teachers import EVERYWHERE, Teacher, TeacherContext, build_teachers, members_of
from agentopd.teachers.local import reader
from agentopd.training.checks.preflight import without_experts
from agentopd.training.checks.roles import used_teachers
from agentopd.training.loop.build import build_policy
from agentopd.training.run.stages import student_of, teacher_of, tokenizer_of
from agentopd.types import EXPERT, STUDENT, Trajectory

Made = TypeVar("Made")

TURNS = 3
"""Turns of the student in the episodes that are looked at."""
PATIENCE = 5.0
"""Seconds for which a server is waited for."""
READ, WRITTEN = 15.0, 40.0
"""Seconds until a request is given up: of a server that reads alone, and of one that writes its answer."""
TOKENS = 4096
"""Tokens that are read at once."""


class UnavailableError(AgentOPDError):
    """Something that a check needs could not be made, which another check has told."""


@dataclass(frozen=True, slots=True)
class Played:
    """An episode, and what its actor generated, turn by turn."""

    trajectory: Trajectory
    generated: tuple[tuple[int, ...], ...]


class Recorded:
    """A policy, and what it generated for each episode."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.generated: dict[int, list[tuple[int, ...]]] = {}

    @property
    def version(self) -> int:
        """Of the policy."""
        return self._policy.version

    def act(self, requests: Sequence[Request]) -> list[Generation]:
        """As the policy does."""
        generations = self._policy.act(requests)
        for request, generation in zip(requests, generations, strict=True):
            forced = generation.forced or [False] * len(generation.tokens)
            chosen = tuple(token for token, one in zip(generation.tokens, forced, strict=True) if not one)
            self.generated.setdefault(request.episode, []).append(chosen)
        return generations

    def release(self, episodes: Sequence[int]) -> None:
        """As the policy does."""
        self._policy.release(episodes)

    def update(self, model: PreTrainedModel, version: int) -> None:
        """As the policy does."""
        self._policy.update(model, version)


@dataclass
class Patient:
    """A setup. What cannot be made raises its own error the first time, :class:`UnavailableError` after that."""

    config: Config
    notes: list[str] = field(default_factory=list)
    """What was said while things were made: of weights that no stage has fitted yet, for instance."""
    too_large: str = ""
    """Why weights are not loaded; empty where they are."""
    _made: dict[str, Any] = field(default_factory=dict, repr=False)
    _broken: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        """No server is waited for long."""
        hurried = {name: _impatient(choice) for name, choice in self.config.teachers.items()}
        self.config = self.config.model_copy(update={"teachers": hurried})

    def once(self, what: str, make: Callable[[], Made]) -> Made:
        """What ``make`` made the first time."""
        if what in self._broken:
            raise UnavailableError(f"it needs {what}: see above")
        if what not in self._made:
            try:
                self._made[what] = make()
            except Exception:
                self._broken.add(what)
                raise
        made: Made = self._made[what]
        return made

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's."""
        return self.once("the tokenizer", lambda: tokenizer_of(self.config, self.notes.append))

    @property
    def chat(self) -> Chat:
        """How conversations are put to the tokenizer."""
        return self.once("the chat template", lambda: self.config.chat(self.tokenizer))

    @property
    def device(self) -> torch.device:
        """Where models read."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def student(self) -> PreTrainedModel:
        """As training begins with it, but for a stage that no run has made."""

        def make() -> PreTrainedModel:
            self._require_room()
            return moved(student_of(self.config, self.tokenizer, self.notes.append, fits=False), self.device)

        return self.once("the student", make)

    def _require_room(self) -> None:
        if self.too_large:
            raise UnavailableError(self.too_large)

    @property
    def choices(self) -> Mapping[str, Choice]:
        """The teachers that the method uses."""
        return self.once("the method's teachers", lambda: used_teachers(self.config))

    def teacher(self, name: str) -> Teacher:
        """One of them, made; those that it reads with it."""

        def make() -> Teacher:
            names = [name, *members_of(self.choices[name])]
            return build_teachers(
                {one: self.choices[one] for one in names},
                self.chat,
                self._load,
                self.config.temperature,
                lambda: initial(self.student),
                lambda: self.student,
                self.device,
                vocabulary=len(head_of(self.student).weight_V_H),
            )[name]

        return self.once(f"teachers.{name}", make)

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Those that could be made."""
        return dict(self._whole_teachers())

    def _whole_teachers(self) -> Iterator[tuple[str, Teacher]]:
        for name in self.choices:
            try:
                yield name, self.teacher(name)
            except Exception:  # told by the check of that teacher
                continue

    def _load(self, wanted: ModelConfig) -> PreTrainedModel:
        self._require_room()
        model = teacher_of(self.config, wanted, self.tokenizer, self.notes.append, fits=False)
        return on_device(model, wanted, self.device)

    def mirror(self, name: str) -> Teacher:
        """The student as a teacher of that name."""
        copy = self.once("a copy of the student", lambda: initial(self.student))
        context = TeacherContext(name, self.chat, self._load, self.config.temperature)
        return reader(context, copy, EVERYWHERE, TOKENS)

    @property
    def by_student(self) -> list[Played]:
        """An episode of the student in each environment, of a few turns; two of one task where a teacher compares such."""
        per_task = 2 if any(map(grouped_by, self.config.teachers.values())) else 1
        return self.once("the student's episodes", lambda: self._play(STUDENT, TURNS, per_task))

    @property
    def intact(self) -> list[Trajectory]:
        """Those of them that did not fail."""
        found = [one.trajectory for one in self.by_student if one.trajectory.failure is None]
        if not found:
            raise UnavailableError("it needs an episode of the student that did not fail: see episodes")
        return found

    @property
    def by_expert(self) -> list[Played]:
        """An episode of the environment's own expert, where all environments have one; else none."""
        if without_experts(self.config):
            return []
        return self.once("the expert's episodes", lambda: self._play(EXPERT, self.config.rollout.max_turns))

    def _play(self, actor: str, turns: int, per_task: int = 1) -> list[Played]:
        config, rollout = self.config, self.config.rollout
        settings = rollout.model_copy(update={"max_turns": min(turns, rollout.max_turns)})
        policy = Recorded(ScriptedPolicy() if actor == EXPERT else build_policy(self.student, self.chat, settings))
        assignments = [
            one
            for place, env in enumerate(config.envs)
            for one in assign(
                TaskStream([env], config.seed, "train"),
                [0],
                "fresh",
                {actor: 1.0},
                per_task,
                "doctor",
                0,
                config.seed,
                place * per_task,
            )
        ]
        played = collect(assignments, {actor: policy}, self.chat, settings, advice=True)
        return [Played(one, tuple(policy.generated.get(i, ()))) for i, one in enumerate(played)]


def _impatient(choice: Choice) -> Choice:
    limits = {"patience": PATIENCE, "timeout": READ if choice.kind == "served" else WRITTEN}
    given = {name: choice.settings.get(name) for name in limits}
    lowered = {name: min(float(one), limits[name]) for name, one in given.items() if isinstance(one, float | int)}
    return replace(choice, settings={**choice.settings, **lowered})
