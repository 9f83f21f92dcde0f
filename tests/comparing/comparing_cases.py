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


def outcomes(
    random: np.random.Generator,
    seeds: int,
    tasks: int,
    arms: int = 2,
    of_seed: float = 0.0,
    of_task: float = 0.0,
    rest: float = 0.0,
    shared: float = 1.0,
    gained: float = 0.0,
) -> NDArray[np.bool_]:
    """Successes [arms, S, T] from a logistic model with normal effects: of seeds, tasks and their pairs, each of an arm alone with the
    standard deviation given, and of all arms with ``shared``; ``gained`` is added to all arms but the first."""
    normal = random.standard_normal
    common = shared * (normal((1, seeds, 1)) + normal((1, 1, tasks)) + normal((1, seeds, tasks)))
    own = of_seed * normal((arms, seeds, 1)) + of_task * normal((arms, 1, tasks)) + rest * normal((arms, seeds, tasks))
    logit = common + own + gained * (np.arange(arms) > 0)[:, None, None]
    return np.asarray(random.random((arms, seeds, tasks)) < 1 / (1 + np.exp(-logit)))


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
