"""Teachers whose models lie in actors: trajectories go there, and what is said of them comes back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel

from agentopd.chat import Chat
from agentopd.cluster.pool import Actor, ActorPool, pool_of
from agentopd.cluster.settings import Cluster
from agentopd.errors import ConfigError, TeacherError
from agentopd.models import ModelConfig
from agentopd.objective.head import Head
from agentopd.offloading import on_device
from agentopd.settings.choice import Choice
from agentopd.teachers import Prompt, Stateless, Teacher, build_teachers, does
from agentopd.types import Annotation, Trajectory


@dataclass(frozen=True, slots=True)
class Setup:
    """What an actor makes its teacher of."""

    name: str
    choice: Choice
    chat: Chat
    temperature: float
    vocabulary: int
    model: PreTrainedModel
    device: str

    def made(self) -> Teacher:
        """The teacher, with its model on the device."""
        device = torch.device(self.device)

        def load(wanted: ModelConfig) -> PreTrainedModel:
            return on_device(self.model, wanted, device)

        choices = {self.name: self.choice}
        made = build_teachers(choices, self.chat, load, self.temperature, device=device, vocabulary=self.vocabulary)
        return made[self.name]


class Annotator(Actor):
    """What runs in an actor: one teacher."""

    def __init__(self) -> None:
        self._setup: Any = None
        self._teacher: Teacher | None = None

    def annotate(self, setup: Sequence[Any], trajectories: Sequence[Trajectory]) -> Any:
        """One annotation for each trajectory, packed.

        Args:
            setup: The reference of a packed :class:`Setup`; it is fetched where the teacher is another than the last.
            trajectories: What the student did.
        """
        import ray

        from agentopd.cluster.shipping import packed, unpacked

        if self._teacher is None or setup[0] != self._setup:
            self._teacher = None  # it goes before the next comes
            self._setup, self._teacher = setup[0], unpacked(ray.get(setup[0])).made()
        return packed(list(self._teacher.annotate(trajectories)))


@dataclass(frozen=True, eq=False, kw_only=True)
class ActorTeacher(Stateless):
    """Speaks through actors, each of which is asked about some of the tasks. Its output heads are here too; it does not act."""

    pool: ActorPool
    setup: Any
    """A reference to the packed :class:`Setup`."""
    at_once: bool = field(default=False)

    def annotate(self, trajectories: Sequence[Trajectory]) -> list[Annotation]:
        """As the teacher itself.

        Raises:
            TeacherError: It failed, or there are no actors.
        """
        self.pool.gather()
        places: dict[str, list[int]] = {}  # episodes of one task together: a hint may show one's siblings
        for place, one in enumerate(trajectories):
            places.setdefault(one.task.id, []).append(place)
        there: list[int | None] = [*self.pool.there] or [None]
        seats = [there[number % len(there)] for number in range(len(places))]
        works = [[trajectories[place] for place in some] for some in places.values()]
        answers = self.pool.ask(self._said, works, seats)
        said: dict[int, Annotation] = {}
        for some, answer in zip(places.values(), answers, strict=True):
            said |= zip(some, answer.result(), strict=True)
        return [said[place] for place in range(len(trajectories))]

    def _said(self, actor: Any, works: list[list[Trajectory]]) -> list[list[Annotation]]:
        import ray

        from agentopd.cluster.shipping import unpacked

        everything = [one for some in works for one in some]
        said = iter(unpacked(ray.get(actor.annotate.remote([self.setup], everything))))
        return [list(islice(said, len(some))) for some in works]


def placed(
    cluster: Cluster,
    choices: Mapping[str, Choice],
    chat: Chat,
    load: Callable[[ModelConfig], PreTrainedModel],
    temperature: float,
    vocabulary: int,
    device: torch.device,
) -> dict[str, Teacher]:
    """The teachers of a run that the cluster holds.

    Args:
        cluster: Where they are placed.
        choices: What the configuration chose, by name, of those that are.
        chat: The student's messages and tokens.
        load: Gives a model; it is needed here until it has been sent.
        temperature: The temperature at which student and teacher are compared.
        vocabulary: How many ids the student's head has.
        device: The run's, where heads are read.

    Raises:
        ConfigError: One learns while the run goes on; or as :func:`agentopd.teachers.build_teachers`.
    """
    return {
        name: _placed(cluster, name, one, chat, load, temperature, vocabulary, device) for name, one in choices.items()
    }


def _placed(
    cluster: Cluster,
    name: str,
    choice: Choice,
    chat: Chat,
    load: Callable[[ModelConfig], PreTrainedModel],
    temperature: float,
    vocabulary: int,
    device: torch.device,
) -> Teacher:
    from agentopd.cluster.connection import connected
    from agentopd.cluster.shipping import packed

    models: list[PreTrainedModel] = []

    def loaded(wanted: ModelConfig) -> PreTrainedModel:
        models.append(load(wanted))
        return models[-1]

    made = build_teachers({name: choice}, chat, loaded, temperature, vocabulary=vocabulary)[name]
    changing = [method for method in ("begin", "after_step", "metrics") if does(made, method)]
    if changing or len(models) != 1:
        what = f"it has {changing[0]}" if changing else f"it loads {len(models)} models"
        raise ConfigError(
            f"cluster.teachers.{name}: a teacher of kind {choice.kind} cannot be placed, since {what}; leave it out"
        )
    place, ray = cluster.teachers[name], connected()
    setup = Setup(name, choice, chat, temperature, vocabulary, models[0], "cuda" if place.gpus else "cpu")
    return ActorTeacher(
        name=name,
        where=made.where,
        heads={one: _on(head, device) for one, head in made.heads.items()},
        hint=made.hint,
        pool=pool_of(f"cluster.teachers.{name}", Annotator, place, cluster.patience, TeacherError),
        setup=ray.put(packed(setup, f"cluster.teachers.{name}")),
        at_once=isinstance(made, Prompt) and made.at_once,
    )


def _on(head: Head, device: torch.device) -> Head:
    """The head alone, without the model around it."""
    bias_V = None if head.bias_V is None else head.bias_V.detach().to(device)
    return replace(head, weight_V_H=head.weight_V_H.detach().to(device), bias_V=bias_V)
