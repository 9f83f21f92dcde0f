"""List the environments that agentopd ships, with their tools.

examples:
  agentopd envs
"""

import argparse
from collections.abc import Sequence

MOST_TOOLS = 12
"""Of which the names are told."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Has no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    from gymnasium.envs.registration import load_env_creator
    from gymnasium.error import DependencyNotInstalled

    from agentopd import env as environments
    from agentopd.cli.table import read_in_part, show
    from agentopd.envs import ENVS
    from agentopd.errors import ConfigError

    rows = []
    for env_id, registration in ENVS.items():
        what, tools, expert = "", "", ""
        try:
            what = load_env_creator(registration["entry_point"]).__doc__ or ""
            env = environments.make(env_id)
        except (ConfigError, DependencyNotInstalled) as error:  # it lacks a package, or has to be made with something
            tools = str(error)
        else:
            tools, expert = few(environments.tools_of(env).names), "yes" if environments.has_expert(env) else "no"
            env.close()
        rows.append((env_id, what.partition("\n")[0], tools, expert))
    with read_in_part():
        show(("id", "what it is", "tools", "expert"), rows)
    return 0


def few(names: Sequence[str]) -> str:
    """The names of tools, in one cell."""
    more = len(names) - MOST_TOOLS
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MOST_TOOLS])} and {more} more"
