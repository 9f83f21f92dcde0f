"""What the Trainer tells while it trains: a live line, and the run's metrics."""

import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from agentopd.training.loop.folder import RunFolder
from agentopd.training.show.display import Meter

SHOWN = {
    "loss": "loss {:.3f}",
    "rollout/success": "success {:.3f}",
    "eval_success": "panel {:.3f}",
    "rollout/tokens_per_second": "{:.0f} tokens/s",
    "rollout/staleness": "{:.1f} steps old",
    "stream/waiting": "{:.0f} in play",
}
"""Metrics beside the bar, and how they are shown."""
WHERE_ANY = {"rollout/staleness", "stream/waiting"}
"""Those that are not shown while they are 0."""
PARTS = {
    "seconds/generate": "generate",
    "seconds/env": "env",
    "seconds/teachers": "teachers",
    "seconds/learner": "learn",
    "seconds/idle": "idle",
}
"""What a step's time went into: parts of at least a hundredth are shown."""


class Progress(TrainerCallback):
    """How far training is, with the newest loss and success."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the meter."""
        self._meter = Meter(self._title, state.max_steps, state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Shows the newest numbers."""
        logs = kwargs.get("logs") or {}
        fresh = {
            key: how.format(logs[key]) for key, how in SHOWN.items() if key in logs and (logs[key] or "loss" in key)
        }
        fresh |= {"parts": parts} if (parts := _parts(logs)) else {}
        if fresh:
            self._shown |= fresh
            self._meter.show(state.global_step, "  ".join(self._shown.values()))

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ends the meter."""
        self._meter.close()


def _parts(logs: Mapping[str, float]) -> str:
    """Shares of a step's time. Where rollout is ahead of learning they are more than all of it."""
    whole = logs.get("seconds/step", 0.0)
    shares = {name: logs[key] / whole for key, name in PARTS.items() if key in logs} if whole else {}
    return " ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01)


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
