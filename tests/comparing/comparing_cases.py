"""Folders of finished runs whose panels are made up."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopd.config import dump, load_config
from agentopd.evaluation import Panel, Played
from agentopd.run_files import AFTER_PANEL, CONFIG, METRICS, PANELS

SMALL = {
    "env": "agentopd/Checkout-v0",
    "student": {"model": "student"},
    "teacher": {"kind": "local", "model": "teacher"},
    "train": {"steps": 4, "tasks_per_step": 2},
}


def finished(
    folder: Path,
    success: Sequence[bool] | NDArray[np.bool_],
    seed: int = 0,
    overrides: Sequence[str] = (),
    steps: int = 4,
) -> Path:
    """A folder as a run leaves it, as far as a comparison reads it."""
    folder.mkdir(parents=True)
    config = load_config(SMALL, [f"seed={seed}", f"train.steps={steps}", *overrides])
    (folder / CONFIG).write_text(dump(config), encoding="utf-8")
    episodes = [
        Played(f"task-{n}", "agentopd/Checkout-v0", bool(one), float(one), 3, ((), (), ()), "finished")
        for n, one in enumerate(success)
    ]
    (folder / PANELS).write_text(json.dumps({AFTER_PANEL: Panel(tuple(episodes)).to_dict()}), encoding="utf-8")
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        told = {"spent/episodes": 2.0, "spent/student_tokens": 50.0, "spent/teacher_tokens": 40.0, "seconds/step": 0.5}
        rows += [{"step": step, **told}, {"step": step, "panel/success": float(np.mean(success)) * step / steps}]
    (folder / METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
