"""Which records a verb means: ``--where a.b=value``, for all verbs that read records."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentopd.records.filters import Filter


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the argument."""
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="a.b=value",
        help="which records: settings of a filter, such as success=true reward.least=0.5 (default: all that did not fail)",
    )


def keep(arguments: argparse.Namespace) -> "Filter":
    """The filter.

    Raises:
        ConfigError: A setting is none of a filter's, or wrong.
    """
    from pydantic import ValidationError

    from agentopd.config.loading import split
    from agentopd.config.overrides import apply
    from agentopd.errors import ConfigError
    from agentopd.records.filters import Filter
    from agentopd.settings.problems import explain

    given: dict[str, Any] = {}
    for key, value in map(split, arguments.where):
        given = apply(given, key, value)
    try:
        return Filter.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"--where {explain(error, Filter)}") from None
