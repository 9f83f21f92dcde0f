"""One pass of a causal language model over rows of tokens: its last hidden states. What all rows begin with is read once."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

SHORTEST = 32
"""Tokens in common from which reading them once is worth a second forward: two rows are then about even, more gain."""


def hidden_states(model: nn.Module, input_ids_B_T: Tensor, position_ids_B_T: Tensor | None = None) -> Tensor:
    """The last hidden states [B, T, H], after the final norm: what ``head_of`` turns into logits.

    They are taken through the forward of ``model`` itself, so that the hooks of wrappers (DDP, FSDP, PEFT) run. No mask is given:
    sequences are padded on the right, where causal attention never looks, or packed into one row.

    Episodes begin alike, with instructions and tools. What all rows have in common there is read once, and its keys and values, through
    which the gradient flows, are every row's: up to rounding, and but for dropout, whose draws they share too, the result is that of
    reading each row by itself. It takes memory for the keys and values of all rows in all layers at once. Rows are read each where little
    is in common; and where it is not the same: with layers other than plain full attention, or positions whose frequencies depend on the
    length; under DDP or FSDP; in training under gradient checkpointing.

    Args:
        model: A causal language model, wrapped or not.
        input_ids_B_T: Token ids; any id as padding.
        position_ids_B_T: For packed rows, positions that restart at 0 with each sequence.
    """
    several = position_ids_B_T is None and len(input_ids_B_T) > 1 and _shares(model)
    common = common_prefix(input_ids_B_T) if several else 0
    if common < SHORTEST:
        return read_each(model, input_ids_B_T, position_ids=position_ids_B_T)
    return read_once(model, input_ids_B_T, common)


def read_once(model: nn.Module, input_ids_B_T: Tensor, common: int) -> Tensor:
    """The hidden states [B, T, H] of rows: one forward reads their first ``common`` tokens, which all have, and a second one the rest."""
    cache = DynamicCache(config=unwrapped(model).config)
    common_1_P_H = read_each(model, input_ids_B_T[:1, :common], cache)
    if cache.get_seq_length() != common:  # a model that keeps no cache, whatever its configuration says
        return read_each(model, input_ids_B_T)
    cache.batch_repeat_interleave(len(input_ids_B_T))
    maskless = BehindPrefix(common) if is_maskless(common, input_ids_B_T.shape[1]) else nullcontext()
    with maskless:
        own_B_S_H = read_each(model, input_ids_B_T[:, common:], cache)
    return torch.cat([common_1_P_H.expand(len(input_ids_B_T), -1, -1), own_B_S_H], dim=1)


class BehindPrefix(TorchFunctionMode):
    """While it lasts, and in this thread, tokens behind a prefix attend without the mask that transformers makes for them.

    With a mask a kernel computes what a query does not see too, and on a GPU the fastest kernels take none. Told ``is_causal`` instead, it
    skips that, but takes the first query to stand at the first key. So queries of zeros are put in front, as many as the prefix has tokens,
    and what comes of them is dropped; they cost the square of the prefix. The result is the same up to rounding.
    """

    def __init__(self, prefix: int) -> None:
        """Does nothing yet.

        Args:
            prefix: How many tokens were read before: of them there are keys and values, and no queries.
        """
        super().__init__()
        self._prefix = prefix
        self._known: Tensor | None = None
        """A mask that is causal; every layer has the same."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Attends in another way where it can, and leaves all else as it is."""
        kwargs = kwargs or {}
        if (
            func is scaled_dot_product_attention
            and len(args) == 3
            and self._is_causal(args[0], args[1], kwargs.get("attn_mask"))
        ):
            return self._attended(*args, **kwargs)
        return func(*args, **kwargs)

    def _attended(self, query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor, **options: Any) -> Tensor:
        longer = pad(query, (0, 0, self._prefix, 0))
        return scaled_dot_product_attention(longer, key, value, **(options | {"is_causal": True}))[
            ..., self._prefix :, :
        ]

    def _is_causal(self, query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
        """Whether a mask says no more than that a token sees the prefix, itself, and its own before it."""
        own, keys = query.shape[-2], key.shape[-2]
        if mask is None or mask.dtype != torch.bool or keys != self._prefix + own or mask.shape[-2:] != (own, keys):
            return False
        if mask is not self._known:
            causal = torch.ones(own, keys, dtype=torch.bool, device=mask.device).tril(self._prefix)
            if not bool((mask == causal).all()):
                return False
            self._known = mask
        return True


def is_maskless(common: float, length: float) -> bool:
    """Whether rows of ``length`` tokens, the ``common`` first of them read before, are read behind these without a mask.

    The square of the prefix is less than what a mask costs where the prefix is a quarter of the row or less, by measurement.
    """
    return 4 * common <= length


def common_prefix(input_ids_B_T: Tensor) -> int:
    """How many leading tokens all rows have in common, at most T - 1."""
    differs_T = (input_ids_B_T[1:] != input_ids_B_T[:1]).any(dim=0)
    differs_T[-1] = True
    return int(differs_T.int().argmax())


def is_plain(config: PretrainedConfig) -> bool:
    """Whether every layer is plain full attention, whose cache is one column a token."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def unwrapped(model: nn.Module) -> Any:
    """The model that DDP wraps; any other as it is."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _shares(model: nn.Module) -> bool:
    """Whether two forwards, the second over the cache of the first, are one pass: DDP expects one forward for each backward, FSDP as
    many in each process, and checkpointed layers keep no cache."""
    if isinstance(model, DistributedDataParallel | FSDPModule):
        return False
    config = unwrapped(model).config
    checkpointed = model.training and getattr(model, "is_gradient_checkpointing", False)
    looks_back = any(getattr(one, "alora_invocation_tokens", None) for one in _adapters(model))
    return not checkpointed and not looks_back and is_plain(config) and _frequencies(config).isdisjoint(BY_LENGTH)


def _adapters(model: nn.Module) -> Collection[Any]:
    """The configurations of PEFT's adapters; an activated one looks for its invocation in the tokens of each forward."""
    found = getattr(model, "peft_config", {})
    return found.values() if isinstance(found, Mapping) else ()


BY_LENGTH = {"dynamic", "longrope"}
"""Rotary frequencies that each forward chooses by its own length."""


def _frequencies(config: PretrainedConfig) -> set[str]:
    """The kinds of rotary frequencies of all layers."""
    given = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return {str(one.get("rope_type")) for one in (given, *given.values()) if isinstance(one, Mapping)}


def read_each(
    model: nn.Module, input_ids_B_T: Tensor, cache: Cache | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """The hidden states [B, T, H] of one forward over all rows as they are, behind what ``cache`` holds, to which these rows are added."""
    last = unwrapped(model).config.get_text_config().num_hidden_layers - 1
    output = model(
        input_ids=input_ids_B_T,
        position_ids=position_ids,
        output_hidden_states=[last],  # the others are not kept alive; the last one is stored after the norm
        logits_to_keep=1,
        past_key_values=cache,
        use_cache=cache is not None,  # with a cache, packed sequences would see each other
    )
    hidden_B_T_H: Tensor = output.hidden_states[-1]
    # under autocast accelerate makes float32 of it, which a head in half precision does not take
    return hidden_B_T_H.to(unwrapped(model).dtype)
