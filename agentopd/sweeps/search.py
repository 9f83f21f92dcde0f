"""A sweep whose arms a search library chooses, one after the other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agentopd.errors import TrainingError
from agentopd.sweeps.arms import Arm, override
from agentopd.sweeps.budget import Budget
from agentopd.sweeps.plan import planned
from agentopd.sweeps.whole import sweep


class Trial(Protocol):
    """What a search library asks about: an ``optuna.Trial`` is one."""

    @property
    def number(self) -> int:
        """Counts trials from 0."""


def objective(
    source: str | Path,
    output: str | Path,
    suggest: Callable[[Any], Mapping[str, Any]],
    overrides: Sequence[str] = (),
    seeds: int = 1,
    budget: Budget | None = None,
) -> Callable[[Trial], float]:
    """What a search maximises: a function of a trial, which runs one arm and returns its success.

    Args:
        source: As for :func:`agentopd.load_config`.
        output: The folder of the sweep: ``output/trial-N/seed-M`` are the runs. Trials that are there with the same settings are not run
            again, and ``agentopd compare`` takes the folder.
        suggest: Makes the settings of a trial, by key, such as ``lambda trial: {"train.learning_rate": trial.suggest_float(...)}``.
        overrides: Of all trials.
        seeds: How many runs a trial has; the mean of their panels is returned.
        budget: What each run may take.

    Returns:
        The function. It raises ConfigError where a setting is wrong, and TrainingError where a run failed: give these to ``catch`` of
        ``study.optimize`` for a search that goes on.
    """

    def success(trial: Trial) -> float:
        settings = suggest(trial)
        arm = Arm(f"trial-{trial.number}", tuple(override(key, value) for key, value in settings.items()))
        runs = sweep(planned(source, overrides, [arm], seeds, budget), output)
        panels = [job.panel for job in runs]
        if failed := next((job for job in runs if job.state == "failed"), None):
            raise TrainingError(f"{failed.folder.path} failed: {failed.failure}")
        return sum(panel.success.value for panel in panels if panel is not None) / len(runs)

    return success
