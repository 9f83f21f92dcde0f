"""Hold runs against each other on the panel that all of them played: differences with intervals over tasks and seeds, and what they cost.

examples:
  agentopd compare runs/divergences
  agentopd compare runs/first runs/second --output runs/both
  agentopd compare runs/divergences --baseline kind=jsd
  agentopd compare runs/divergences runs/weights --all
"""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; those that differ in the seed alone are an arm; or sweeps"
    )
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--baseline", metavar="ARM", help="the arm that others are held against (default: the first)")
    against.add_argument("--all", action="store_true", help="hold all arms against each other")
    parser.add_argument(
        "--output", metavar="FOLDER", help="where compare.json and compare.html go (default: the first folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Compares, writes both files, and prints Markdown."""
    import sys
    from pathlib import Path

    from agentopd.cli.leaving import leave
    from agentopd.cli.table import read_in_part
    from agentopd.comparing import compare
    from agentopd.comparing.page import html
    from agentopd.comparing.telling import markdown, sentences, tables, to_dict
    from agentopd.run_files import COMPARISON, COMPARISON_PAGE

    found = compare(arguments.runs, arguments.baseline, arguments.all)
    folder = Path(arguments.output or arguments.runs[0])
    page = html(found, folder.resolve().name)
    leave(folder, {COMPARISON: json.dumps(to_dict(found), indent=2) + "\n", COMPARISON_PAGE: page})
    with read_in_part():
        for table in tables(found):
            print(f"{markdown(table)}\n")
        for line in sentences(found):
            print(f"- {line}")
    print(f"page: {folder / COMPARISON_PAGE}", file=sys.stderr)
    return 0
