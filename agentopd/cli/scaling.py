"""Fit success, or the divergence from the teacher, as a law of student size, episodes and teacher tokens; say where it holds.

examples:
  agentopd scaling runs/sizes
  agentopd scaling runs/sizes --budget flops=1e17
  agentopd scaling runs/small runs/large --of divergence --output runs/law
  agentopd scaling runs/hints --law self_distillation
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any


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
        choices=("saturating", "power", "constant", "self_distillation"),
        default="saturating",
        help="its form (default: saturating)",
    )
    parser.add_argument("--budget", metavar="UNIT=N", help="split flops=N or seconds=N between size and episodes")
    parser.add_argument("--output", metavar="FOLDER", help="where law.json and law.html go (default: the first folder)")


def run(arguments: argparse.Namespace) -> int:
    """Fits, writes both files, and prints sentences and Markdown."""
    import sys
    from pathlib import Path

    from agentopd.cli.leaving import leave
    from agentopd.cli.table import read_in_part
    from agentopd.run_files import LAW, LAW_PAGE

    folder = Path(arguments.output or arguments.runs[0])
    text, plain, page = (_gains if arguments.law == "self_distillation" else _law)(arguments, folder.resolve().name)
    leave(folder, {LAW: json.dumps(plain) + "\n", LAW_PAGE: page})
    with read_in_part():
        print(text)
    print(f"page: {folder / LAW_PAGE}", file=sys.stderr)
    return 0


def _law(arguments: argparse.Namespace, title: str) -> tuple[str, dict[str, Any], str]:
    """What is printed, kept and shown of a law of size and episodes."""
    from agentopd.comparing.telling import markdown
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
    parts = ["\n".join(sentences(found, arguments.of, best)), *map(markdown, tables(found)), *_listed(notes)]
    plain = to_dict(found, measures, arguments.of, best, notes)
    return "\n\n".join(parts), plain, html(found, title, arguments.of, best, notes)


def _gains(arguments: argparse.Namespace, title: str) -> tuple[str, dict[str, Any], str]:
    """The same of the law of self-distillation."""
    from agentopd.errors import ConfigError
    from agentopd.scaling.gains import gain_law, gains_of, lines, to_dict
    from agentopd.scaling.page import gains_html

    if arguments.budget is not None or arguments.of != "error":
        raise ConfigError(
            "--law self_distillation: it is of success, and says nothing of size or budget; leave --of and --budget out"
        )
    points, notes = gains_of(arguments.runs)
    law = gain_law(points)
    return "\n\n".join(["\n".join(lines(law)), *_listed(notes)]), to_dict(law, notes), gains_html(law, title, notes)


def _listed(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {note}" for note in notes)] if notes else []
