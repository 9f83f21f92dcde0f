"""Which records a verb is about: ``--step`` and ``--where``."""

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentopd.filters import Filter


def add_step(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds ``--step``, of which ``more`` is to be told."""
    parser.add_argument(
        "--step", metavar="N[-M]", help=f"a step, or the first and the last of several (default: all){more}"
    )


def add_where(parser: argparse.ArgumentParser, default: str = "all") -> None:
    """Adds ``--where``; ``default`` is what is meant without it."""
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="a.b=value",
        help=f"only these episodes, such as success=false env=agentopd/Sql-v0 turns.least=3 (default: {default})",
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


def where(texts: Sequence[str]) -> "Filter | None":
    """The filter that settings ``a.b=value`` make; ``None`` without any.

    Raises:
        ConfigError: One is no setting of a filter, or has a wrong value.
    """
    from pydantic import ValidationError

    from agentopd.config.loading import split
    from agentopd.config.overrides import apply
    from agentopd.errors import ConfigError
    from agentopd.filters import Filter
    from agentopd.settings.problems import explain

    if not texts:
        return None
    raw: dict[str, Any] = {}
    for text in texts:
        raw = apply(raw, *split(text))
    try:
        return Filter.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"--where {' '.join(texts)}: {explain(error, Filter)}") from None
