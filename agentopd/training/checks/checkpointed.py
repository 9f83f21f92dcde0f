"""Layers that keep their input alone and are computed anew in the backward pass: what transformers' TrainingArguments say of them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch.utils.checkpoint import checkpoint

from agentopd.errors import ConfigError
from agentopd.settings.problems import nearest

KEY = "gradient_checkpointing_kwargs"
TAKEN = ("every_n_layers", "offload")
"""What transformers takes of them; the rest goes to torch's own ``checkpoint``."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Which layers those are."""

    every: int = 1
    """Of so many layers the first; the others keep everything."""
    offload: bool = False
    """Whether the inputs that are kept wait in the host's memory."""

    def count(self, layers: int) -> int:
        """How many of a model's layers."""
        return math.ceil(layers / self.every)


def checkpoints(arguments: Mapping[str, Any]) -> Checkpoints | None:
    """What ``arguments``, by the names of TrainingArguments, say; ``None`` where every layer keeps everything.

    Raises:
        ConfigError: The first forward pass that is learned from would not take it, or nothing would read it.
    """
    given = _read(arguments.get(KEY) or {})
    known = {*TAKEN, *signature(checkpoint).parameters} - {"function", "args", "kwargs"}
    for name in given:
        if name not in known:
            raise ConfigError(f"{KEY}.{name}: checkpointed layers take no such argument{nearest(name, known)}")
    every = given.get("every_n_layers", 1)
    if not isinstance(every, int) or every < 1:
        raise ConfigError(
            f"{KEY}.every_n_layers={every!r}: give a whole number from 1 on, or leave it out for every layer"
        )
    if arguments.get("gradient_checkpointing"):
        return Checkpoints(every, bool(given.get("offload")))
    if given:
        raise ConfigError(
            f"{KEY}={given!r}: no layer is checkpointed; add gradient_checkpointing: true, or leave it out"
        )
    return None


def _read(given: Any) -> dict[str, Any]:
    """A mapping, or JSON of one, which TrainingArguments take too."""
    try:
        return dict(json.loads(given) if isinstance(given, str) else given)
    except (TypeError, ValueError):
        raise ConfigError(f"{KEY}={given!r}: give a mapping, such as {{every_n_layers: 2}}") from None
