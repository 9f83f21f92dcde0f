"""What the Trainer tells while it trains: a live line, and the run's metrics."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from agentopd.training.loop.folder import RunFolder
from agentopd.training.show.display import Meter

SHOWN = {"loss": "loss", "rollout/success": "success", "eval_success": "panel"}
"""Metrics beside the bar, and what they are called there."""


class Progress(TrainerCallback):
    """How far training is, with the newest loss and success."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the meter."""
        self._meter = Meter(self._title, state.max_steps, state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the newest numbers."""
        logs = kwargs.get("logs") or {}
        fresh = {name: logs[key] for key, name in SHOWN.items() if key in logs}
        if fresh:
            self._shown |= fresh
            text = "  ".join(f"{name} {value:.3f}" for name, value in self._shown.items())
            self._meter.show(state.global_step, text)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the meter."""
        self._meter.close()


class MetricsFile(TrainerCallback):
    """Appends every log to the run's ``metrics.jsonl``. Seconds go on from those of the run so far."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        history = folder.history()
        self._begin = time.monotonic() - (history[-1].get("seconds", 0.0) if history else 0.0)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One line a log."""
        logs = {
            metric_name(key): value
            for key, value in (kwargs.get("logs") or {}).items()
            if isinstance(value, int | float) and key != "epoch"  # a run has none
        }
        if "train_runtime" not in logs:
            self._folder.log({"step": state.global_step, "seconds": round(time.monotonic() - self._begin, 3), **logs})


def metric_name(key: str) -> str:
    """The Trainer's own names, in the form ``group/name``."""
    if key in {"loss", "grad_norm", "learning_rate"}:
        return f"train/{key}"
    return f"panel/{key.removeprefix('eval_')}" if key.startswith("eval_") else key
