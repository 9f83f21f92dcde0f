"""Per-token signals of a step: named columns beside the trajectory key, segment and index of each token."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agentopd.errors import RecordError
from agentopd.records.schema import CURRENT, FORMAT, SIGNALS, VERSION
from agentopd.types import Key

Columns: TypeAlias = Mapping[str, NDArray[Any]]

KEYS = ("trajectory", "segment", "index")
"""The columns that say which token a row is about: the trajectory's key as text, the segment, the position inside it."""


class ByTrajectory:
    """The signals of a step, to be had trajectory by trajectory.

    Args:
        columns: Those of the step; none where it has no signals.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        keys, which = np.unique(columns.get("trajectory", np.array([], np.str_)), return_inverse=True)
        rows = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1]) if len(keys) else []
        self._rows = dict(zip(keys.tolist(), rows, strict=True))

    def of(self, key: Key) -> Columns:
        """The rows of a trajectory, of which there may be none."""
        rows = self._rows.get(str(key), np.array([], np.int64))
        return {name: column[rows] for name, column in self._columns.items()}


def to_table(step: int, columns: Columns) -> pa.Table:
    """A table of ``columns``, each [A] or [A, K].

    Raises:
        RecordError: A key column is missing, the lengths differ, or a column is neither numbers nor text.
    """
    absent = [name for name in KEYS if name not in columns]
    if absent:
        raise RecordError(
            f"signals of step {step} lack the columns {', '.join(absent)}; every token needs {', '.join(KEYS)}"
        )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise RecordError(
            f"signals of step {step} have columns of different lengths: {lengths}; give one entry a token"
        )
    columns = {name: _text(column) for name, column in columns.items()}
    arrays = {name: _array(f"signals of step {step}: {name}", column) for name, column in columns.items()}
    return pa.table(arrays).replace_schema_metadata({FORMAT: SIGNALS, VERSION: CURRENT})


def from_table(table: pa.Table) -> dict[str, NDArray[Any]]:
    """The columns that :func:`to_table` was given."""
    return {name: _column(table[name].combine_chunks()) for name in table.column_names}


def _text(column: NDArray[Any]) -> NDArray[Any]:
    """A column of Python strings as one of numpy's."""
    is_text = column.dtype.kind == "O" and all(isinstance(item, str) for item in column.flat)
    return column.astype(np.str_) if is_text else column


def _array(where: str, column: NDArray[Any]) -> pa.Array:
    if column.dtype.kind not in "biufU" or column.ndim not in (1, 2) or (column.ndim == 2 and not column.shape[1]):
        raise RecordError(
            f"{where} is {column.dtype} of shape {column.shape}; give numbers or text of shape [A] or [A, K], K at least 1"
        )
    flat = pa.array(column.reshape(-1))
    if column.dtype.kind == "U":
        return flat.dictionary_encode()
    return flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column.shape[1])


def _column(array: pa.Array) -> NDArray[Any]:
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        return np.array(array.to_pylist(), dtype=np.str_)
    if pa.types.is_fixed_size_list(array.type):
        return np.array(_column(array.flatten()).reshape(len(array), array.type.list_size))
    return np.array(array.to_numpy(zero_copy_only=False), dtype=array.type.to_pandas_dtype())
