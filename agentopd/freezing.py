"""Frozen models, and a model seen without its adapter: the same weights, twice."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from agentopd.adapters import is_wrapped, leaves_base


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` itself, from now on without gradients and in evaluation mode."""
    model.requires_grad_(False).train(False)
    return model


def initial(student: PreTrainedModel) -> PreTrainedModel:
    """The student as it is now, whatever is trained later: without its adapter where that is all it trains, else a frozen copy."""
    if is_wrapped(student) and leaves_base(student):
        return cast(PreTrainedModel, AdapterOff(student))
    return frozen(copy.deepcopy(student))


def share_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether a change of ``one`` would change ``other``: a parameter lies in the same memory, be it another object or not."""
    theirs = set(map(_place, one.parameters()))
    return any(_place(parameter) in theirs for parameter in other.parameters())


def _place(parameter: nn.Parameter) -> tuple[torch.device, int]:
    # empty ones and those on the meta device lie nowhere: each is its own
    return parameter.device, parameter.data_ptr() or id(parameter)


class AdapterOff(nn.Module):
    """A PEFT model whose forward leaves its adapter out. It owns nothing: the weights are those of the model it was given."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that its parameters are not this module's to freeze, move or save

    @property
    def config(self) -> PretrainedConfig:
        """Of the model."""
        config: PretrainedConfig = self._model[0].config
        return config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._model[0].device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self._model[0].dtype
        return dtype

    def get_output_embeddings(self) -> nn.Module:
        """The model's output head."""
        head: nn.Module = self._model[0].get_output_embeddings()
        return head

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, in evaluation mode."""
        [model] = self._model
        with evaluating(model), _as_trainable(model), model.disable_adapter():
            return model(*args, **kwargs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every module of ``model`` into evaluation mode, and afterwards back exactly those that were training."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _as_trainable(model: nn.Module) -> Iterator[None]:
    """Afterwards exactly those parameters are trainable that were: PEFT makes all of an adapter so when it is on again."""
    held = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(False)
