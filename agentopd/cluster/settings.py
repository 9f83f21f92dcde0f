"""What of a run is placed on a Ray cluster, and what it takes there."""

from importlib.util import find_spec
from typing import Annotated

from pydantic import Field

from agentopd.errors import ConfigError
from agentopd.settings.base import Settings

Amount = Annotated[float, Field(ge=0.0)]


class Place(Settings):
    """How many actors there are, and what each of them takes of a node. Ray places them, on as many nodes as it can."""

    actors: int = Field(1, ge=1)
    cpus: Amount = 1.0
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
    patience: float = Field(300.0, gt=0.0)
    """Seconds that actors are waited for: at the start all of them, later until there is one again."""

    @property
    def places(self) -> dict[str, Place]:
        """All places, by their keys."""
        rollout = {} if self.rollout is None else {"cluster.rollout": self.rollout}
        return rollout | {f"cluster.teachers.{name}": place for name, place in self.teachers.items()}

    def check(self) -> None:
        """Raises ConfigError where something is placed and there is no Ray."""
        if self.places and find_spec("ray") is None:
            key = next(iter(self.places))
            raise ConfigError(f'{key}: Ray is not installed; pip install "agentopd[ray]", or leave cluster out')
