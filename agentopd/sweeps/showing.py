"""What a person sees of a sweep: a table that lives where there is a terminal, else a line whenever a run begins or ends."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentopd.sweeps.running import Job, State
from agentopd.training.show.display import console, say

SECONDS_BETWEEN_TABLES = 2.0


def cells(jobs: Sequence[Job], steps: Mapping[str, int]) -> tuple[list[str], list[list[str]]]:
    """Arms against seeds: success where a run is finished, or how far it is."""
    seeds = sorted({job.seed for job in jobs})
    arms = dict.fromkeys(job.arm for job in jobs)
    at = {(job.arm, job.seed): _cell(job, steps[job.arm]) for job in jobs}
    head = ["arm", *(f"seed {seed}" for seed in seeds)]
    return head, [[arm, *(at.get((arm, seed), "") for seed in seeds)] for arm in arms]


def _cell(job: Job, steps: int) -> str:
    if job.state == "finished" and (panel := job.panel) is not None:
        return f"{100 * panel.success.value:.1f}%"
    return f"{job.step}/{steps}" if job.state == "running" else job.state


@contextmanager
def shown(jobs: Sequence[Job], steps: Mapping[str, int]) -> Iterator[Callable[[], None]]:
    """What gives shows the jobs as they are now, when it is called."""
    if not console.is_terminal:
        yield _lines(jobs)
        return
    with Live(console=console, auto_refresh=False) as live:
        last = 0.0

        def show() -> None:
            nonlocal last
            if time.monotonic() - last > SECONDS_BETWEEN_TABLES:
                head, rows = cells(jobs, steps)
                table = Table(*head)
                for row in rows:
                    table.add_row(*map(Text, row))
                live.update(table, refresh=True)
                last = time.monotonic()

        yield show


def _lines(jobs: Sequence[Job]) -> Callable[[], None]:
    said: dict[int, State] = {}

    def show() -> None:
        for number, job in enumerate(jobs):
            before = said.get(number, "waiting")
            said[number] = job.state
            if job.state == before:
                continue
            told = f" success {panel.success.text()}" if job.state == "finished" and (panel := job.panel) else ""
            say(f"{job.arm}, seed {job.seed}: {job.state}{told}")

    return show
