"""Masked attention on a CPU without copies of shared keys and values."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_lock, _users = threading.Lock(), 0
"""Of :func:`shared_heads`, which several threads may use at once."""


@contextmanager
def shared_heads() -> Iterator[None]:
    """While it lasts, transformers' ``sdpa`` attention reads shared keys and values where they are, also under a mask.

    Where a mask is given and several query heads share a key head, transformers copies the keys and values once a query head, every
    layer and step, since some CUDA kernels need it. The kernel for CPUs does not, and its results are the same bit by bit.
    """
    global _users
    with _lock:
        usual = ALL_ATTENTION_FUNCTIONS["sdpa"] in (
            sdpa_attention_forward,
            _attend,
        )  # or somebody's own: it may do more
        if usual:
            _users += 1
            ALL_ATTENTION_FUNCTIONS["sdpa"] = _attend
    try:
        yield
    finally:
        if usual:
            with _lock:
                _users -= 1
                if not _users:
                    ALL_ATTENTION_FUNCTIONS.pop("sdpa")


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As ``sdpa_attention_forward``, which it calls wherever that copies nothing or does something else besides."""
    more = any(options.get(name) is not None for name in ("position_bias", "cache")) or options.get("dropout")
    if more or attention_mask is None or query.device.type != "cpu" or query.shape[1] == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    output = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=options.get("scaling"), enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None
