"""The runs of a sweep, each a process of its own, several at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

import torch

from agentopd.errors import AgentOPDError
from agentopd.evaluation import Panel
from agentopd.run_files import AFTER_PANEL, CONFIG, seed_folder
from agentopd.training.loop.folder import RunFolder

State: TypeAlias = Literal["waiting", "running", "finished", "failed"]
CHILD = (sys.executable, "-m", "agentopd.sweeps.child")
"""What runs a command of ours in a process of its own."""
LOOK = 0.2
"""Seconds between two looks at the processes."""
PARTING = 60.0
"""Seconds that a process has to end once it is asked to."""
LAST_LINES = 5
"""Of its log, that are told of a run that failed."""


@dataclass(slots=True)
class Job:
    """One run: an arm with a seed."""

    sweep: Path
    arm: str
    seed: int
    state: State = "waiting"
    failure: str = ""
    """The last lines of what it said, where it failed."""

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return RunFolder(seed_folder(self.sweep, self.arm, self.seed))

    @property
    def log(self) -> Path:
        """What it says, over all times it was started."""
        return self.folder.path.with_suffix(".log")

    @property
    def panel(self) -> Panel | None:
        """Of the student after training, once it is finished."""
        return self.folder.load_panels().get(AFTER_PANEL)

    @property
    def step(self) -> int:
        """The last that was logged."""
        history = self.folder.history()
        return int(history[-1]["step"]) if history else 0

    @property
    def command(self) -> list[str]:
        """What starts it, or goes on with it."""
        output = str(self.folder.path)
        if self.folder.config.exists():
            return ["train", output, "--resume"]
        return ["train", str(self.sweep / self.arm / CONFIG), f"seed={self.seed}", "--output", output]


def run_all(jobs: Sequence[Job], at_once: int, show: Callable[[], None]) -> None:
    """Runs all jobs that are not finished; a failure is noted, and the others go on.

    Two runs of one seed are not begun together while another can be: they share the stages before training, which the first makes.

    Args:
        jobs: Their states are kept up to date.
        at_once: How many run at a time; each has its share of the threads.
        show: Called again and again meanwhile.
    """
    active: list[tuple[Job, subprocess.Popen[bytes]]] = []
    for job in jobs:
        job.state = "finished" if job.panel is not None else "waiting"
    environment = os.environ | {"OMP_NUM_THREADS": str(max(torch.get_num_threads() // at_once, 1))}
    try:
        while True:
            while len(active) < at_once and (following := _next(jobs)):
                active.append((following, _start(following, environment)))
            show()
            if not active:
                return
            time.sleep(LOOK)
            for job, process in [one for one in active if one[1].poll() is not None]:
                active.remove((job, process))
                _end(job, process)
    finally:
        _stop([process for _, process in active])


def _next(jobs: Sequence[Job]) -> Job | None:
    waiting = [job for job in jobs if job.state == "waiting"]
    busy = {job.seed for job in jobs if job.state == "running"}
    return next((job for job in waiting if job.seed not in busy), next(iter(waiting), None))


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.state = "running"
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [*CHILD, *job.command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on once
        )


def _end(job: Job, process: subprocess.Popen[bytes]) -> None:
    _close(process.stdin)
    try:
        finished = process.returncode == 0 and job.panel is not None
    except AgentOPDError:
        finished = False
    job.state = "finished" if finished else "failed"
    if not finished:
        lines = [line for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        job.failure = "\n".join([*lines[-LAST_LINES:], f"(exit status {process.returncode}; {job.log})"])


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs, waits for it, and kills what does not end."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.terminate()  # under nohup they would ignore an interrupt
    end = time.monotonic() + PARTING
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _close(process.stdin)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()
