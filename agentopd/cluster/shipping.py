"""Models and annotations for Ray's object store: what their tensors hold lies there as arrays, which processes of a node share."""

import io
import pickle
import warnings
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

AUTOCAST = ("forward", "_original_forward")
"""What accelerate puts on a model that it trains in mixed precision."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A value without its tensors, and those."""

    data: bytes
    arrays: tuple[NDArray[np.uint8], ...]


def packed(value: Any) -> Packed:
    """``value``, with tensors from any device. Parameters of one model that are the same stay the same."""
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    return Packed(file.getvalue(), tuple(np.frombuffer(one.raw(), np.uint8) for one in buffers))


def unpacked(given: Packed) -> Any:
    """What was packed, on the CPU. Parameters, and tensors outside of models, lie where the arrays lie, and must not be written to."""
    return pickle.loads(given.data, buffers=given.arrays)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, value: Any) -> Any:
        if type(value) is nn.Parameter:
            return _parameter, (*_held(value), value.requires_grad)
        if type(value) is Tensor:
            return _tensor, _held(value)
        if isinstance(value, nn.Module):
            return _without_autocast(value)
        return super().reducer_override(value)


def _held(tensor: Tensor) -> tuple[pickle.PickleBuffer, torch.dtype, tuple[int, ...]]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return pickle.PickleBuffer(flat.view(torch.uint8).numpy()), tensor.dtype, tuple(tensor.shape)


def _without_autocast(module: nn.Module) -> Any:
    """How a module is made again: buffers, which models may write to, as copies."""
    make, arguments, state, *more = module.__reduce_ex__(5)
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name not in AUTOCAST}
        state["_buffers"] = {name: _Own(value) for name, value in state["_buffers"].items()}
    return make, arguments, state, *more


class _Own:
    """A tensor that whoever unpacks it may write to."""

    def __init__(self, tensor: Tensor | None) -> None:
        self._tensor = tensor

    def __reduce__(self) -> Any:
        return _copied, (self._tensor,)


def _copied(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _tensor(held: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        return torch.frombuffer(held, dtype=dtype).reshape(shape)


def _parameter(held: Any, dtype: torch.dtype, shape: tuple[int, ...], trained: bool) -> nn.Parameter:
    return nn.Parameter(_tensor(held, dtype, shape), requires_grad=trained)
