"""Fit success, or the divergence from the teacher, as a law of student size, episodes and teacher tokens; say where it holds.

examples:
  agentopd scaling runs/sizes
  agentopd scaling runs/sizes --budget flops=1e17
  agentopd scaling runs/small runs/large --of divergence --output runs/law
  agentopd scaling runs/sizes --law power
"""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; those that differ in the seed alone are a point; or sweeps"
    )
    parser.add_argument(
        "--of", choices=("error", "divergence"), default="error", help="what is fitted (default: error)"
    )
    parser.add_argument(
        "--law",
        choices=("saturating", "power", "constant"),
        default="saturating",
        help="its form (default: saturating)",
    )
    parser.add_argument("--budget", metavar="UNIT=N", help="split flops=N or seconds=N between size and episodes")
    parser.add_argument("--output", metavar="FOLDER", help="where law.json and law.html go (default: the first folder)")


def run(arguments: argparse.Namespace) -> int:
    """Fits, writes both files, and prints Markdown."""
    import sys
    from pathlib import Path

    from agentopd.cli.table import read_in_part
    from agentopd.comparing.telling import markdown
    from agentopd.errors import ConfigError
    from agentopd.run_files import LAW, LAW_PAGE
    from agentopd.scaling import scaling
    from agentopd.scaling.cost import cost_of, read, split
    from agentopd.scaling.kept import to_dict
    from agentopd.scaling.page import html
    from agentopd.scaling.runs import measured
    from agentopd.scaling.telling import sentences, tables

    budget = None if arguments.budget is None else read(arguments.budget)
    measures, notes = measured(arguments.runs, arguments.of)
    found = scaling([one.point for one in measures], arguments.law)
    best = None if budget is None else split(found.fitted, measures, cost_of(measures, budget[0]), budget[1])
    notes = [*found.notes, *notes]
    folder = Path(arguments.output or arguments.runs[0])
    written = {
        LAW: json.dumps(to_dict(found, measures, arguments.of, best, notes), indent=1) + "\n",
        LAW_PAGE: html(found, folder.resolve().name, arguments.of, best, notes),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output: {error}; choose a folder that may be written") from error
    with read_in_part():
        for line in sentences(found, arguments.of, best):
            print(line)
        for table in tables(found):
            print(f"\n{markdown(table)}")
        for note in notes:
            print(f"\n- {note}")
    print(f"page: {folder / LAW_PAGE}", file=sys.stderr)
    return 0
