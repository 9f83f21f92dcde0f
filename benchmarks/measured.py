"""Measured runs of shipped configurations, and their results as they are kept."""

import argparse
import fcntl
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agentopd.run_files import CONFIG


def measured_run(
    overrides: Sequence[str], output: Path, name: str = "quickstart", resume: bool = False
) -> dict[str, Any]:
    """Trains the configuration ``name`` with ``overrides``: successes of every panel task by task, seconds of the whole run, and what made them.

    With ``resume`` a run that was cut off goes on, and the seconds are those of the rest.
    """
    import agentopd

    config = agentopd.load_config(name, list(overrides))
    begin = time.perf_counter()
    result = agentopd.train(config, output, resume=resume and (output / CONFIG).exists())
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        **made_by(),
        "updates": config.train.steps,
        "success": {name: panel.success_B.astype(int).tolist() for name, panel in result.panels.items()},
    }


def arms_parser(doc: str | None, seeds: Sequence[int], arms: Iterable[str], results: Path) -> argparse.ArgumentParser:
    """What a benchmark of several arms and seeds takes; its runs lie in a folder of the name of its ``results``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    arms = list(arms)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms)
    parser.add_argument("--output", type=Path, default=Path("runs") / f"benchmark-{results.stem.replace('_', '-')}")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="a.b=value", help="to try it out; give --results and --output too"
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    return parser


def missing(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """The arms and seeds of which nothing is kept; none where only the table is asked for."""
    for seed in [] if arguments.table else arguments.seeds:
        for arm in arguments.arms:
            if f"{arm}/{seed}" not in kept(arguments.results):
                yield arm, seed


def made_by() -> dict[str, Any]:
    """What a measurement ran on."""
    import torch

    import agentopd

    return {
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "agentopd": agentopd.__version__,
    }


def stopwatch() -> Callable[[], dict[str, float]]:
    """Starts now; what it returns tells the seconds since then, by the clock and of this process on its processors."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    return lambda: {
        "seconds": round(time.perf_counter() - begin, 3),
        "cpu_seconds": round(time.process_time() - begin_cpu, 3),
    }


def spread(values: Sequence[float]) -> str:
    """Median, least and most, as cells of a table."""
    return " | ".join(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values)))


def kept(path: Path) -> dict[str, Any]:
    """The results in ``path``, by name; none where nothing was measured yet."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return results


def keep(path: Path, results: dict[str, Any]) -> None:
    """Writes results, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f" {json.dumps(name)}: {json.dumps(result)}" for name, result in results.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def add(path: Path, name: str, result: Any) -> None:
    """Keeps one result more, beside those that other processes may have kept in the meantime."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        keep(path, kept(path) | {name: result})
    finally:
        os.close(folder)
