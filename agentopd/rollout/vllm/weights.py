"""A student's weights as vLLM loads them, from files or as they are."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from agentopd.adapters import is_wrapped
from agentopd.errors import ConfigError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for ``--max-lora-rank``."""
UNSERVED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
)
"""Settings of PEFT's ``LoraConfig`` that 0.32's ``PEFTHelper`` refuses where they are set."""

CHANGING = ("architectures", "dtype", "transformers_version", "_name_or_path", "use_cache")
"""What of a configuration writing it changes, or training."""


def plain_model(model: Any) -> PreTrainedModel:
    """The model itself, or the one inside an adapter."""
    return model.get_base_model() if is_wrapped(model) else model  # type: ignore[no-any-return]


def shape_of(plain: PreTrainedModel) -> str:
    """What a server is started for, whatever the weights are."""
    told = {name: value for name, value in plain.config.to_dict().items() if name not in CHANGING}
    return f"{type(plain).__name__} {plain.dtype} {told}"


def weights_of(model: Any) -> tuple[dict[str, Tensor], PreTrainedConfig]:
    """The weights by name, without any adapter, and the configuration of a model that has them.

    On a CPU a head that is the embeddings too becomes one of its own: vLLM 0.32's CPU build keeps a packed copy of such a head, which stays
    what it was when weights are loaded again.

    Args:
        model: The student, in an adapter or not. Its tensors are not copied, but for such a head.
    """
    plain = plain_model(model)
    weights = {_plain(name): one.detach() for name, one in plain.state_dict().items() if "lora_" not in name}
    config = copy.deepcopy(plain.config)
    if plain.device.type == "cpu" and config.tie_word_embeddings:
        head = cast(Any, plain).get_output_embeddings()
        names = [name for name, one in plain.named_parameters(remove_duplicate=False) if one is head.weight]
        weights |= {_plain(name): weights[_plain(name)].clone() for name in names[1:]}
        config.tie_word_embeddings = False
    return weights, config


def checkpoint_of(model: Any) -> dict[str, Tensor]:
    """The weights by the names that a checkpoint gives them, which is what vLLM knows."""
    return revert_weight_conversion(plain_model(model), weights_of(model)[0])  # type: ignore[no-any-return]


def write_config(model: Any, folder: Path) -> None:
    """Writes the configuration of what has the weights of :func:`weights_of`."""
    weights_of(model)[1].save_pretrained(folder)


def write_weights(model: PreTrainedModel, folder: Path, others: bool = False) -> None:
    """Writes the weights, without any adapter, and the configuration.

    Args:
        model: The student, in an adapter or not.
        folder: Where to; what lies there is replaced.
        others: Whether every tensor is given other values, of the same size: what does not follow the next weights then shows.
    """
    plain, (weights, config) = plain_model(model), weights_of(model)
    if others:
        weights = {name: _other(one) for name, one in weights.items()}
    with torch.no_grad(), _written_here(plain):
        plain.save_pretrained(folder, state_dict=weights)
    config.save_pretrained(folder)


@contextmanager
def _written_here(model: Any) -> Iterator[None]:
    """Of several processes transformers writes in the first alone; here each writes for its own server."""
    model.should_save_on_this_rank = lambda is_main_process: True
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def write_adapter(model: Any, folder: Path) -> None:
    """Writes the adapter around a model alone."""
    model.save_pretrained(folder)


def lora_arguments(model: Any) -> list[str]:
    """What a server must be told so that it takes the adapter of ``model``; nothing where there is none.

    Raises:
        ConfigError: vLLM has no such adapters.
    """
    if not is_wrapped(model):
        return []
    config = model.peft_config[model.active_adapter]
    wrong = _unserved(config)
    if wrong:
        raise ConfigError(
            f"rollout.engine: vLLM serves no adapter with {wrong}; train one without it, or choose kind: transformers"
        )
    return ["--enable-lora", "--max-lora-rank", str(next(rank for rank in RANKS if rank >= _rank(config)))]


def _rank(config: Any) -> int:
    """The largest of an adapter's ranks."""
    return max(int(rank) for rank in [config.r, *(config.rank_pattern or {}).values()])


def _unserved(config: Any) -> str:
    """What of an adapter's configuration vLLM does not know."""
    if getattr(config.peft_type, "value", config.peft_type) != "LORA":
        return f"peft_type={getattr(config.peft_type, 'value', config.peft_type)}"
    if _rank(config) > RANKS[-1]:
        return f"r={_rank(config)}, more than {RANKS[-1]}"
    if config.bias != "none":
        return f"bias={config.bias}"
    return next((name for name in UNSERVED if getattr(config, name, None)), "")


def _plain(name: str) -> str:
    """What a weight inside an adapter is called outside it."""
    return name.replace(".base_layer.", ".")


def _other(one: Tensor) -> Tensor:
    """Other values of the same size: also of ones and of zeros."""
    return 0.01 - one.flatten().roll(1).view_as(one) if one.is_floating_point() else one
