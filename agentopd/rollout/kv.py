"""The key/value cache of many episodes between turns.

After a turn the key/value tensors of the whole batch stay as one pool; an episode's cache is a row of a pool and the columns that
hold its tokens. The next turn gathers the rows it needs, right-aligned, so that gaps never accumulate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicLayer

Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Per layer, keys and values [B, heads, columns, size]. It lives as long as an entry points into it."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """The cache of one episode: which tokens, and where they stand in a pool."""

    pool: Pool
    row: int
    token_T: Column
    column_T: Column


class BufferLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A full-attention layer's cache in a buffer of fixed width: an update writes its columns and copies nothing else."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates for rows and heads of this shape."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = tuple(
            states.new_empty((*states.shape[:2], self._capacity, states.shape[3]))
            for states in (key_states, value_states)
        )
        self.keep(0)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Appends columns and returns all keys and values so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        keys, values = self.keep(start + key_states.shape[2])
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def keep(self, width: int) -> tuple[Tensor, Tensor]:
        """Makes the first ``width`` columns of the buffers the cached ones, and returns them."""
        keys, values = (buffer[:, :, :width] for buffer in self._buffers)
        self.keys, self.values = keys, values
        return keys, values

    @property
    def states(self) -> tuple[Tensor, Tensor]:
        """The cached keys and values."""
        return self.keep(self.get_seq_length())

    def select(self, rows: Tensor) -> None:
        """Goes on with some of the rows."""
        width = self.get_seq_length()
        self._buffers = tuple(buffer[rows] for buffer in self._buffers)
        self.keep(width)


def pool_of(layers: Sequence[BufferLayer], rows: Tensor | None = None) -> Pool:
    """The present contents of a cache, or a copy of some of its rows."""
    states = [layer.states for layer in layers]
    if rows is not None:
        states = [(keys[rows], values[rows]) for keys, values in states]
    return Pool(tuple(keys for keys, _ in states), tuple(values for _, values in states))


def common_prefix(entry: Entry | None, token_T: Column) -> int:
    """How many leading tokens are cached, at most all but the last: the last one must be processed to be continued."""
    if entry is None:
        return 0
    limit = min(len(entry.token_T), len(token_T) - 1)
    differs_T = entry.token_T[:limit] != token_T[:limit]
    return int(differs_T.argmax()) if differs_T.any() else limit


def place(layers: Sequence[BufferLayer], rows: Sequence[int], entries: Sequence[Entry], lengths: Sequence[int]) -> None:
    """Puts the first ``lengths[n]`` tokens of ``entries[n]`` into the last cached columns of row ``rows[n]``, where they must fit."""
    groups: dict[int, list[tuple[int, Entry, int]]] = {}
    for row, entry, length in zip(rows, entries, lengths, strict=True):
        groups.setdefault(id(entry.pool), []).append((row, entry, length))
    for group in groups.values():
        _copy([layer.states for layer in layers], group)


def gather(entries: Sequence[Entry | None], lengths: Sequence[int], layers: int, capacity: int) -> list[BufferLayer]:
    """A cache whose row b holds the first ``lengths[b]`` tokens of ``entries[b]``, right-aligned to the longest.

    Args:
        entries: One a row; None where nothing is cached.
        lengths: Tokens to take of each.
        layers: How many layers the model caches.
        capacity: The width to allocate, in columns.
    """
    buffers = [BufferLayer(capacity) for _ in range(layers)]
    groups: dict[int, list[tuple[int, Entry]]] = {}
    for b, entry in enumerate(entries):
        if entry is not None and lengths[b]:
            groups.setdefault(id(entry.pool), []).append((b, entry))
    for group in groups.values():
        _fill(buffers, group, lengths)
    return buffers


def _fill(buffers: Sequence[BufferLayer], group: list[tuple[int, Entry]], lengths: Sequence[int]) -> None:
    """Copies rows of one pool into the first columns of the cache."""
    longest, pool = max(lengths), group[0][1].pool
    for layer, *states in zip(buffers, pool.keys, pool.values, strict=True):
        if not layer.is_initialized:
            layer.lazy_initialization(*(each[:1].expand(len(lengths), -1, -1, -1) for each in states))
            for target in layer.keep(longest):
                target.zero_()  # what a mask hides must still be finite
    _copy([layer.keep(longest) for layer in buffers], [(b, entry, lengths[b]) for b, entry in group])


def _copy(targets: Sequence[tuple[Tensor, Tensor]], group: Sequence[tuple[int, Entry, int]]) -> None:
    """Copies the first tokens of entries of one pool, right-aligned, into rows of ``targets``, keys and values by layer.

    Args:
        targets: [B, heads, columns, size] each.
        group: Which row, of what entry, how many tokens.
    """
    pool, longest = group[0][1].pool, max(length for _, _, length in group)
    column_N_L = np.zeros((len(group), longest), np.int64)
    for n, (_, entry, length) in enumerate(group):
        column_N_L[n, longest - length :] = entry.column_T[:length]
    device = pool.keys[0].device
    target_N = torch.tensor([row for row, _, _ in group], device=device)
    row_N_1_1 = torch.tensor([entry.row for _, entry, _ in group], device=device)[:, None, None]
    column_N_1_L = torch.from_numpy(column_N_L).to(device)[:, None]
    for pair, *states in zip(targets, pool.keys, pool.values, strict=True):
        for target, source in zip(pair, states, strict=True):
            head_H_1 = torch.arange(source.shape[1], device=device)[:, None]
            target[target_N, :, target.shape[2] - longest :] = source[row_N_1_1, head_H_1, column_N_1_L]
