"""What stands for the logarithm of 0, and settings that may be one number a row."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

FLOOR = -1.0e6
"""Stands for log 0: keeps 0 * log 0 at zero, in values and gradients, and is far below any log-probability that matters."""


def floored(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """Both log-probabilities, no lower than ``FLOOR``."""
    return logp.clamp_min(FLOOR), logq.clamp_min(FLOOR)


def column(setting: float | Tensor) -> float | Tensor:
    """A setting as it multiplies [..., V]: one number a row, [...], stands in a column."""
    return setting.unsqueeze(-1) if isinstance(setting, Tensor) else setting


def columns(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they multiply [..., V]."""
    return {name: column(value) for name, value in settings.items()}
