"""Arrow arrays from many objects at once, column by column."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agentopd.errors import RecordError

Names = Callable[[], Iterable[str]]
"""What objects are called in an error, one name each; asked for only then."""


def nested(parts: Sequence[Sequence[Any]], kind: pa.DataType, build: Callable[[list[Any]], pa.Array]) -> pa.ListArray:
    """Lists of what ``build`` makes of their joined items, which are of type ``kind``."""
    items = list(chain.from_iterable(parts))
    return pa.ListArray.from_arrays(_offsets(map(len, parts)), build(items) if items else pa.array([], kind))


def numbers(arrays: Sequence[NDArray[Any]], kind: pa.DataType, field: str, names: Names) -> pa.ListArray:
    """Lists of numbers of one type, each array flat.

    Raises:
        RecordError: An array is of another type.
    """
    expected = np.dtype(kind.to_pandas_dtype())
    for i, array in enumerate(arrays):
        if array.dtype != expected:
            name = list(names())[i]
            raise RecordError(
                f"{name}: {field} is {array.dtype}; make it {expected}, or it would not be read back equal"
            )
    flat = [array.reshape(-1) for array in arrays]
    joined = np.concatenate(flat) if flat else np.zeros(0, expected)
    return pa.ListArray.from_arrays(_offsets(map(len, flat)), pa.array(joined, kind))


def struct(kind: pa.StructType, columns: dict[str, pa.Array], absent: Sequence[bool] | None = None) -> pa.StructArray:
    """Structs of the fields of ``kind``, null where ``absent``."""
    mask = None if absent is None else pa.array(absent, pa.bool_())
    return pa.StructArray.from_arrays([columns[field.name] for field in kind], fields=list(kind), mask=mask)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array(list(accumulate(lengths, initial=0)), pa.int32())
