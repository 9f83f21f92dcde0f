"""Whether BFCL's official ground truth is paid by our environment: every multi-turn task, replayed through Gymnasium's reset and step.

    python -m benchmarks.bfcl                    # all categories; pip install "agentopd[bfcl]", then pip install --no-deps bfcl-eval
    python -m benchmarks.bfcl base --table       # only the table, from the stored result

The ground truth's calls are read from bfcl-eval's data, written as canonical actions, all of a user's turn in one, each turn ended by an
action without a call. What is paid is the verdict of bfcl-eval's own checker. A result holds, by category, the number of tasks, the
share that was paid, the actions, the calls, those answered with an error, and the tasks that were not paid with the checker's reason.

Results: ``benchmarks/results/bfcl.json``.
"""

import argparse
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium

import agentopd.envs
from agentopd.envs.bfcl_rows import CATEGORIES, rows_of
from agentopd.tooling import render_action
from benchmarks.measured import add, kept, stopwatch

RESULTS = Path(__file__).parent / "results" / "bfcl.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Replays, stores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("categories", nargs="*", default=[*CATEGORIES], help="which (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    gymnasium.register_envs(agentopd.envs)
    for category in () if arguments.table else arguments.categories:
        add(arguments.results, category, replayed(category))
    print(table(kept(arguments.results)))


def replayed(category: str) -> dict[str, Any]:
    """All tasks of a category."""
    env = gymnasium.make("agentopd/Bfcl-v0", categories=[category])
    elapsed, rows = stopwatch(), rows_of(category)
    actions = calls = errors = 0
    failed: dict[str, str] = {}
    for row in rows.values():
        env.reset(seed=0, options={"id": row.id})
        for turn in row.calls:
            done = [render_action("", turn)] if turn else []
            for action in (*done, "Done."):
                _, reward, over, _, info = env.step(action)
                actions += 1
                errors += len(info["errors"])
            calls += len(turn)
        if not over or reward != 1.0:
            failed[row.id] = str(info["privileged"].get("problem", "it did not end"))
    return {
        "tasks": len(rows),
        "score": 1 - len(failed) / len(rows),
        "failed": failed,
        "actions": actions,
        "calls": calls,
        "errors": errors,
        "bfcl-eval": importlib.metadata.version("bfcl-eval"),
        **elapsed(),
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a category."""
    head = ["| category | tasks | score | actions | calls | errors |", "|---|--:|--:|--:|--:|--:|"]
    lines = [
        f"| {category} | {found['tasks']} | {found['score']:.1%} | {found['actions']} | {found['calls']} | {found['errors']} |"
        for category in CATEGORIES
        if (found := results.get(category))
    ]
    return "\n".join([*head, *lines])


if __name__ == "__main__":
    main()
