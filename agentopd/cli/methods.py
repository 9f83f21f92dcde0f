"""List the methods on the three axes and in their parts, or print one with every part.

examples:
  agentopd methods
  agentopd methods sod
  agentopd methods sod > mine.yaml
  agentopd methods | cut -f 1,10-13 | column -t -s "$(printf '\\t')"
  agentopd methods --json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentopd.cli.listing import Method


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("name", nargs="?", help="a recipe to print: its name, or a path")
    parser.add_argument("--json", action="store_true", help="print JSON: every part of each method, or of the one")


def run(arguments: argparse.Namespace) -> int:
    """Prints the tables, or one recipe with every part of its terms."""
    from agentopd.cli import listing
    from agentopd.cli.table import read_in_part, show
    from agentopd.objective.spec import AXES

    with read_in_part():
        if arguments.name:
            _print_one(listing.Method.load(arguments.name), arguments.json)
        elif arguments.json:
            every = listing.Method.shipped()
            _print_json([{"method": method.name, "standing": method.standing, **method.plain} for method in every])
        elif sys.stdout.isatty():
            _show_folded(listing.Method.shipped())
        else:
            methods = listing.Method.shipped()
            show(listing.COLUMNS, [listing.fields(method) for method in methods])
            print()
            show((*AXES, "methods"), list(listing.cells(methods)))
    return 0


def _show_folded(methods: Sequence["Method"]) -> None:
    """For a terminal."""
    from agentopd.cli import listing
    from agentopd.cli.table import show
    from agentopd.objective.spec import GRANULARITY

    head = ("method", "what it is; signal, access, granularity", "divergence, target, estimator of each term")
    show(head, listing.rows(methods), ruled=False)
    print("* experimental: its formula was not to be had in full")
    print("! cannot run yet; agentopd methods NAME says what it needs")
    print("agentopd methods NAME prints every part of a method\n")
    show(("", *GRANULARITY), listing.grid(methods))


def _print_one(method: "Method", as_json: bool) -> None:
    """A recipe as a file: it can be saved, changed, and given to ``method=``."""
    from agentopd.config.shipped import write

    if as_json:
        _print_json(method.plain)
        return
    for line in method.objective.formula.splitlines():
        print(f"# {line}")
    asked = sorted(method.objective.teachers() - set(method.teachers))
    if asked:
        print(f"# It reads what these teachers of the configuration say: {', '.join(asked)}.")
    print(write(method.plain, compact=True), end="")


def _print_json(told: Any) -> None:
    print(json.dumps(told, indent=2, ensure_ascii=False))
