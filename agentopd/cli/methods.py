"""List the methods on the three axes, or print one.

examples:
  agentopd methods
  agentopd methods gkd
  agentopd methods | grep outcomes
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("name", nargs="?", help="a recipe to print")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the recipe."""
    import yaml

    from agentopd.cli.table import show
    from agentopd.config.shipped import load_recipe, recipes

    if arguments.name:
        print(yaml.safe_dump(load_recipe(arguments.name), sort_keys=False, allow_unicode=True, width=100), end="")
        return 0
    show(("method", "what it is; signal, access, granularity; paper"), [(name, _said_of(name)) for name in recipes()])
    return 0


def _said_of(name: str) -> str:
    """Title, place on the axes and paper of a recipe, a line each."""
    from agentopd.config.shipped import load_recipe

    recipe = load_recipe(name)
    axes = ", ".join(recipe["axes"][axis] for axis in ("signal", "access", "granularity"))
    return "\n".join([recipe["title"], axes, recipe.get("paper", "")]).rstrip()
