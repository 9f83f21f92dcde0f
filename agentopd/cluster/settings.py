"""What of a run is placed on a Ray cluster, and what it takes there."""

from importlib.util import find_spec
from typing import Annotated

from pydantic import Field

from agentopd.cluster.connection import connected
from agentopd.errors import ConfigError
from agentopd.settings.base import Settings

Amount = Annotated[float, Field(ge=0.0)]


class Place(Settings):
    """How many actors there are, and what each of them takes of a node. Ray places them, on as many nodes as it can."""

    actors: int = Field(1, ge=1)
    """How many."""
    cpus: Amount = 1.0
    """Of each."""
    gpus: Amount = 0.0
    """Above 0 the actor's model is on a GPU."""
    resources: dict[str, Annotated[float, Field(gt=0.0)]] = {}
    """Resources of one's own, by the names that ``ray start --resources`` gave them: they say on which nodes."""

    @property
    def asked(self) -> dict[str, float]:
        """All of it, by Ray's names."""
        return {"CPU": self.cpus, "GPU": self.gpus} | self.resources


class Cluster(Settings):
    """What is placed on the Ray cluster that ``RAY_ADDRESS`` names; without it, one that is begun on this machine."""

    rollout: Place | None = None
    """Actors that write the student's turns, each with an engine and a copy of the weights; ``null``: this process does."""
    teachers: dict[str, Place] = {}
    """Actors that hold a teacher's model, by the teacher's name; others are in this process."""
    environments: Place | None = None
    """Actors that hold the environments of episodes, each in a thread or a process as ``rollout.isolation`` says; ``null``: this process does."""
    patience: float = Field(300.0, gt=0.0)
    """Seconds that actors are waited for: at the start all of them, later until there is one again."""

    @property
    def places(self) -> dict[str, Place]:
        """All places, by their keys."""
        parts = {"cluster.rollout": self.rollout, "cluster.environments": self.environments}
        teachers = {f"cluster.teachers.{name}": place for name, place in self.teachers.items()}
        return {key: place for key, place in parts.items() if place is not None} | teachers

    def check(self) -> None:
        """Joins the cluster, where something is placed.

        Raises:
            ConfigError: There is no Ray, or no cluster.
        """
        if not self.places:
            return
        if find_spec("ray") is None:
            key = next(iter(self.places))
            raise ConfigError(f'{key}: Ray is not installed; pip install "agentopd[ray]", or leave cluster out')
        connected()
