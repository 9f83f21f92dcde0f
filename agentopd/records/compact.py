"""Sparse blocks in fewer bytes: what is kept is a little off, and known to be.

A row's ids stand in ascending order, each as its distance from the one before it, and a log-probability is one of a few hundred levels, kept as
how far it is above the row's lowest. Both are numbers of few values; cut into planes of their low, middle and high bytes, which Parquet compresses one by one, a token with 128 ids takes
less than 300 bytes with a vocabulary of 152,000 and logits as models have them. Level ``i`` stands for ``-x**2``, where ``x`` grows by 1/64 a level as long as the probability is
above 8.5e-5, and by 1/16 below: fine where probability is, since an error there counts by it. A row is then shifted, so that its mass is what it was;
the few rows that are then too far off have steps half as wide.
Both together leave an id with a probability above 1e-4 off by less than 0.05 nats, whatever the distribution, for k up to 256.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agentopd.errors import RecordError
from agentopd.types import Bools, Compact, Floats, Ints, Sparse

Reals: TypeAlias = NDArray[np.float64]

_WIDE, _NARROW = 64, 128
"""Levels for 1 of ``x`` above the edge, of most rows and of those that need more; below it a quarter of them."""
_EDGE = 3.0625
"""The ``x`` from which on steps are coarse."""
_BOUND, _MATTERS = 0.0495, np.log(1e-4)
_NEVER = 65535
"""The level of a probability of zero, and the last one: levels have 16 bits."""
_BITS = 16


def compacted(block: Sparse) -> Sparse:
    """``block`` with log-probabilities that take few bytes, its ids the most likely first; a block of other ids than the teacher's likeliest stays.

    The log of the mass outside them stays exact, and a row's mass what it was.

    Raises:
        RecordError: A log-probability is ``nan`` or above 0.
    """
    if isinstance(block, Compact) or block.of != "teacher":
        return block
    given_N_K = block.logprob_N_K.astype(np.float64)
    if np.isnan(given_N_K).any() or (given_N_K > 1e-3).any():
        raise RecordError(
            "a compact block takes log-probabilities, and one is nan or above 0; keep the block as it is (sparse), or mend the teacher"
        )
    kept_N_K = block.ids_N_K >= 0
    wide, narrow = (_quantised(given_N_K, kept_N_K, scale) for scale in (_WIDE, _NARROW))
    matters_N_K = kept_N_K & (given_N_K > _MATTERS)
    now_N_K = _values(wide[0], _scale(np.zeros(len(given_N_K), np.bool_))) - wide[1][:, None]
    off_N_K = np.abs(np.where(matters_N_K, now_N_K, 0.0) - np.where(matters_N_K, given_N_K, 0.0))
    fine_N = (off_N_K > _BOUND).any(-1)
    level_N_K = np.where(fine_N[:, None], narrow[0], wide[0])
    return _ordered(block.ids_N_K, level_N_K, np.where(fine_N, narrow[1], wide[1]), fine_N, block.logtail_N)


def _quantised(given_N_K: Reals, kept_N_K: Bools, scale: int) -> tuple[NDArray[np.int64], Floats]:
    """Levels, and what keeps the mass of each row."""
    level_N_K = _levels(given_N_K, np.full((len(given_N_K), 1), scale))
    values_N_K = _values(level_N_K, np.full((len(given_N_K), 1), scale))
    return level_N_K, (_mass(values_N_K, kept_N_K) - _mass(given_N_K, kept_N_K)).astype(np.float32)


def pack(block: Compact) -> dict[str, Any]:
    """The fields of a compact block in a file, but for those that are its own arrays.

    Raises:
        RecordError: The block is none that :func:`compacted` made.
    """
    level_N_K = _levels(block.logprob_N_K.astype(np.float64) + block.shift_N[:, None], _scale(block.fine_N))
    again = _ordered(block.ids_N_K, level_N_K, block.shift_N, block.fine_N, block.logtail_N)
    if again != block:
        raise RecordError("a compact block was changed; write a Sparse with the changed arrays instead")
    id_N_K = np.sort((block.ids_N_K.astype(np.int64) + 1) << _BITS | level_N_K, axis=-1)
    ids_N_K, level_N_K = (id_N_K >> _BITS) - 1, id_N_K & _NEVER
    step_N_K = np.diff(ids_N_K, axis=-1, prepend=np.int64(-1))
    base_N = np.where(level_N_K == _NEVER, 0, level_N_K).max(-1, initial=0)
    planes = {f"step_{i}": _plane(step_N_K, i) for i in range(4)}
    planes |= {f"level_{i}": _plane(_turned(level_N_K, base_N), i) for i in range(2)}
    planes |= {f"base_{i}": _plane(base_N, i) for i in range(2)}
    return {"k": ids_N_K.shape[1], **planes}


def unpack(fields: Mapping[str, Any]) -> Compact:
    """The block of which :func:`pack` made ``fields``."""
    shape = (len(fields["logtail_N"]), fields["k"])
    ids_N_K = (_read(fields, "step", 4, shape).cumsum(-1) - 1).astype(np.int32)
    level_N_K = _read(fields, "level", 2, shape)
    if fields.get("base_0") is not None:  # files of version 4 have the levels themselves
        level_N_K = _turned(level_N_K, _read(fields, "base", 2, shape[:1]))
    return _ordered(ids_N_K, level_N_K, fields["shift_N"], fields["fine_N"], fields["logtail_N"])


def _ordered(ids_N_K: Ints, level_N_K: NDArray[np.int64], shift_N: Floats, fine_N: Bools, logtail_N: Floats) -> Compact:
    """The block: the lowest level first, of equal ones the lowest id, padding last."""
    padding_N_K = (ids_N_K < 0).astype(np.int64) << 3 * _BITS
    # one number an entry, since sorting numbers is much faster than finding their order
    entry_N_K = np.sort(padding_N_K | level_N_K << 2 * _BITS | ids_N_K.astype(np.int64) + 1, axis=-1)
    ids_N_K = ((entry_N_K & (1 << 2 * _BITS) - 1) - 1).astype(np.int32)
    logprob_N_K = _values(entry_N_K >> 2 * _BITS & _NEVER, _scale(fine_N)) - shift_N[:, None]
    return Compact(ids_N_K, logprob_N_K.astype(np.float32), logtail_N, "teacher", shift_N, fine_N)


def _scale(fine_N: Bools) -> NDArray[np.int64]:
    return np.where(fine_N, _NARROW, _WIDE)[:, None]


def _levels(logprob_N_K: Reals, scale_N_1: NDArray[np.int64]) -> NDArray[np.int64]:
    x_N_K = np.sqrt(np.maximum(-logprob_N_K, 0.0))
    fine = np.rint(x_N_K * scale_N_1)
    coarse = np.rint(_EDGE * scale_N_1 + (x_N_K - _EDGE) * scale_N_1 / 4)
    # what is below the last level is kept as that, millions of nats, and a probability of zero as such
    level = np.minimum(np.where(fine <= _EDGE * scale_N_1, fine, coarse), _NEVER - 1)
    return np.where(np.isneginf(logprob_N_K), _NEVER, level).astype(np.int64)


def _values(level_N_K: NDArray[np.int64], scale_N_1: NDArray[np.int64]) -> Reals:
    x_N_K = level_N_K / scale_N_1
    x_N_K = np.where(x_N_K <= _EDGE, x_N_K, _EDGE + (x_N_K - _EDGE) * 4)
    return np.where(level_N_K == _NEVER, -np.inf, -(x_N_K**2))


def _mass(logprob_N_K: Reals, kept_N_K: Bools) -> Reals:
    """The log of the mass of a row; 0 of one that has none."""
    mass_N = np.exp(np.where(kept_N_K, logprob_N_K, -np.inf)).sum(-1)
    return np.log(np.where(mass_N > 0, mass_N, 1.0))


def _turned(level_N_K: NDArray[np.int64], base_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels as what they are less than a row's highest, and back."""
    return np.where(level_N_K == _NEVER, _NEVER, base_N[:, None] - level_N_K)


def _plane(values: NDArray[Any], byte: int) -> bytes:
    return (values >> (8 * byte) & 0xFF).astype(np.uint8).tobytes()


def _read(fields: Mapping[str, Any], name: str, planes: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    values = np.zeros(shape, np.int64)
    for byte in range(planes):
        values |= np.frombuffer(fields[f"{name}_{byte}"], np.uint8).reshape(shape).astype(np.int64) << 8 * byte
    return values
