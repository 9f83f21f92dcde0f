"""The command line: ``agentopd VERB ...``, one small file a verb."""

import argparse
import sys
from collections.abc import Sequence

from agentopd import __version__, cli
from agentopd.errors import AgentOPDError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 1 for what a command found wrong, 2 for an error of the user's."""
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
        return int(arguments.run(arguments))
    except AgentOPDError as error:
        message = " ".join(str(error).split())
        print(f"agentopd: {type(error).__name__}: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("agentopd: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
