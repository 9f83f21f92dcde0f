"""The output head: what turns a model's last hidden states into logits."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from agentopd.objective.floor import FLOOR


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

    def fitted(self, size: int) -> Self:
        """The head over the first ``size`` ids: those beyond are cut off, and those that it lacks have no probability.

        Models of one tokenizer fill their heads up to different sizes. A soft-cap would give what is lacking a probability, so such a head
        stays as narrow as it is.
        """
        lacking, bias_V = size - len(self.weight_V_H), self.bias_V
        if lacking <= 0:
            return replace(self, weight_V_H=self.weight_V_H[:size], bias_V=None if bias_V is None else bias_V[:size])
        if self.softcap is not None:
            return self
        nothing = max(FLOOR, torch.finfo(self.weight_V_H.dtype).min / 4)
        kept_V = self.weight_V_H.new_zeros(len(self.weight_V_H)) if bias_V is None else bias_V
        weight_V_H = pad(self.weight_V_H, (0, 0, 0, lacking))
        return replace(self, weight_V_H=weight_V_H, bias_V=pad(kept_V, (0, lacking), value=nothing))

    def slope(self, logits_N_V: Tensor) -> float | Tensor:
        """The derivative of logits in what was projected: scale * (1 - (logits / softcap)^2)."""
        if self.softcap is None:
            return self.scale
        return (logits_N_V / self.softcap).square_().neg_().add_(1.0).mul_(self.scale)

    def gathered(self) -> Self:
        """The head with whole parameters: a sharded one (``DTensor``) is gathered, from every process of its mesh.

        Its gradient goes back to the shards as the mean over the processes, as DDP and FSDP average those of the body.
        """
        return replace(
            self, weight_V_H=_whole(self.weight_V_H), bias_V=None if self.bias_V is None else _whole(self.bias_V)
        )


@dataclass(slots=True, eq=False)
class Scratch:
    """Memory for the logits of one chunk of rows after another: a fresh block each costs a CPU a fault for every page."""

    memory: Tensor | None = field(default=None, init=False)

    def rows(self, size: int, like_N_H: Tensor, columns: int) -> Tensor:
        """[size, columns], uninitialised, of the dtype and device of ``like_N_H``; what it gave before is overwritten."""
        if self.memory is None or self.memory.dtype != like_N_H.dtype or self.memory.numel() < size * columns:
            self.memory = None
            self.memory = like_N_H.new_empty(size * columns)
        return self.memory[: size * columns].view(size, columns)


class Projector:
    """The matrix products of a head with chunks of hidden states, without gradient, in the dtype that autocast asks for."""

    def __init__(self, head: Head, hidden_A_H: Tensor, scratch: Scratch | None = None) -> None:
        device = hidden_A_H.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        bias_V = None if head.bias_V is None else head.bias_V.detach().to(dtype)
        self.head = replace(head, weight_V_H=head.weight_V_H.detach().to(dtype), bias_V=bias_V)
        self.hidden_A_H = hidden_A_H.detach().to(dtype)
        self.scratch = Scratch() if scratch is None else scratch

    def __call__(self, rows: slice) -> Tensor:
        """[N, V] of the rows ``rows``, before scale and soft-cap; in memory that the next call overwrites."""
        hidden_N_H, weight_V_H = self.hidden_A_H[rows], self.head.weight_V_H
        out_N_V = self.scratch.rows(len(hidden_N_H), hidden_N_H, len(weight_V_H))
        if self.head.bias_V is None:
            return torch.mm(hidden_N_H, weight_V_H.T, out=out_N_V)
        return torch.addmm(self.head.bias_V, hidden_N_H, weight_V_H.T, out=out_N_V)


def _whole(parameter: Tensor) -> Tensor:
    if type(parameter) in (Tensor, nn.Parameter):
        return parameter
    from torch.distributed.tensor import DTensor  # slow to import, and seldom needed

    return _Gathered.apply(parameter) if isinstance(parameter, DTensor) else parameter  # type: ignore[no-untyped-call]


class _Gathered(torch.autograd.Function):
    """A sharded tensor as a whole one."""

    @staticmethod
    def forward(ctx: Any, sharded: Any) -> Tensor:
        ctx.mesh, ctx.placements = sharded.device_mesh, sharded.placements
        return sharded.full_tensor()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        from torch.distributed.tensor import DTensor, Partial

        share = grad_outputs[0] / ctx.mesh.size()
        parts = DTensor.from_local(share, ctx.mesh, [Partial()] * ctx.mesh.ndim, run_check=False)
        return parts.redistribute(ctx.mesh, ctx.placements)
