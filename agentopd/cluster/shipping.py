"""Models and annotations for Ray's object store: what their tensors hold lies there as arrays, which processes of a node share."""

import copy
import io
import pickle
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from agentopd.errors import ConfigError, first_line
from agentopd.quantization import is_packed

TRAINING = ("forward", "_original_forward", "_output_capturing_hooks_installed")
"""What libraries put on a model in this process alone: accelerate, which trains it in mixed precision, and transformers, whose hooks see
what layers give. Both are put on again where they are needed."""
CAPTURING = "transformers.utils.output_capturing"
"""The module of those hooks."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A value without its tensors, and those."""

    data: bytes
    arrays: tuple[NDArray[np.uint8], ...]


def packed(value: Any, key: str = "cluster") -> Packed:
    """``value``, with tensors from any device. Parameters of one model that are the same stay the same.

    Raises:
        ConfigError: Something in it cannot be sent to another process; the message begins with ``key``.
    """
    file, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    try:
        _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ConfigError(f"{key}: it cannot be sent to another process ({first_line(error)}); leave it out") from error
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
            return _module(value)
        return super().reducer_override(value)


def _held(tensor: Tensor) -> tuple[pickle.PickleBuffer, torch.dtype, tuple[int, ...]]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    held: Any = flat.view(torch.uint8).numpy()
    return pickle.PickleBuffer(held), tensor.dtype, tuple(tensor.shape)


def _module(module: nn.Module) -> Any:
    """How a module is made again: buffers, which models may write to, as copies."""
    if is_packed(module):
        raise TypeError("its weights are in four bits")
    made: Any = module.__reduce_ex__(5)
    make, arguments, state, *more = made
    if isinstance(state, dict):
        state = {name: value for name, value in state.items() if name not in TRAINING}
        state["_buffers"] = {name: _Own(value) for name, value in state["_buffers"].items()}
        hooks = state["_forward_hooks"].items()
        kept = [(key, hook) for key, hook in hooks if getattr(hook, "__module__", "") != CAPTURING]
        state["_forward_hooks"] = OrderedDict(kept)
    if isinstance(module, PreTrainedModel):
        make, arguments = _bare, (type(module), module.config)
    return make, arguments, state, *more


_met: set[type[PreTrainedModel]] = set()


def _bare(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """A model with nothing in it. Until a process has made one of a kind, transformers does not know what its layers give."""
    if kind not in _met:
        with torch.device("meta"):
            kind(copy.deepcopy(config))
        _met.add(kind)
    return kind.__new__(kind)


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
