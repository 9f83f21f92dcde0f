"""Say how the student behaves in recorded episodes: calls beside a teacher's or expert's, repetitions, errors, depth, tools.

examples:
  agentopd stats runs/first
  agentopd stats runs/first --by step --where env=agentopd/Checkout-v0
  agentopd stats runs/taught --teacher expert --json
"""

import argparse
import json

import agentopd.cli.chosen as chosen


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("records", help="a run folder, or a records folder")
    chosen.add_where(parser, "all that did not fail")
    parser.add_argument(
        "--teacher",
        help="the only teacher to hold calls and tokens against; expert is the environment's (default: all)",
    )
    parser.add_argument("--by", choices=("step", "env", "family", "version"), help="count in groups too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> int:
    """Counts, and prints tables."""
    from agentopd import records
    from agentopd.behaviour import behaviour
    from agentopd.behaviour.telling import tables, to_dict
    from agentopd.cli.table import read_in_part, show
    from agentopd.filters import Filter

    texts = [*arguments.where, *arguments.overrides]
    found = behaviour(records.open(arguments.records), chosen.where(texts) or Filter(), arguments.teacher, arguments.by)
    if arguments.json:
        print(json.dumps(to_dict(found), indent=2))
        return 0
    with read_in_part():
        for number, (head, rows) in enumerate(tables(found)):
            if number:
                print()
            show(head, rows, ruled=False)
        if missing := found.missing:
            print("\nnot told:")
        for sentence in missing:
            print(f"- {sentence}")
    return 0
