"""A checksum for the footer of a Parquet file, which has none of its own.

The footer says where everything is; with one wrong byte in it Arrow may read something else, or end the process. The checksum stands right before it,
where no reader looks that does not know of it. Files without one are read as they are.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import IO

_END = struct.Struct("<I4s")
"""The length of the footer and Parquet's mark, which are the last bytes of a file."""
_SEAL = struct.Struct("<12sI")
_MARK = b"agentopd-crc"


def seal(file: IO[bytes]) -> None:
    """Adds the checksum to a file that was just written, open for reading and writing."""
    file.seek(-_END.size, os.SEEK_END)
    end = file.read(_END.size)
    size, _ = _END.unpack(end)
    file.seek(-_END.size - size, os.SEEK_END)
    footer = file.read(size)
    file.seek(-_END.size - size, os.SEEK_END)
    file.write(_SEAL.pack(_MARK, zlib.crc32(footer + end)) + footer + end)


def check(path: Path) -> None:
    """Compares the footer of a file with its checksum.

    Raises:
        ValueError: It is another footer than was written.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        length = file.seek(0, os.SEEK_END)
        if length < _END.size:
            return  # Arrow says what is wrong
        file.seek(length - _END.size)
        end = file.read(_END.size)
        begin = length - _END.size - _END.unpack(end)[0]
        if begin < _SEAL.size:
            return
        file.seek(begin - _SEAL.size)
        mark, checksum = _SEAL.unpack(file.read(_SEAL.size))
        if mark == _MARK and zlib.crc32(file.read(length - _END.size - begin) + end) != checksum:
            raise ValueError(f"the footer, which begins at byte {begin}, does not agree with its checksum")
