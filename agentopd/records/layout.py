"""How the columns of a file are laid out, so that they are small and quick to write and to read."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

_INTEGERS = (pa.types.is_int32, pa.types.is_int64, pa.types.is_uint64)


def options(schema: pa.Schema) -> dict[str, Any]:
    """What ``ParquetWriter`` is told.

    Text is looked up in a dictionary; whole numbers are kept as differences, and the bytes of real ones apart, the first of all, then the second:
    those of log-probabilities hardly differ.
    """
    leaves = {path: kind for field in schema for path, kind in _leaves(field.name, field.type)}
    encodings = {path: "DELTA_BINARY_PACKED" for path, kind in leaves.items() if any(is_(kind) for is_ in _INTEGERS)}
    encodings |= {path: "BYTE_STREAM_SPLIT" for path, kind in leaves.items() if pa.types.is_floating(kind)}
    words = [path for path, kind in leaves.items() if pa.types.is_string(kind)]
    return {
        "compression": "zstd",
        "write_page_checksum": True,
        "use_dictionary": words,
        "column_encoding": encodings,
    }


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """The columns of a file that a field becomes, by their paths in it."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind.value_type if pa.types.is_dictionary(kind) else kind
