"""Weights that wait in the host's memory, by accelerate's hooks: each comes to the device for the moment in which it is read."""

import torch
from accelerate.hooks import attach_align_device_hook
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from transformers import PreTrainedModel

from agentopd.errors import ConfigError
from agentopd.models import FrozenModel, ModelConfig


def moved(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """``model`` itself, all of it on the device."""
    nn.Module.to(model, device)  # transformers' own ``to`` hides its signature
    return model


def on_device(model: PreTrainedModel, wanted: ModelConfig, device: torch.device) -> PreTrainedModel:
    """``model`` itself, which was ``wanted``, on the device, or as much of it as is to be there.

    Raises:
        ConfigError: Its layers are to wait, and its architecture does not say which they are.
    """
    if isinstance(wanted, FrozenModel) and wanted.offload:
        return offloaded(model, device)
    return moved(model, device)


@torch.no_grad()
def offloaded(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """``model`` itself, which is frozen from now on: its layers' weights stay in the host's memory, all else of it goes to ``device``.

    Embeddings and output head are there for good: losses read a teacher's head.

    Raises:
        ConfigError: The architecture does not say which of its modules are layers.
    """
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if not layers:
        raise ConfigError(f"offload: {type(model).__name__} does not say which of its modules are layers; leave it out")
    model.requires_grad_(False)
    for layer in layers:
        weights = {name: value.cpu() for name, value in layer.state_dict().items()}
        attach_align_device_hook(layer, execution_device=device, offload=True, weights_map=weights)
    for tensor in [*model.parameters(), *model.buffers()]:
        if not tensor.is_meta:
            tensor.data = tensor.data.to(device)
    return model


def waiting(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that wait, by name."""
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if has_offloaded_params(module):
            with align_module_device(module, "cpu"):
                found |= {f"{name}.{own}": value.detach() for own, value in module.named_parameters(recurse=False)}
    return found
