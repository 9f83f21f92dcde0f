"""List the environments that agentopd ships, with their tools.

examples:
  agentopd envs
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Has no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Prints the table."""
    from agentopd import env as environments
    from agentopd.cli.table import show
    from agentopd.envs import ENVS

    rows = []
    for env_id in ENVS:
        env = environments.make(env_id)
        summary = (type(env.unwrapped).__doc__ or "").partition("\n")[0]
        expert = "yes" if environments.has_expert(env) else "no"
        rows.append((env_id, summary, ", ".join(environments.tools_of(env).names), expert))
        env.close()
    show(("id", "what it is", "tools", "expert"), rows)
    return 0
