"""List the environments that agentopd ships, with their tools.

examples:
  agentopd envs
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Has no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    from agentopd import env as environments
    from agentopd.envs import ENVS

    table = Table("id", "what it is", "tools", "expert")
    for env_id in ENVS:
        env = environments.make(env_id)
        summary = (type(env.unwrapped).__doc__ or "").partition("\n")[0]
        expert = "yes" if environments.has_expert(env) else "no"
        table.add_row(env_id, summary, ", ".join(environments.tools_of(env).names), expert)
    Console().print(table)
    return 0
