"""Packing: which sequences one forward reads together, and how sequences of different lengths become one tensor."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Layout: TypeAlias = Literal["padded", "packed"]
"""``padded``: one sequence a row, filled up on the right. ``packed``: sequences one behind the other in one row."""


def batches(lengths: Sequence[int], max_tokens: int, layout: Layout = "padded") -> list[list[int]]:
    """Cuts sequences into batches under a token budget, longest first.

    Args:
        lengths: The length of each sequence; empty ones are left out.
        max_tokens: The largest number of tokens in a batch, padding included. A longer sequence stands alone.
        layout: ``padded`` puts neighbours in length together; ``packed`` fills the first batch that has room.

    Returns:
        Indices into ``lengths``, a list a batch; those of one length keep their order.

    Raises:
        ValueError: ``max_tokens`` is below 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    found: list[list[int]] = []
    for i in sorted(np.flatnonzero(lengths).tolist(), key=lambda i: -lengths[i]):
        for batch in found if layout == "packed" else found[-1:]:
            if _size([lengths[j] for j in (*batch, i)], layout) <= max_tokens:
                batch.append(i)
                break
        else:
            found.append([i])
    return found


def _size(longest_first: Sequence[int], layout: Layout) -> int:
    return sum(longest_first) if layout == "packed" else len(longest_first) * longest_first[0]


def padded(sequences: Sequence[NDArray[Any]]) -> Tensor:
    """Token ids [B, T], filled up on the right: causal attention does not look there, so the filler is never read."""
    ids_B_T = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row_T, sequence in zip(ids_B_T, sequences, strict=True):
        row_T[: len(sequence)] = sequence
    return torch.from_numpy(ids_B_T)


def packed(sequences: Sequence[NDArray[Any]]) -> Tensor:
    """Token ids [1, T], one sequence behind the other."""
    return torch.from_numpy(np.concatenate(sequences).astype(np.int64))[None]
