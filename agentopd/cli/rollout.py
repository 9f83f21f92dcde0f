"""Play episodes and keep them as records; nothing is trained.

examples:
  agentopd rollout configs/quickstart.yaml --actor expert --episodes 100 --output runs/expert
  agentopd rollout runs/quickstart-1 --episodes 50 --output runs/after rollout.temperature=0.7
"""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("config", help="a run folder, a YAML file, or the name of a shipped one")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that come after the file")
    parser.add_argument("--episodes", type=int, required=True, help="how many")
    parser.add_argument("--output", required=True, help="a folder for the records")
    parser.add_argument("--actor", default="student", choices=("student", "expert"), help="who acts")


def run(arguments: argparse.Namespace) -> int:
    """Plays, writes the records, and prints what the episodes looked like."""
    from pathlib import Path

    from agentopd.cli import source
    from agentopd.training.run.whole import play

    config, student = source.load(arguments.config, arguments.overrides)
    metrics = play(config, arguments.episodes, Path(arguments.output), arguments.actor, student)
    print(json.dumps(metrics, indent=2))
    return 0
