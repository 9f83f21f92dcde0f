"""Folders of finished runs whose panels are made up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from finished_cases import leave_run
from numpy.typing import NDArray

from agentopd.config import load_config
from agentopd.evaluation import Played

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
    config = load_config(SMALL, [f"seed={seed}", f"train.steps={steps}", *overrides])
    episodes = [
        Played(f"task-{n}", "agentopd/Checkout-v0", bool(one), float(one), 3, ((), (), ()), "finished")
        for n, one in enumerate(success)
    ]
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        told = {"spent/episodes": 2.0, "spent/student_tokens": 50.0, "spent/teacher_tokens": 40.0, "seconds/step": 0.5}
        rows += [{"step": step, **told}, {"step": step, "panel/success": float(np.mean(success)) * step / steps}]
    leave_run(folder, config, episodes, rows)
    return folder
