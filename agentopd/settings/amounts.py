"""Amounts as they are given on the command line: ``unit=N``."""

import math
from collections.abc import Sequence

from agentopd.errors import ConfigError


def amount_of(text: str, key: str, units: Sequence[str], least: float = 0.0) -> tuple[str, float]:
    """The unit and the amount that a text such as ``episodes=4800`` says.

    Args:
        text: What was given.
        key: The option, for messages.
        units: Those that it takes.
        least: Which the amount must reach; it is above 0 in any case.

    Raises:
        ConfigError: It says something else.
    """
    unit, _, number = text.partition("=")
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if unit not in units or not (least <= amount < math.inf and amount > 0):
        *others, last = (f"{one}=N" for one in units)
        bound = f"at least {least:g}" if least else "above 0"
        raise ConfigError(f"{key} {text}: expected {', '.join(others)} or {last}, with N {bound}")
    return unit, amount
