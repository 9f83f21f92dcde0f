"""Cases that are measured in a process of their own, so that none inherits memory or warmth from another."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any


def lines_of(module: str, case: Sequence[str], threads: int) -> Iterator[dict[str, Any]]:
    """Runs ``python -m module --case ...`` and yields what it tells, one JSON object a line, as it comes.

    It has so many threads, each bound to a core: two that share one wait for each other at every operation.
    """
    command = [sys.executable, "-m", module, "--case", *case]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_PROC_BIND": "true"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")


def tell(found: dict[str, Any]) -> None:
    """From inside of such a process."""
    print(json.dumps(found), flush=True)


def peak_bytes() -> int:
    """The most memory that this process ever held, which never falls: take differences."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
