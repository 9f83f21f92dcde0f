"""Let teachers annotate recorded trajectories; nothing is played or trained, and nobody is asked twice.

examples:
  agentopd annotate runs/first --teacher teachers.judge.kind=reward --output runs/judged
  agentopd annotate runs/first --teacher teachers.big.kind=served teachers.big.url=http://127.0.0.1:8000 --step 0-9
  agentopd annotate runs/first --teacher teacher --block sparse --k 64
  agentopd annotate runs/expert --config configs/quickstart.yaml --teacher teachers.yaml --output runs/taught
"""

import argparse
import json
import re


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
    parser.add_argument("--step", metavar="N[-M]", help="a step, or the first and the last of several (default: all)")
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
    told = annotate(asked, arguments.output, _steps(arguments.step), arguments.cache)
    print(json.dumps(told, indent=2))
    return 0


def _steps(text: str | None) -> range | None:
    """The steps that ``N`` or ``N-M`` means."""
    from agentopd.errors import ConfigError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ConfigError(f"--step {text}: give a step, such as 3, or the first and the last of several, such as 0-9")
    return range(int(found[1]), int(found[2] or found[1]) + 1)
