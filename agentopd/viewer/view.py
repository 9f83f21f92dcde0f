"""The viewer of records as one file: the list first, then the trajectories in compressed blocks that the page opens as it needs them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from agentopd.errors import RecordError
from agentopd.run_files import VIEW
from agentopd.viewer.bundle import block, head, tail, text
from agentopd.viewer.index import Index
from agentopd.viewer.sources import Source, run_of

BLOCK = 256_000
"""Letters of JSON after which a block of trajectories is full."""
LIMIT = 128_000_000
"""Bytes of a page that browsers open without complaint."""


def write_view(
    sources: Sequence[Source], output: str | Path | None = None, say: Callable[[int], object] = lambda count: None
) -> Path:
    """Writes the page.

    Args:
        sources: Whose records.
        output: The file; by default ``view.html`` in the folder of the first run.
        say: Is told how many trajectories have been read, now and then.

    Returns:
        The path of the page.

    Raises:
        RecordError: The page would be too large for a browser.
        OSError: It cannot be written.
    """
    path = Path(output) if output is not None else run_of(sources[0].records) / VIEW
    _require_place(path)
    index = Index()
    part = path.with_name(f".view-{os.getpid()}.part")
    try:  # the file before the records, which may take long to read
        with (
            part.open("w", encoding="utf-8", errors="backslashreplace") as page,
            tempfile.TemporaryFile("w+", encoding="ascii") as blocks,
        ):
            _write_blocks(sources, index, blocks, say)
            blocks.seek(0)
            page.write(head(title_of(sources), served=False))
            page.write(block("index", text(index.plain(title_of(sources), sources))))
            shutil.copyfileobj(blocks, page)
            page.write(tail())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _require_place(path: Path) -> None:
    """Raises OSError where no file can take the place ``path``: what lies there is replaced, which a device or a pipe must not be."""
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path} is in no folder that exists")
    if path.exists() and not path.is_file():
        raise IsADirectoryError(f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}")


def _write_blocks(sources: Sequence[Source], index: Index, blocks: IO[str], say: Callable[[int], object]) -> None:
    held: list[str] = []
    number, size = 0, 0

    def put() -> None:
        nonlocal number
        blocks.write(block(f"block-{number}", f"[{','.join(held)}]"))
        held.clear()
        number += 1
        if blocks.tell() > LIMIT:
            raise RecordError(
                f"the first {len(index)} trajectories fill {LIMIT // 1_000_000} MB, more than a browser opens in one file: add --serve, "
                "or choose some by --where (such as success=false)"
            )

    for source in sources:
        for record, tokens in source:
            index.add(record, tokens, source.name, number, len(held))
            held.append(text(source.payload(record, tokens)))
            size += len(held[-1])
            if size >= BLOCK:
                put()
                size = 0
            if len(index) % 100 == 0:
                say(len(index))
    if held:
        put()


def title_of(sources: Sequence[Source]) -> str:
    """What the page is called."""
    return " and ".join(source.name for source in sources)
