"""The command line: ``agentopd VERB ...``, one small file a verb."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from agentopd import __version__, cli
from agentopd.errors import AgentOPDError


class Terminated(KeyboardInterrupt):
    """SIGTERM, as sent by schedulers and ``kill``: it ends a command as an interrupt does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 for what a command found wrong, 2 for an error of the user's, and as shells
    have it 130 after an interrupt (Ctrl-C) and 143 after SIGTERM."""
    sys.path.insert(0, "")  # a user's own environment lies in the working directory
    parser = argparse.ArgumentParser(
        prog="agentopd",
        description="Train tool-using agents by on-policy distillation.",
        epilog="agentopd VERB --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"agentopd {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in cli.VERBS.items():
        summary, _, examples = (verb.__doc__ or "").partition("\n\n")
        child = verbs.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.configure(child)
        child.set_defaults(run=verb.run)
    arguments, rest = parser.parse_known_args(argv)
    late = [text for text in rest if "=" in text and not text.startswith("-")]
    if len(late) < len(rest) or (late and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if late:  # argparse takes positionals in one go; settings may also follow the options
        arguments.overrides = [*arguments.overrides, *late]
    try:
        with _terminable():
            return int(arguments.run(arguments))
    except AgentOPDError as error:
        message = " ".join(str(error).split())
        if not error.is_told:
            print(f"agentopd: {type(error).__name__}: {message}", file=sys.stderr)
        return 2
    except Terminated:
        _tell("terminated")
        return 143
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130


def _tell(end: str) -> None:
    """Says how a command ended, which several processes do at the same time, once."""
    if os.environ.get("RANK", "0") == "0":
        print(f"agentopd: {end}", file=sys.stderr)


@contextmanager
def _terminable() -> Iterator[None]:
    """Raises :class:`Terminated` on SIGTERM, unless whoever called ``main`` has said what is to happen then."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
