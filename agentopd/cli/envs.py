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
    from agentopd import env as environments
    from agentopd.cli.table import read_in_part, show
    from agentopd.envs import ENVS
    from agentopd.errors import ConfigError

    rows = []
    for env_id in ENVS:
        try:
            env = environments.make(env_id)
        except ConfigError as error:  # a package that it needs is not installed
            rows.append((env_id, str(error), "", ""))
            continue
        summary = (type(env.unwrapped).__doc__ or "").partition("\n")[0]
        expert = "yes" if environments.has_expert(env) else "no"
        rows.append((env_id, summary, few(environments.tools_of(env).names), expert))
        env.close()
    with read_in_part():
        show(("id", "what it is", "tools", "expert"), rows)
    return 0


def few(names: Sequence[str]) -> str:
    """The names of tools, in one cell."""
    more = len(names) - MOST_TOOLS
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MOST_TOOLS])} and {more} more"
