"""The output head: what turns a model's last hidden states into logits."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """An output head as plain tensors, so that logits can be formed a chunk of rows at a time, outside the model."""

    weight_V_H: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    """Multiplies the logits (Cohere's ``logit_scale``, the inverse of Granite's ``logits_scaling``)."""
    softcap: float | None = None
    """Logits become ``softcap * tanh(logits / softcap)``, after scaling (Gemma 2, arXiv 2408.00118)."""

    def logits(self, hidden_N_H: Tensor) -> Tensor:
        """The logits [N, V] of hidden states [N, H] after the final norm (any leading shape)."""
        return self.shaped(self.projected(hidden_N_H))

    def projected(self, hidden_N_H: Tensor) -> Tensor:
        """The matrix product and the bias alone: what costs."""
        return linear(hidden_N_H, self.weight_V_H, self.bias_V)

    def shaped(self, projected_N_V: Tensor) -> Tensor:
        """Logits of what was projected: its scale and soft-cap."""
        scaled_N_V = projected_N_V if self.scale == 1.0 else projected_N_V * self.scale
        return scaled_N_V if self.softcap is None else self.softcap * torch.tanh(scaled_N_V / self.softcap)
