"""Write recorded episodes as chat data that other programs read: conversations, turns to imitate, or pairs of better and worse.

examples:
  agentopd export runs/first --format openai --output first.jsonl
  agentopd export runs/first --format sft --where success=true turns.most=8
  agentopd export runs/first --format preference --output pairs
  agentopd export runs/first --format trl --push me/first
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import agentopd.cli.chosen as chosen


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("records", help="a run folder, or a records folder")
    parser.add_argument(
        "--format",
        required=True,
        choices=("openai", "sharegpt", "trl", "sft", "preference"),
        help="whole conversations for OpenAI, LLaMA-Factory (ShareGPT) or TRL; each good turn with what came before; or pairs for DPO",
    )
    parser.add_argument(
        "--output", help="*.jsonl, *.parquet, or a folder for datasets.load_from_disk (default: RUN-FORMAT.*)"
    )
    parser.add_argument(
        "--push", metavar="REPO", help="put it on the hub of data sets instead, as whoever is logged in"
    )
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    chosen.add_where(parser, "all that did not fail")
    parser.add_argument("--metadata", action="store_true", help="add the key, the task and the outcome of each episode")
    parser.add_argument(
        "--privileged",
        action="store_true",
        help="add to these what was never shown to the student, such as answers and advice",
    )
    parser.add_argument(
        "--pairs",
        default="both",
        choices=("episodes", "corrections", "both"),
        help="of preference: a success and a failure at one task, turns and a teacher's corrections of them, or both (default: %(default)s)",
    )
    parser.add_argument("--teacher", help="of preference: whose corrections (default: all teachers')")
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> int:
    """Writes, and prints what and where."""
    from agentopd import records
    from agentopd.errors import ConfigError
    from agentopd.filters import Filter
    from agentopd.sharing import Wish, export, push
    from agentopd.sharing.formats import FORMATS

    texts = [*arguments.where, *arguments.overrides]
    if arguments.push and arguments.output:
        raise ConfigError(f"--push {arguments.push}: it goes to the hub, and --output says a file; give one of them")
    if arguments.public and not arguments.push:
        raise ConfigError("--public: it concerns the hub; give --push REPO, or leave it out")
    wish = Wish(
        arguments.format,
        chosen.where(texts) or Filter(),
        arguments.metadata or arguments.privileged,
        arguments.privileged,
        arguments.pairs,
        arguments.teacher,
    )
    found = records.open(arguments.records)
    if arguments.push:
        told, place = push(found, arguments.push, wish, not arguments.public), f"hf:{arguments.push}"
    else:
        name = f"{Path(arguments.records).resolve().name}-{arguments.format}{FORMATS[arguments.format].suffix}"
        place = arguments.output or name
        told = export(found, place, wish)
    print(json.dumps({"output": place, **asdict(told)}, indent=2))
    return 0
