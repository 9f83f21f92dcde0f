"""Look at recorded episodes, token by token, in a browser: one file, or a server of this machine alone.

examples:
  agentopd view runs/quickstart-1
  agentopd view runs/quickstart-1 --where success=false turns.least=3 --output failures.html
  agentopd view runs/first runs/second
  agentopd view runs/large --serve
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import agentopd.cli.chosen as chosen

if TYPE_CHECKING:
    from pathlib import Path

    from agentopd.filters import Filter
    from agentopd.viewer.sources import Source


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "records", nargs="+", metavar="RECORDS", help="a run folder, or a records folder; several are shown in one list"
    )
    parser.add_argument("--output", help="the file to write (default: view.html in the first run's folder)")
    chosen.add_where(parser)
    parser.add_argument(
        "--teacher",
        action="append",
        metavar="NAME",
        help="show what this teacher said alone; may be given again (default: all)",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="whose tokenizer reads the tokens (default: the run's own)"
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="serve the page on this machine instead of writing a file, for folders too large for one",
    )
    parser.add_argument("--port", type=int, help="of --serve (default: any that is free)")
    parser.set_defaults(overrides=[])  # settings may also follow the options


def run(arguments: argparse.Namespace) -> int:
    """Writes the page and prints where it is, or serves it until it is interrupted."""
    from agentopd.errors import ConfigError
    from agentopd.viewer.sources import opened

    if arguments.port is not None and not arguments.serve:
        raise ConfigError("--port: there is a port only with --serve")
    if arguments.serve and arguments.output is not None:
        raise ConfigError("--output: with --serve nothing is written; give one or the other")
    where = _chosen([*arguments.where, *arguments.overrides])
    sources = opened(arguments.records, where, arguments.teacher, arguments.tokenizer)
    return _serve(sources, arguments.port or 0) if arguments.serve else _write(sources, arguments.output)


def _chosen(texts: "Sequence[str]") -> "Filter":
    """The filter that settings stand for; episodes that failed are meant too, unless one says otherwise."""
    every = [] if any(text.startswith("failed=") for text in texts) else ["failed=null"]
    selected = chosen.where([*texts, *every])
    assert selected is not None  # there is one setting at least
    return selected


def _write(sources: "Sequence[Source]", output: str | None) -> int:
    from agentopd.errors import ConfigError
    from agentopd.viewer.view import write_view

    try:
        path = write_view(sources, output, _progress)
    except OSError as error:
        raise ConfigError(f"--output: {error}; choose a file in a folder that exists and may be written") from error
    _done()
    _tell_damage(sources)
    _link_to(path)
    print(path)
    return 0


def _link_to(path: "Path") -> None:
    """Has the report that lies beside a run's page, if one does, written anew: it links to that page then."""
    from agentopd.run_files import CONFIG, REPORT, VIEW
    from agentopd.viewer import write_report

    if path.name == VIEW and (path.parent / REPORT).exists() and (path.parent / CONFIG).exists():
        write_report(path.parent)


def _serve(sources: "Sequence[Source]", port: int) -> int:
    from agentopd.errors import ConfigError
    from agentopd.viewer.serve import server

    try:
        made, address = server(sources, port, _progress)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"--port {port}: {error}; give another, or leave it out") from error
    _done()
    _tell_damage(sources)
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    try:
        made.serve_forever()
    finally:
        made.server_close()
    return 0


def _tell_damage(sources: "Sequence[Source]") -> None:
    """Names what is not on the page since it cannot be read."""
    for source in sources:
        for damage in source.records.damaged:
            print(f"left out: {damage}", file=sys.stderr)


def _progress(count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{count:,} trajectories read", end="", file=sys.stderr, flush=True)


def _done() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
