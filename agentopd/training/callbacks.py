"""What a person sees while a run goes on, and what is kept of it."""

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from transformers import TrainerCallback, TrainerControl, TrainerState

from agentopd.training.folder import RunFolder

console = Console(stderr=True)

SHOWN = {"loss": "loss", "rollout/success": "success", "eval_success": "panel"}
"""Metrics beside the bar, and what they are called there."""


class Progress(TrainerCallback):
    """A live bar with the newest loss and success; where there is no terminal, a line now and then."""

    def __init__(self, title: str, seconds_between_lines: float = 20.0) -> None:
        self._title = title
        self._every = seconds_between_lines
        self._last_line = 0.0
        self._shown: dict[str, float] = {}
        self._bar = Bar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the bar."""
        self._task = self._bar.add_task(self._title, total=state.max_steps, completed=state.global_step, metrics="")
        self._bar.start()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the newest numbers."""
        logs = kwargs.get("logs") or {}
        self._shown |= {name: logs[key] for key, name in SHOWN.items() if key in logs}
        text = "  ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
        self._bar.update(self._task, completed=state.global_step, metrics=text)
        if not console.is_terminal and time.monotonic() - self._last_line > self._every:
            self._last_line = time.monotonic()
            console.print(f"{self._title} {state.global_step}/{state.max_steps}  {text}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops the bar."""
        self._bar.stop()


class MetricsFile(TrainerCallback):
    """Appends every log to the run's ``metrics.jsonl``."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._begin = time.monotonic()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One line a log."""
        logs = {
            _name(key): value for key, value in (kwargs.get("logs") or {}).items() if isinstance(value, int | float)
        }
        if "train_runtime" not in logs:
            self._folder.log({"step": state.global_step, "seconds": round(time.monotonic() - self._begin, 3), **logs})


def _name(key: str) -> str:
    """The Trainer's own names, in the form ``group/name``."""
    if key in {"loss", "grad_norm", "learning_rate"}:
        return f"train/{key}"
    return f"panel/{key.removeprefix('eval_')}" if key.startswith("eval_") else key
