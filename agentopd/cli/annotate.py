"""Let teachers annotate recorded trajectories; nothing is played or trained, and nobody is asked twice.

examples:
  agentopd annotate runs/first --teacher teachers.judge.kind=reward --output runs/judged
  agentopd annotate runs/first --teacher teachers.big.kind=served teachers.big.url=http://127.0.0.1:8000 --step 0-9
  agentopd annotate runs/first --teacher teacher --block sparse --k 64
  agentopd annotate runs/expert --config configs/quickstart.yaml --teacher teachers.yaml --output runs/taught
"""

import argparse
import json

import agentopd.cli.chosen as chosen


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("records", help="a run folder, or a records folder")
    parser.add_argument(
        "--teacher",
        nargs="+",
        required=True,
        metavar="FILE|NAME|a.b=value",
        help="who is asked: a YAML file with teachers or one teacher, a teacher of the run by its name, or settings",
    )
    parser.add_argument("--output", help="a folder for the annotated records (default: RUN-annotated)")
    parser.add_argument(
        "--config", help="what the episodes were played with, where no config.yaml lies beside the records"
    )
    chosen.add_step(parser)
    parser.add_argument(
        "--block",
        default="sparse",
        choices=("sparse", "compact", "sampled"),
        help="what is kept of whole distributions: the k likeliest tokens, these in fewer bytes, a little off, or the taken one alone "
        "(default: %(default)s)",
    )
    parser.add_argument("--k", type=int, default=64, help="how many tokens a sparse row keeps (default: %(default)s)")
    parser.add_argument("--cache", help="the folder of what teachers said before (default: stages.cache)")
    parser.set_defaults(overrides=[])  # settings may also follow the options


def run(arguments: argparse.Namespace) -> int:
    """Asks, and prints where the records are and what was asked."""
    from agentopd.training.annotating.question import question
    from agentopd.training.annotating.whole import annotate

    given = [*arguments.teacher, *arguments.overrides]
    asked = question(arguments.records, given, arguments.config, arguments.block, arguments.k)
    told = annotate(asked, arguments.output, chosen.steps(arguments.step), arguments.cache)
    print(json.dumps(told, indent=2))
    return 0
