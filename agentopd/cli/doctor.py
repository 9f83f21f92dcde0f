"""Look at a setup before it burns hours: what is wrong, and what to do about it. Nothing is fitted.

examples:
  agentopd doctor configs/quickstart.yaml
  agentopd doctor my.yaml student.model=my/model train.max_tokens=4096
  agentopd doctor my.yaml --json
"""

import argparse
import json
from dataclasses import asdict


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("config", help="a YAML file, the name of a shipped one, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that come after the file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; 1 where a check failed."""
    from pathlib import Path

    from agentopd.cli.table import read_in_part, show
    from agentopd.config import load_config
    from agentopd.doctor import examine
    from agentopd.run_files import CONFIG

    file = Path(arguments.config) / CONFIG
    checks, notes = examine(load_config(file if file.exists() else arguments.config, arguments.overrides))
    with read_in_part():
        if arguments.json:
            told = {"checks": [asdict(check) for check in checks], "notes": notes}
            print(json.dumps(told, indent=2, ensure_ascii=False))
        else:
            show(
                ("check", "result", "what was found", "what to do"), [tuple(asdict(check).values()) for check in checks]
            )
            for note in notes:
                print(note)
    return int(any(check.status == "fail" for check in checks))
