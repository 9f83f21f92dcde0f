"""What can generate the student's turns: one class a kind, its fields the settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from transformers import PreTrainedModel

from agentopd.settings.signature import Registry

if TYPE_CHECKING:
    from agentopd.rollout.policy import Policy, Rollout


@dataclass(frozen=True, kw_only=True)
class Engine(ABC):
    """Makes policies of models. One's own kind is a subclass."""

    copies: ClassVar[bool] = False
    """Whether its policies hold a copy of the weights, so that a model may change while they write."""

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
class VllmEngine(Engine):
    """A vLLM server on this machine that belongs to this process: started when the student first acts, and gone with it.

    Of several processes that train each has one. It holds a copy of the student's weights, which follows each optimiser step.
    """

    copies = True
    python: str | None = None
    """The interpreter that vLLM is installed for; by default this one."""
    arguments: tuple[str, ...] = ()
    """Further arguments of ``vllm serve``, such as ``--gpu-memory-utilization=0.4``."""
    in_flight: Annotated[int, Field(ge=1)] = 256
    """Turns that are asked for at once."""
    start: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds in which the server must be there."""
    timeout: Annotated[float, Field(gt=0.0)] = 600.0
    """Seconds until one turn, or one change of weights, is given up."""

    def policy(self, model: PreTrainedModel, ends: Collection[int], settings: Rollout) -> Policy:
        """What acts by ``model``: see :class:`agentopd.rollout.vllm.VllmPolicy`."""
        from agentopd.rollout.vllm import VllmPolicy

        return VllmPolicy(model, ends, settings, self)


ENGINES: Registry = {"transformers": TransformersEngine, "vllm": VllmEngine}
"""Classes ``(*, settings...) -> Engine``, read by ``Kinds("engine", ENGINES)``."""
