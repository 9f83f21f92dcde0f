"""Which steps a verb is about: ``--step``."""

import argparse
import re


def add_step(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds ``--step``, of which ``more`` is to be told."""
    parser.add_argument(
        "--step", metavar="N[-M]", help=f"a step, or the first and the last of several (default: all){more}"
    )


def steps(text: str | None) -> range | None:
    """The steps that ``N`` or ``N-M`` means.

    Raises:
        ConfigError: It means none.
    """
    from agentopd.errors import ConfigError

    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None or int(found[2] or found[1]) < int(found[1]):
        raise ConfigError(f"--step {text}: give a step, such as 3, or the first and the last of several, such as 0-9")
    return range(int(found[1]), int(found[2] or found[1]) + 1)
