"""The environment of docs/tutorial.md, word for word: what training on it gains, and in what time.

    python -m benchmarks.own_environment --seeds 0 1 2      # resumable: finished runs are kept
    python -m benchmarks.own_environment --table            # the figures from the stored results

Results: ``benchmarks/results/own_environment.json``.
"""

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import keep, kept, measured_run

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
RESULTS = Path(__file__).parent / "results" / "own_environment.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "guess.py").write_text(example(), encoding="utf-8")
        sys.path.insert(0, folder)
        for seed in [] if arguments.table else arguments.seeds:
            if str(seed) not in results:
                # a cache of its own, so that the time is that of a first run
                overrides = [*command(), f"seed={seed}", f"stages.cache={folder}/cache-{seed}"]
                results[str(seed)] = measured_run(overrides, Path(folder) / f"run-{seed}")
                keep(RESULTS, results)
    print(table(results))


def example() -> str:
    """The file ``guess.py`` of the page."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    [text] = [block for block in blocks if "class Guess" in block]
    return str(text)


def command() -> list[str]:
    """The overrides of the page's command."""
    [line] = re.findall(
        r"^agentopd train configs/quickstart.yaml (env.id=guess:.*)$", PAGE.read_text(encoding="utf-8"), re.M
    )
    return shlex.split(str(line))


def table(results: dict[str, Any]) -> str:
    """Rows by seed, as Markdown."""
    from agentopd.evaluation import Rate, paired_difference

    lines = ["| seed | before | after | gain, paired | seconds, stages included |", "|---|---|---|---|---|"]
    for seed, result in sorted(results.items()):
        before, after = (result["success"][panel] for panel in ("student_before", "student_after"))
        rates = " | ".join(Rate(sum(panel), len(panel)).text() for panel in (before, after))
        lines.append(f"| {seed} | {rates} | {paired_difference(before, after).text()} | {result['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
