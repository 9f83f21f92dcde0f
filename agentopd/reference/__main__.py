"""Writes one of the pages to standard output."""

import argparse
from collections.abc import Callable, Mapping, Sequence

from agentopd.reference import api, configuration

PAGES: Mapping[str, Callable[[], str]] = {"configuration": configuration.page, "api": api.page}
"""By its name: what writes the page ``docs/<name>.md``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the page that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m agentopd.reference", description=__doc__)
    parser.add_argument("page", choices=PAGES)
    print(PAGES[parser.parse_args(argv).page](), end="")
    return 0


if __name__ == "__main__":
    main()
