"""Arms of a planned sweep, each with its seeds, run one after the other and kept in a file an arm: what is finished is never run twice."""

import argparse
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentopd.file_lock import HELD, take
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


def missing(
    results: Path, arms: Sequence[str], seeds: Sequence[int], output: Path
) -> Generator[tuple[str, int, Path], None, None]:
    """The arms and seeds of which nothing is kept and that no other process is at, all arms of a seed before the next.

    With each comes the folder of its run, under ``output``. While it is at hand no other process gets it.
    """
    for seed in seeds:
        for arm in arms:
            folder = output / f"{arm}-{seed}"
            with _claimed(folder) as mine:
                if mine and str(seed) not in kept(results / f"{arm}.json"):
                    yield arm, seed, folder


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no other process has claimed a run; then this one has, until it leaves or ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("a", encoding="utf-8") as file:
        mine = True
        try:
            take(file)
        except OSError as error:
            if error.errno not in HELD:
                raise
            mine = False
        yield mine


def run(plan: Plan, arm: str, overrides: Sequence[str], output: Path) -> dict[str, Any]:
    """Trains one arm, with ``overrides`` beside the plan's, or goes on with it where it was cut off."""
    own = next(one.overrides for one in plan.arms if one.name == arm)
    bound = plan.budget.overrides(plan.configs[arm]) if plan.budget is not None else []
    return measured_run([*plan.overrides, *own, *bound, *overrides], output, plan.source, resume=True)


def keep(results: Path, arm: str, seed: int, result: dict[str, Any]) -> None:
    """Keeps what one run found, beside the arm's other seeds."""
    add(results / f"{arm}.json", str(seed), result)
