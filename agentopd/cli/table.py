"""How ``methods`` and ``envs`` print: folded to the width of a terminal, one line a row where the output goes elsewhere."""

import sys
from collections.abc import Sequence


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table. A cell may have several lines; outside a terminal each of them is a field between tabs, whole."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row).replace("\n", "\t"))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, show_lines=True)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(table)
