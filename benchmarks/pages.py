"""The tables of README.md and of docs/: each stands between marks that name the command which makes it of stored results.

    python -m benchmarks.pages             # writes every table anew
    python -m benchmarks.pages --check     # says which are not what their command prints

A table begins with ``<!-- table: python -m benchmarks.NAME --table -->`` and ends with ``<!-- end of table -->``.
"""

import argparse
import importlib
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TABLE = re.compile(
    r"(<!-- table: python -m (?P<command>benchmarks\.[^\n]*?) -->\n)(?P<rows>.*?)(<!-- end of table -->)", re.DOTALL
)


def main(argv: Sequence[str] | None = None) -> int:
    """Writes what differs, or only names it; 1 where there is something to name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check, found = parser.parse_args(argv).check, False
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for command in stale(text):
            found = True
            print(f"{path.relative_to(ROOT)}: python -m {command}")
        if not check:
            path.write_text(filled(text), encoding="utf-8")
    return int(found and check)


def pages() -> list[Path]:
    """The pages that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """What makes the tables of a page, in their order."""
    return [one["command"] for one in _TABLE.finditer(text)]


def table(text: str, command: str) -> str:
    """What a page has as the table that a command makes."""
    return next(one["rows"] for one in _TABLE.finditer(text) if one["command"] == command)


def stale(text: str) -> Iterator[str]:
    """The commands whose tables are not what they print."""
    return (one["command"] for one in _TABLE.finditer(text) if one["rows"] != printed(one["command"]))


def filled(text: str) -> str:
    """A page with every table as its command prints it."""
    return _TABLE.sub(lambda one: f"{one[1]}{printed(one['command'])}{one[4]}", text)


@cache
def printed(command: str) -> str:
    """What a benchmark prints, which has to ask for its table alone; white space at the ends of lines left out."""
    module, *arguments = shlex.split(command)
    if "--table" not in arguments:
        raise ValueError(f"{command}: a page holds tables of stored results; add --table")
    out = io.StringIO()
    with redirect_stdout(out):
        importlib.import_module(module).main(arguments)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").split("\n")) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
