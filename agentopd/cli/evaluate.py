"""Play the fixed panel of held-out tasks with a student.

examples:
  agentopd eval runs/quickstart-1
  agentopd eval runs/quickstart-1 evaluation.temperature=1.0 --tasks 500
  agentopd eval configs/quickstart.yaml student.model=my/model --tasks 50
"""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("config", help="a run folder, a YAML file, or the name of a shipped one")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that come after the file")
    parser.add_argument("--tasks", type=int, help="how many tasks (default: evaluation.tasks)")


def run(arguments: argparse.Namespace) -> int:
    """Plays, and prints success with its interval."""
    from agentopd.cli import source
    from agentopd.training.run.whole import evaluate

    config, student = source.load(arguments.config, arguments.overrides)
    panel = evaluate(config, student, arguments.tasks)
    print(json.dumps({"success": panel.success.text(), "tasks": panel.success.n}, indent=2))
    return 0
