"""Arms of a planned sweep, each with its seeds, run one after the other and kept in a file an arm: what is finished is never run twice."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentopd.sweeps.plan import Plan
from benchmarks.measured import add, kept, measured_run


def add_places(parser: argparse.ArgumentParser, results: Path) -> None:
    """Adds where runs and results go, and the forms that run less."""
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("runs") / f"benchmark-{results.name.replace('_', '-')}")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument(
        "--smoke", action="store_true", help="so little of all that nothing is learned; give --results and --output too"
    )
    parser.add_argument("--table", action="store_true", help="only print what the stored results say")


def missing(results: Path, arms: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The arms and seeds of which nothing is kept, all arms of a seed before the next."""
    for seed in seeds:
        for arm in arms:
            if str(seed) not in kept(results / f"{arm}.json"):
                yield arm, seed


def run(plan: Plan, arm: str, overrides: Sequence[str], output: Path) -> dict[str, Any]:
    """Trains one arm, with ``overrides`` beside the plan's, or goes on with it where it was cut off."""
    own = next(one.overrides for one in plan.arms if one.name == arm)
    bound = plan.budget.overrides(plan.configs[arm]) if plan.budget is not None else []
    return measured_run([*plan.overrides, *own, *bound, *overrides], output, plan.source, resume=True)


def keep(results: Path, arm: str, seed: int, result: dict[str, Any]) -> None:
    """Keeps what one run found, beside the arm's other seeds."""
    add(results / f"{arm}.json", str(seed), result)
