"""Whole runs whose environments live in threads or in processes: the same records, and a run that goes on where one of them breaks."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import interface_cases as whole
import pytest
import thinking_cases
import training_cases as cases
from interface_envs import TILL

from agentopd import records
from agentopd.config import load_config
from agentopd.isolation.fleet import close_workers
from agentopd.training.run.whole import train
from agentopd.types import Record

UNLUCKY = 10
"""Such a total have two in nine of Till's tasks."""


@pytest.fixture(scope="module", autouse=True)
def _none_left() -> Iterator[None]:
    yield
    close_workers()


def by_experts(isolation: str, **kwargs: Any) -> dict[str, Any]:
    """A run in which the expert acts, and one in five episodes meets what ``kwargs`` says."""
    more = whole.raw(
        method="sft",
        objective={"sampler": {"kind": "fresh", "actors": {"expert": 1.0}}},
        student={"model": str(thinking_cases.folder("keeps", 0))},
        template_kwargs={"opened": ""},
        stages={"cache": cases.stage_cache()},
    )
    more["env"] = {"id": TILL, "kwargs": kwargs}
    limits = {"max_new_tokens": 60, "isolation": isolation, "time_limit": 5.0, "max_failures": 0.9}
    more["rollout"] |= limits
    more["train"] |= {"tasks_per_step": 8, "steps": 1}
    return more


def named_alike(record: Record) -> Record:
    trajectory = record.trajectory
    return replace(record, trajectory=replace(trajectory, key=replace(trajectory.key, run="")))


def test_threads_and_processes_leave_the_same_records(tmp_path: Path) -> None:
    played = {}
    for isolation in ("thread", "process"):
        train(load_config(by_experts(isolation)), tmp_path / isolation)
        played[isolation] = [named_alike(record) for record in cases.kept(tmp_path / isolation)]
    assert played["thread"] == played["process"]
    assert repr(played["thread"]) == repr(played["process"])
    for record in played["process"]:
        first, last = record.trajectory.turns
        assert [(one.name, one.outcome) for one in first.outcomes] == [("look", "ok"), ("look", "ok")]
        assert [call.arguments["item"] for call in first.calls] == [m["content"].split()[0] for m in first.observations]
        assert [one.name for one in last.outcomes] == ["pay"]


@pytest.mark.parametrize(("trouble", "kind"), [("killed", "died"), ("hang", "timeout")])
def test_a_run_goes_on_where_an_environment_breaks(trouble: str, kind: str, tmp_path: Path) -> None:
    raw = by_experts("process", trouble=trouble, unlucky=UNLUCKY)
    raw["rollout"]["time_limit"] = 2.0
    result = train(load_config(raw), tmp_path / "run")
    broken = {r.trajectory.failure.kind for r in records.open(result.run_dir) if r.trajectory.failure is not None}
    assert broken == {kind}
    assert 0 < result.metrics["rollout/failures"] < 1
    assert result.metrics[f"rollout/failures/{kind}"] == result.metrics["rollout/failures"]
    assert (tmp_path / "run" / "student").exists()


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import test_isolated_runs as here
from agentopd.config import load_config
from agentopd.isolation.fleet import fleet
from agentopd.training.loop.river import River
from agentopd.training.run.whole import train

draw = River.draw
def told(self, step):
    drawn = draw(self, step)
    print("workers", *fleet().numbers, flush=True)
    sys.stdin.read()
    return drawn
River.draw = told
train(load_config(here.by_experts("process")), sys.argv[1])
"""


def test_a_run_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", SCRIPT.format(paths=paths), str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("workers"))
        workers = [int(number) for number in line.split()[1:]]
        assert len(workers) > 1
        assert all(map(_lives, workers))
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 20.0
    while any(map(_lives, workers)):
        assert time.monotonic() < end
        time.sleep(0.02)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
