"""Points read from the folders of finished runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentopd.comparing.runs import Arm, Run, arms_of
from agentopd.config import Config, load_config
from agentopd.config.differing import apart, settings_of, within
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig
from agentopd.planning.outlines import Outlines
from agentopd.planning.shape import shape_of
from agentopd.run_files import CONFIG, STUDENT
from agentopd.scaling.points import Point
from agentopd.training.run.stages import tokenizer_of
from agentopd.training.show.display import attended

MEASURES = {
    "error": "share of the panel's tasks that failed after training",
    "divergence": "divergence of student and teacher in the last tenth of the training steps, in nats",
}
"""What y may be."""
LAST = 0.1
"""Of the steps, over which a divergence is averaged."""
VARIED = ("student", "train.steps", "train.tasks_per_step", "train.budget", "stages")
"""The settings that make sizes and budgets."""


@dataclass(frozen=True)
class Measured:
    """An arm and the point that it is."""

    arm: Arm
    point: Point


@attended()
def measured(paths: Sequence[str | Path], measure: str = "error") -> tuple[list[Measured], list[str]]:
    """The points that folders hold, and a sentence for all that is to be minded.

    Args:
        paths: Folders of runs or of sweeps; only finished runs count.
        measure: A name of :data:`MEASURES`.

    Raises:
        ConfigError: A folder is neither, or its runs do not tell what is asked, or they played different panels.
        TrainingError: A file of a run is damaged.
    """
    arms, notes = arms_of(paths)
    sizes = Sizes()
    found = [Measured(arm, _point(arm, measure, sizes)) for arm in arms]
    others = [path for path in settings_of(apart([arm.config for arm in arms])) if not within(path, VARIED)]
    if others:
        notes.append(
            f"the runs differ also in {', '.join(others)}: what these do is taken for what size and budget do; give runs that agree in them, unless "
            "they are to follow the size"
        )
    return found, notes


class Sizes:
    """How large students are; each model is looked at once."""

    def __init__(self) -> None:
        self._known: dict[ModelConfig, int] = {}

    def of(self, run: Run) -> int:
        """All weights of a run's student, embeddings too: of the one that it left, or, where that is gone, of the one that it trained.

        Raises:
            ConfigError: There is no such model.
        """
        kept, config = run.path / STUDENT, configured(run)
        model = ModelConfig(model=str(kept)) if (kept / "config.json").exists() else config.student
        if model not in self._known:
            outline = Outlines(lambda: tokenizer_of(config, lambda _: None)).of(model)
            self._known[model] = shape_of(outline).parameters
        return self._known[model]


def _point(arm: Arm, measure: str, sizes: Sizes) -> Point:
    runs = [*arm.runs.values()]
    costs = [run.costs() for run in runs]
    x = {name: float(np.mean([one[name] for one in costs])) for name in ("episodes", "teacher_tokens")}
    x["parameters"] = float(sizes.of(runs[0]))
    if measure == "divergence":
        return Point(arm.name, x, tuple(_divergence(run) for run in runs))
    tasks = len(runs[0].panel.episodes)
    return Point(arm.name, x, tuple(1 - run.panel.success.value for run in runs), tasks)


def configured(run: Run) -> Config:
    """Its configuration."""
    return load_config(run.path / CONFIG)


def _divergence(run: Run) -> float:
    names = sorted(
        {name for row in run.history for name in row if name.startswith("train/") and name.endswith("/divergence")}
    )
    if len(names) != 1:
        told = f"several ({', '.join(names)})" if names else "none"
        raise ConfigError(
            f"{run.path}: a law of the divergence is of one, and the metrics of this run have {told}; fit the error"
        )
    rows: list[Mapping[str, float]] = [row for row in run.history if names[0] in row]
    last = rows[-math.ceil(LAST * len(rows)) :]
    return float(np.mean([row[names[0]] for row in last]))
