"""List the methods on the three axes, or print one.

examples:
  agentopd methods
  agentopd methods gkd
"""

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("name", nargs="?", help="a recipe to print")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table, or the recipe."""
    import yaml
    from rich.console import Console
    from rich.table import Table

    from agentopd.config import load_recipe, recipes

    if arguments.name:
        print(yaml.safe_dump(load_recipe(arguments.name), sort_keys=False, allow_unicode=True, width=100), end="")
        return 0
    table = Table("method", "signal", "access", "granularity", "title", "paper")
    for name in recipes():
        recipe = load_recipe(name)
        axes = recipe.get("axes", {})
        table.add_row(
            name,
            *(axes.get(a, "") for a in ("signal", "access", "granularity")),
            recipe["title"],
            recipe.get("paper", ""),
        )
    Console().print(table)
    return 0
