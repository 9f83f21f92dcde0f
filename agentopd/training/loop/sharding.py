"""A student that is trained in shards: FSDP2, torch's ``fully_shard``.

Beside the student stands a copy of it of which each process holds a share: that one learns. The student itself stays whole, for it acts and
is read by teachers, where processes generate different numbers of tokens and cannot wait for each other at every layer; after each
optimiser step it takes the values of the copy. So gradients, what the optimizer keeps and one copy of the weights are shared out; the
student itself must fit one device.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def sharded(student: nn.Module, processes: int) -> nn.Module:
    """A copy of ``student`` of whose parameters each process holds a share; layers are gathered one by one as they are needed."""
    made = copy.deepcopy(student)
    mesh = init_device_mesh(next(made.parameters()).device.type, (processes,))
    layers = set(getattr(student, "_no_split_modules", None) or ())
    for module in [one for one in made.modules() if type(one).__name__ in layers]:
        fully_shard(module, mesh=mesh)
    fully_shard(made, mesh=mesh)
    return made


@torch.no_grad()
def hand_over(giver: nn.Module, taker: nn.Module) -> None:
    """Gives ``taker`` the values of what ``giver`` trains; one of the two is :func:`sharded` from the other. All processes do it together."""
    given = dict(giver.named_parameters())
    for name, parameter in taker.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(_like(whole(given[name]), parameter))


def whole(value: Any) -> Any:
    """A sharded tensor as a whole one, gathered from all processes; anything else as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_state(state: Any) -> Any:
    """The state of an optimizer with whole tensors on the CPU: that of a single process."""
    return _mapped(state, lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value)


def shard_state(optimizer: torch.optim.Optimizer) -> None:
    """Shards an optimizer's state, read from a checkpoint of a single process, as its parameters are."""
    for parameter, held in optimizer.state.items():
        held.update({name: _like(value, parameter) for name, value in held.items()})


def _like(value: Any, parameter: Tensor) -> Any:
    """``value`` in shards as ``parameter``, of whose size it is; a number of steps, for instance, as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or isinstance(value, DTensor):
        return value
    if value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with each leaf of its dictionaries and lists changed, in an order that all processes have."""
    if isinstance(value, dict):
        return {key: _mapped(one, change) for key, one in value.items()}
    return [_mapped(one, change) for one in value] if isinstance(value, list) else change(value)
