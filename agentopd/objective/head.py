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

    def logits(self, hidden_N_H: Tensor, weight_V_H: Tensor | None = None, bias_V: Tensor | None = None) -> Tensor:
        """The logits [N, V] of hidden states [N, H] (any leading shape).

        Args:
            hidden_N_H: Hidden states after the final norm.
            weight_V_H: Stands in for the head's own weight, for instance a detached leaf that collects a gradient.
            bias_V: Stands in for the head's own bias.
        """
        weight_V_H = self.weight_V_H if weight_V_H is None else weight_V_H
        logits_N_V = linear(hidden_N_H, weight_V_H, self.bias_V if bias_V is None else bias_V)
        if self.scale != 1.0:
            logits_N_V = logits_N_V * self.scale
        return logits_N_V if self.softcap is None else self.softcap * torch.tanh(logits_N_V / self.softcap)
