"""The command line as the child of a sweep: it ends, as after SIGTERM, when its parent is gone, however that went."""

import os
import signal
import sys
import threading

from agentopd.__main__ import main as command_line


def main() -> int:
    """Runs the command in the arguments; the parent holds the other end of stdin and writes nothing."""
    threading.Thread(target=_watch, daemon=True).start()
    return command_line(sys.argv[1:])


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
