"""Train a student: stages, on-policy distillation, the panel, the report.

examples:
  agentopd train configs/quickstart.yaml
  agentopd train configs/quickstart.yaml method=gkd train.steps=10 --output runs/gkd
  agentopd train configs/quickstart.yaml env.id=guess:me/Guess-v0
  agentopd train configs/quickstart.yaml objective.weight.kind=mine:confident --check
  agentopd train runs/gkd --resume
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentopd.config import Config


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("config", help="a YAML file, or the name of a shipped one; with --resume, the run folder")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that come after the file")
    parser.add_argument("--output", help="the run folder (default: runs/NAME-N, the first that is free)")
    parser.add_argument(
        "--check",
        action="store_true",
        help="look for what can be found wrong before anything is fitted, and train nothing",
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run from its last checkpoint")


def run(arguments: argparse.Namespace) -> int:
    """Trains, and prints where the run is; or only checks."""
    from agentopd.training.loop.ranks import joined
    from agentopd.training.run.whole import check, train

    ranks = joined()
    config, output = ranks.agree(lambda: _asked(arguments))
    output = ranks.first(lambda: output)
    if arguments.check:
        check(config, output, arguments.resume)
        told = "nothing was found wrong"
    else:
        result = train(config, output, arguments.resume)
        summary = {name: panel.success.text() for name, panel in result.panels.items()}
        told = json.dumps({"run": str(result.run_dir), **summary}, indent=2)
    if ranks.is_first:
        print(told)
    return 0


def _asked(arguments: argparse.Namespace) -> "tuple[Config, Path]":
    """The configuration, and the folder of the run."""
    from agentopd.config import load_config
    from agentopd.errors import ConfigError
    from agentopd.run_files import CONFIG
    from agentopd.training.run.whole import free_folder

    given, output = arguments.config, arguments.output
    if (folder := Path(given)).is_dir():
        if not arguments.resume:
            raise ConfigError(
                f"{given} is a folder: add --resume to go on with the run in it, or give a configuration's file"
            )
        given, output = folder / CONFIG, output or given
    if arguments.resume and not output:
        raise ConfigError("--resume: which run? give its folder, such as agentopd train runs/first --resume")
    config = load_config(given, arguments.overrides)
    return config, Path(output or free_folder(Path("runs"), Path(given).stem))
