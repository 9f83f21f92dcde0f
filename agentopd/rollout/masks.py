"""Attention masks for batches whose rows have gaps."""

import torch
from torch import Tensor

SUPPORTED = ("sdpa", "eager")


def gapped_mask(visible_B_W: Tensor, queries: int, attention: str, dtype: torch.dtype) -> Tensor | None:
    """The mask [B, 1, Q, W] of the last ``queries`` columns over all columns; None where plain causal attention does.

    A query sees the visible columns up to its own. Its own column it always sees: a padding query that saw nothing would give NaN
    under some kernels, and its NaN would spread through the values, which a mask multiplies by zero.

    Args:
        visible_B_W: Which columns hold tokens, bool.
        queries: Q, the new columns, the last of W.
        attention: ``sdpa`` takes a boolean mask, ``eager`` an additive one.
        dtype: Of the additive mask.
    """
    if bool(visible_B_W.all()):
        return None
    width = visible_B_W.shape[1]
    key_W = torch.arange(width, device=visible_B_W.device)
    query_Q_1 = key_W[width - queries :, None]
    mask_B_Q_W = (visible_B_W[:, None] & (key_W <= query_Q_1)) | (key_W == query_Q_1)
    if attention == "eager":
        lowest = torch.finfo(dtype).min
        additive = torch.zeros(mask_B_Q_W.shape, dtype=dtype, device=mask_B_Q_W.device)
        return additive.masked_fill_(~mask_B_Q_W, lowest)[:, None]
    return mask_B_Q_W[:, None]
