"""What a person sees while a run goes on: sentences, and a live display where there is a terminal."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers.utils import logging as library

from agentopd.isolation.fleet import rest
from agentopd.types import Trajectory

SECONDS_BETWEEN_LINES = 20.0
"""Where there is no terminal."""

console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0")
"""Of several processes the first one speaks."""

_bar = Bar(
    TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
    TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
)  # fmt: skip
"""One for all meters: what goes on inside a step stands under the training's own line."""


def say(text: str) -> None:
    """One sentence to the person at the terminal."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Meter:
    """How far one thing is: a line of the live display; without a terminal, a printed line now and then and at the end."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total = title, total
        self._last_line = time.monotonic()
        self._unsaid = ""
        self._task = _bar.add_task(title, total=total, completed=done, text="")
        _bar.start()

    def show(self, done: int, text: str = "") -> None:
        """Moves it on, with the newest numbers beside it."""
        _bar.update(self._task, completed=done, text=text)
        self._unsaid = f"{self._title} {done}/{self._total}  {text}".rstrip()
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._say()

    def _say(self) -> None:
        if self._unsaid and not console.is_terminal:
            say(self._unsaid)
        self._unsaid, self._last_line = "", time.monotonic()

    def close(self, silent: bool = False) -> None:
        """Takes it off the display, where the last one leaves its line behind; without a terminal it says how far it came."""
        if not silent:
            self._say()
        if self._task not in _bar.task_ids:
            return
        if len(_bar.task_ids) == 1:
            _bar.stop()
        _bar.remove_task(self._task)


@contextmanager
def watch(title: str, episodes: int) -> Iterator[Callable[[Trajectory], None]]:
    """A meter for episodes: call what it gives with each that ends."""
    meter, done = Meter(title, episodes), 0

    def ended(trajectory: Trajectory) -> None:
        nonlocal done
        done += 1
        meter.show(done)

    try:
        yield ended
    finally:
        meter.close(silent=True)


@contextmanager
def attended() -> Iterator[None]:
    """Ends the live display and idle worker processes whatever happens, and keeps transformers' bars and warnings out meanwhile."""
    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()  # type: ignore[no-untyped-call]
    library.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _bar.stop()
        for task in list(_bar.task_ids):
            _bar.remove_task(task)
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()  # type: ignore[no-untyped-call]
        rest()
