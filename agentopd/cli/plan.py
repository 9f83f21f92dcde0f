"""Say what a configuration takes of a device's memory and how long a step takes, before anything is loaded; refuse what cannot fit.

examples:
  agentopd plan configs/quickstart.yaml
  agentopd plan configs/scale/one_gpu.yaml --hardware H100
  agentopd plan configs/scale/one_gpu.yaml rollout.engine=transformers train.sharded=true --hardware H100 --gpus 8
  agentopd plan my.yaml --hardware my-card.yaml --run runs/first --json
  agentopd plan my.yaml --law runs/sizes/law.json
"""

import argparse
import json


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("config", help="a YAML file, the name of a shipped one, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that come after the file")
    device = parser.add_mutually_exclusive_group()
    device.add_argument("--hardware", metavar="NAME|FILE", help="H100, H200, A100-80, L40S, RTX4090, or a YAML file")
    device.add_argument(
        "--measure", action="store_true", help="take this machine, measured in a few seconds (the default)"
    )
    parser.add_argument("--gpus", type=int, default=1, help="devices that share the episodes of a step (default: 1)")
    parser.add_argument(
        "--run", dest="lengths", metavar="RUN", help="a run folder whose records say how long episodes are"
    )
    parser.add_argument(
        "--law", metavar="FILE", help="a law.json (agentopd scaling), to say what the run is expected to reach"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan; 1 where it cannot fit."""
    from dataclasses import asdict
    from pathlib import Path

    from agentopd.cli.table import read_in_part, show
    from agentopd.config import load_config
    from agentopd.planning import hardware, plan
    from agentopd.planning.measuring import measured
    from agentopd.planning.telling import lines, tables, to_dict
    from agentopd.run_files import CONFIG
    from agentopd.scaling.kept import expected
    from agentopd.scaling.kept import read as read_law
    from agentopd.scaling.telling import lines_of

    law = None if arguments.law is None else read_law(arguments.law)
    file = Path(arguments.config) / CONFIG
    config = load_config(file if file.exists() else arguments.config, arguments.overrides)
    on = measured() if arguments.hardware is None else hardware(arguments.hardware)
    lengths = None if arguments.lengths is None else Path(arguments.lengths)
    found = plan(config, on, arguments.gpus, lengths)
    reached = None if law is None else expected(law, config, found)
    with read_in_part():
        if arguments.json:
            print(json.dumps(to_dict(found) | ({} if reached is None else {"law": asdict(reached)}), indent=2))
            return int(bool(found.refused))
        for head, rows in tables(found):
            show(head, rows, ruled=False)
            print()
        for line in (*(() if reached is None else lines_of(reached)), *lines(found)):
            print(line)
    return int(bool(found.refused))
