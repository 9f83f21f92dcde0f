"""What can generate the student's turns: one class a kind, its fields the settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from transformers import PreTrainedModel

from agentopd.settings.signature import Registry

if TYPE_CHECKING:
    from agentopd.rollout.policy import Policy, Rollout
    from agentopd.rollout.vllm.server import Server


@dataclass(frozen=True, kw_only=True)
class Engine(ABC):
    """Makes policies of models. One's own kind is a subclass."""

    copies: ClassVar[bool] = False
    """Whether its policies hold a copy of the weights, so that a model may change while they write."""
    single: ClassVar[str] = ""
    """Why one process alone can act by it: what several "would each" do. Empty where several can."""

    @property
    def rest(self) -> Callable[[], None] | None:
        """What gives back all that turns alone take of a card, until the next one is asked for; ``None`` where nothing does.

        It is called while no turn is under way, and may raise PolicyError.
        """
        return None

    @property
    def missing(self) -> str:
        """What it needs and this process lacks, and what to do; empty where nothing is missing. It is asked before anything is fitted."""
        return ""

    @abstractmethod
    def policy(self, model: PreTrainedModel, ends: Collection[int], settings: Rollout) -> Policy:
        """What acts by ``model``.

        Args:
            model: Its weights change while it is trained; the policy is then told.
            ends: The ids that end a turn.
            settings: How turns are sampled.
        """


@dataclass(frozen=True, kw_only=True)
class TransformersEngine(Engine):
    """The model itself, in this process."""

    def policy(self, model: PreTrainedModel, ends: Collection[int], settings: Rollout) -> Policy:
        """What acts by ``model``: see :class:`agentopd.rollout.engine.TransformersPolicy`."""
        from agentopd.rollout.engine import TransformersPolicy

        return TransformersPolicy(model, ends, settings)


@dataclass(frozen=True, kw_only=True)
class Vllm(Engine):
    """Turns by a vLLM server that holds a copy of the student's weights, which follows each optimiser step."""

    copies = True
    in_flight: Annotated[int, Field(ge=1)] = 256
    """Turns that are asked for at once."""
    timeout: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds until one turn, or one change of weights, is given up."""

    def policy(self, model: PreTrainedModel, ends: Collection[int], settings: Rollout) -> Policy:
        """What acts by ``model``: see :class:`agentopd.rollout.vllm.VllmPolicy`."""
        from agentopd.rollout.vllm import VllmPolicy

        return VllmPolicy(model, ends, settings, self)

    @abstractmethod
    def server(self, model: PreTrainedModel, arguments: Sequence[str], longest: int) -> Server:
        """A server to ask. It need not have the weights yet.

        Args:
            model: The student, in no adapter.
            arguments: What one that is started for this student is told.
            longest: The tokens that an episode may have.

        Raises:
            ConfigError: There is no vLLM, or it is not as it must be.
            PolicyError: It does not start, or does not answer.
        """


@dataclass(frozen=True, kw_only=True)
class OwnVllm(Vllm):
    """Turns by a vLLM that belongs to this process."""

    arguments: tuple[str, ...] = ()
    """Further arguments of ``vllm serve``, such as ``--gpu-memory-utilization=0.4``."""
    start: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds in which it must be there."""
    sleep: bool = False
    """Whether it gives its memory on the card back while no turn is written: caches are let go, and weights wait in the host's memory."""

    @property
    def rest(self) -> Callable[[], None] | None:
        """Puts it to sleep, where it is to. It wakes when it is asked for the next turn."""
        from agentopd.rollout.vllm.server import rest_servers

        return rest_servers if self.sleep else None

    def told(self, model: PreTrainedModel, arguments: Sequence[str]) -> list[str]:
        """All arguments that it is started with for ``model``: those of the settings come last, so they count."""
        sleeps = self.sleep and model.device.type != "cpu"  # where it has nothing to give
        return [*arguments, *(["--enable-sleep-mode"] if sleeps else []), *self.arguments]


@dataclass(frozen=True, kw_only=True)
class VllmEngine(OwnVllm):
    """A vLLM server on this machine that belongs to this process: started when the student first acts, and gone with it.

    Of several processes that train each has one. It holds a copy of the student's weights, which follows each optimiser step.
    """

    python: str | None = None
    """The interpreter that vLLM is installed for; by default this one."""

    def server(self, model: PreTrainedModel, arguments: Sequence[str], longest: int) -> Server:
        """A new one."""
        from agentopd.rollout.vllm.started import started

        return started(self, model, self.told(model, arguments))


@dataclass(frozen=True, kw_only=True)
class VllmInProcessEngine(OwnVllm):
    """vLLM in this process, which is given the student's weights as they are, after each optimiser step: no server, and no files but adapters.

    It shares the interpreter with environments and learning, and an error that ends vLLM's process ends the run.
    """

    single = "hold an engine that takes torch.distributed for itself"

    @property
    def missing(self) -> str:
        """A vLLM in this interpreter, or torch.distributed, where a launcher has started this process."""
        from agentopd.rollout.vllm.in_process import missing

        return missing()

    def server(self, model: PreTrainedModel, arguments: Sequence[str], longest: int) -> Server:
        """A new one."""
        from agentopd.rollout.vllm.in_process import begun_here

        return begun_here(self, model, self.told(model, arguments))


@dataclass(frozen=True, kw_only=True)
class VllmServerEngine(Vllm):
    """A vLLM server of your own, on this machine or another, which one process uses at a time.

    It is given the student's weights through a folder that both see.
    """

    single = "give its one server their weights"

    url: Annotated[str, Field(pattern=r"^https?://")]
    """Its address, such as ``http://node-7:8000``."""
    share: Annotated[str, Field(min_length=1)]
    """A folder that the server sees under the same path; weights pass through it."""

    def server(self, model: PreTrainedModel, arguments: Sequence[str], longest: int) -> Server:
        """The one that is there."""
        from agentopd.rollout.vllm.joined import joined

        return joined(self, longest)


ENGINES: Registry = {
    "transformers": TransformersEngine,
    "vllm": VllmEngine,
    "vllm_in_process": VllmInProcessEngine,
    "vllm_server": VllmServerEngine,
}
"""Classes ``(*, settings...) -> Engine``, read by ``Kinds("engine", ENGINES)``."""
