"""How ``methods`` and ``envs`` print: folded to the width of a terminal, tab-separated with a header where the output goes elsewhere."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def read_in_part() -> Iterator[None]:
    """Lets who reads the output stop reading it, as ``head`` does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter tells of it as it ends


def show(head: Sequence[str], rows: Sequence[Sequence[str]], ruled: bool = True) -> None:
    """Prints a table.

    Args:
        head: What the columns are called.
        rows: A cell for each column. It may have several lines; outside a terminal a row is one line, and they are joined by blanks.
        ruled: Whether a terminal shows lines between rows and columns.
    """
    if not sys.stdout.isatty():
        for row in (head, *rows):
            print("\t".join(" ".join(cell.split()) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, show_lines=ruled, box=box.HEAVY_HEAD if ruled else box.SIMPLE_HEAD, pad_edge=ruled)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(table)
