"""Frozen models, and a model seen in another way: without its adapter, or with the values that its weights had."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from agentopd.adapters import is_wrapped, leaves_base
from agentopd.errors import ConfigError


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` itself, from now on without gradients and in evaluation mode."""
    model.requires_grad_(False).train(False)
    return model


def initial(student: PreTrainedModel) -> PreTrainedModel:
    """The student as it is now, whatever is trained later: without its adapter where that is all it trains, else a frozen copy."""
    if is_wrapped(student) and leaves_base(student):
        return cast(PreTrainedModel, AdapterOff(student))
    return frozen(copy.deepcopy(student))


class Follower:
    """A frozen copy of a model that takes its values when it is told to. What the model does not train, the two share."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copies what is trained."""
        shared = {id(one): one for one in model.parameters() if not one.requires_grad}
        self.model = frozen(copy.deepcopy(model, shared))

    @torch.no_grad()
    def follow(self, model: PreTrainedModel) -> PreTrainedModel:
        """The copy, with the values that ``model``, the one it was made of, has now."""
        for own, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            if own is not theirs:
                own.copy_(theirs)
        return self.model


def share_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether a change of ``one`` would change ``other``: a parameter lies in the same memory, be it another object or not."""
    theirs = set(map(_place, one.parameters()))
    return any(_place(parameter) in theirs for parameter in other.parameters())


def _place(parameter: nn.Parameter) -> tuple[torch.device, int]:
    # empty ones and those on the meta device lie nowhere: each is its own
    return parameter.device, parameter.data_ptr() or id(parameter)


class Borrowed(nn.Module, ABC):
    """A model seen in another way. It owns none of that model's weights: they are not its to freeze, move or save."""

    how: ClassVar[str]
    """In what way, for messages."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple, so that its parameters are not this module's

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

    def get_input_embeddings(self) -> nn.Module:
        """The model's own, where its tokens enter; as many ids as here."""
        embeddings: nn.Module = self._model[0].get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        """The model's output head."""
        head: nn.Module = self._model[0].get_output_embeddings()
        return head

    @abstractmethod
    def seen(self) -> AbstractContextManager[None]:
        """While it is open, the model is what is seen here."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, in evaluation mode."""
        [model] = self._model
        with evaluating(model), self.seen():
            return model(*args, **kwargs)


class AdapterOff(Borrowed):
    """A PEFT model whose forward leaves its adapter out."""

    how = "without its adapter"

    @contextmanager
    def seen(self) -> Iterator[None]:
        """The adapter is off."""
        [model] = self._model
        with _as_trainable(model), model.disable_adapter():
            yield


class Twin(Borrowed):
    """A model with other values of what it trains: those it had when this was made, until :meth:`approach` is called.

    It holds a copy of the trainable parameters alone, which the model wears while it reads or acts by this; all others it shares.
    Its output head has the copied values too, in memory that stays where it is.
    """

    how = "with earlier values of its adapter"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        self._worn = {name: parameter.detach().clone() for name, parameter in trained}
        self._exact = self._worn
        self.steps = 0
        """Of the model's training since this was made, as whoever moves it counts them."""

    def _copied(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's own parameters of which there is a copy, by name; one that stands in two places once."""
        named: Iterator[tuple[str, nn.Parameter]] = self._model[0].named_parameters()
        return ((name, parameter) for name, parameter in named if name in self._worn)

    @property
    def peft_config(self) -> Any:
        """Of the model, where it is inside an adapter."""
        return self._model[0].peft_config

    @contextmanager
    def seen(self) -> Iterator[None]:
        """The model wears the copied values; afterwards, whatever happened, its own again."""
        worn = [(parameter, parameter.data, self._worn[name]) for name, parameter in self._copied()]
        try:
            for parameter, _, value in worn:
                parameter.data = value
            yield
        finally:
            for parameter, own, _ in worn:
                parameter.data = own

    def get_output_embeddings(self) -> nn.Module:
        """The model's output head with the copied values."""
        head = super().get_output_embeddings()
        if type(head) is not nn.Linear:
            return head
        copied = {id(parameter): self._worn[name] for name, parameter in self._copied()}
        twin = nn.Linear(head.in_features, head.out_features, head.bias is not None, device="meta")
        for name, own in head.named_parameters():
            worn = copied.get(id(own))
            setattr(twin, name, own if worn is None else nn.Parameter(worn, requires_grad=False))
        return twin

    @torch.no_grad()
    def approach(self, rate: float) -> None:
        """Moves each copied value toward the model's own, by the share ``rate`` of the way; 1 makes them equal.

        An average is kept in float32 at least: in half precision small steps would be lost.
        """
        if rate < 1.0:
            self._exact = {name: _precise(value) for name, value in self._exact.items()}
        for name, parameter in self._copied():
            exact = self._exact[name]
            self._worn[name].copy_(exact.lerp_(parameter.to(exact.dtype), rate))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The copied values of this moment, by the names that the model has for them, as exact as they are kept."""
        return {name: value.to("cpu", copy=True) for name, value in self._exact.items()}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Continues from :attr:`weights`.

        Raises:
            KeyError: A value is missing.
        """
        self._exact = {}
        for name, worn in self._worn.items():
            kept = weights[name].to(worn.device)
            self._exact[name] = worn if kept.dtype == worn.dtype else kept
            worn.copy_(kept)


class Thinned(Borrowed):
    """A model without a share of the inputs of each linear layer in its body, those that are left scaled up: one draw of dropout.

    What is left out is drawn once, by a text, such as a seed, and the layer's name, and is the same at every token: each draw is one network, whatever
    is read together with what (Gal and Ghahramani, arXiv 1512.05287, section 4). The output head is whole.
    """

    how = "with dropout"

    def __init__(self, model: Any, rate: float, drawn_by: str) -> None:
        """Draws what is left out.

        Args:
            model: The model, which may be borrowed itself.
            rate: The share of the inputs that are left out, below 1.
            drawn_by: Another text leaves out others.

        Raises:
            ConfigError: The model has no linear layers but its head.
        """
        super().__init__(model)
        head = model.get_output_embeddings()
        layers = {n: m for n, m in _whole(model).named_modules() if isinstance(m, nn.Linear) and m is not head}
        drawn = {n: _kept(m, rate, f"{drawn_by}/{n}").to(self.device, self.dtype) for n, m in layers.items()}
        self._kept = [(layer, drawn[name]) for name, layer in layers.items()]
        if not layers:
            raise ConfigError(
                f"dropout={rate:g}: {type(_whole(model)).__name__} has no linear layers to leave inputs out of; choose different members"
            )

    @contextmanager
    def seen(self) -> Iterator[None]:
        """The inputs are left out."""
        hooks = [
            layer.register_forward_pre_hook(lambda _, given, kept_H=kept_H: (given[0] * kept_H, *given[1:]))
            for layer, kept_H in self._kept
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _whole(model: Any) -> nn.Module:
    """The module that owns the weights of ``model``."""
    while isinstance(model, Borrowed):
        [model] = model._model
    module: nn.Module = model
    return module


def _kept(layer: nn.Linear, rate: float, drawn_by: str) -> torch.Tensor:
    """What each input of ``layer`` is multiplied by, [in_features]: 0, or 1 / (1 - rate)."""
    seed = int.from_bytes(hashlib.sha256(drawn_by.encode()).digest()[:7], "big")
    drawn_H = torch.rand(layer.in_features, generator=torch.Generator().manual_seed(seed))
    return (drawn_H >= rate) / (1.0 - rate)


def _precise(value: torch.Tensor) -> torch.Tensor:
    """``value`` in float32 at least: itself where it is so already."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


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
