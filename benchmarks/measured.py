"""Measured runs of the quickstart's configuration, and their results as they are kept."""

import fcntl
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def measured_run(overrides: Sequence[str], output: Path) -> dict[str, Any]:
    """Trains with ``overrides``: successes of every panel task by task, seconds of the whole run, and what made them."""
    import agentopd

    config = agentopd.load_config("quickstart", list(overrides))
    begin = time.perf_counter()
    result = agentopd.train(config, output)
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        **made_by(),
        "updates": config.train.steps,
        "success": {name: panel.success_B.astype(int).tolist() for name, panel in result.panels.items()},
    }


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
