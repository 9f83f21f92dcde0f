"""The runs that are compared, read from their folders, and the arms that they belong to."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentopd.config.differing import apart, deciding, differences, value_at
from agentopd.config.loading import completed
from agentopd.config.shipped import load_yaml
from agentopd.errors import ConfigError
from agentopd.evaluation import Panel
from agentopd.run_files import AFTER_PANEL, SPENT_EPISODES, SWEEP, seed_folder
from agentopd.training.loop.folder import RunFolder
from agentopd.training.loop.spent import totals

PANEL_SUCCESS = "panel/success"
TEMPERATURE = "evaluation.temperature"
_OF_A_SEED = re.compile(r"seed-\d+")


class Point(NamedTuple):
    """A panel during training."""

    step: int
    episodes: float
    """Played until then; ``nan`` where the run does not tell."""
    success: float


@dataclass(frozen=True)
class Run:
    """A finished run."""

    path: Path
    config: Mapping[str, Any]
    panel: Panel
    """Of the student after training."""
    history: Sequence[Mapping[str, Any]]

    @property
    def seed(self) -> int:
        """Of its configuration."""
        return int(self.config["seed"])

    @cached_property
    def deciding(self) -> Mapping[str, Any]:
        """What of its configuration decides it, beside the seed."""
        return deciding(self.config)

    def costs(self) -> dict[str, float]:
        """What it took, ``nan`` where it does not tell."""
        return totals(self.history)

    def curve(self) -> list[Point]:
        """The panels of validation tasks that were played during training."""
        rows = [row for row in self.history if SPENT_EPISODES in row]
        played = dict(
            zip((row["step"] for row in rows), accumulate(float(row[SPENT_EPISODES]) for row in rows), strict=True)
        )
        panels = [row for row in self.history if PANEL_SUCCESS in row]
        return [Point(row["step"], played.get(row["step"], math.nan), float(row[PANEL_SUCCESS])) for row in panels]


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: Mapping[int, Run]
    """By seed, in order."""

    @property
    def config(self) -> Mapping[str, Any]:
        """What decides its runs, beside the seed."""
        return next(iter(self.runs.values())).deciding

    def success_S_T(self, seeds: Sequence[int]) -> NDArray[np.bool_]:
        """Success on each task of the panel, [S, T]."""
        return np.stack([self.runs[seed].panel.success_B for seed in seeds])


def arms_of(paths: Sequence[str | Path]) -> tuple[list[Arm], list[str]]:
    """The arms that folders hold, and one sentence for each run that is left out.

    Args:
        paths: Folders of runs, of which those that differ in the seed alone are an arm; or of sweeps, which name theirs.

    Raises:
        ConfigError: A folder is neither; or two runs of an arm have the same seed; or runs played different panels.
        TrainingError: A file of a run is damaged.
    """
    found, notes = list[tuple[Path | None, Run]](), list[str]()
    for home, path in _folders(paths):
        run = _read(path)
        if run is None:
            notes.append(f"{path} is left out: it has not finished (no panel {AFTER_PANEL})")
        else:
            found.append((home, run))
    if not found:
        raise ConfigError(f"none of the runs has finished: {'; '.join(notes) or 'there is none'}")
    _require_one_panel([run for _, run in found])
    return _arms(found), notes


def _folders(paths: Sequence[str | Path]) -> Iterator[tuple[Path | None, Path]]:
    """The folder of each run, behind that of its arm where it is of a sweep."""
    for path in map(Path, paths):
        if not (path / SWEEP).exists():
            yield None, path
            continue
        try:
            plan = json.loads((path / SWEEP).read_bytes())
            yield from ((path / arm, seed_folder(path, arm, seed)) for arm in plan["arms"] for seed in plan["seeds"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path / SWEEP} cannot be read: {error}; give the folders of its runs instead"
            ) from error


def _read(path: Path) -> Run | None:
    folder = RunFolder(path)
    if not folder.config.exists():
        if _OF_A_SEED.fullmatch(path.name):  # of a sweep, and not begun
            return None
        raise ConfigError(f"{path} is no folder of a run or a sweep: it has no {folder.config.name} and no {SWEEP}")
    panel = folder.load_panels().get(AFTER_PANEL)
    return None if panel is None else Run(path, completed(load_yaml(folder.config)), panel, folder.history())


def _require_one_panel(runs: Sequence[Run]) -> None:
    """Raises ConfigError where not all runs played the same tasks in the same order, at the same temperature."""
    first, *others = runs
    for other in others:
        mine, theirs = ([played.task for played in run.panel.episodes] for run in (first, other))
        if mine == theirs and value_at(first.config, TEMPERATURE) == value_at(other.config, TEMPERATURE):
            continue
        settings = [
            f"{path}={was!r} and {is_!r}"
            for path, was, is_ in differences(dict(first.deciding), dict(other.deciding))
            if path.startswith(("envs", "evaluation"))
        ]
        why = "; ".join(settings) or f"{len(mine)} and {len(theirs)} tasks, or an environment that has changed since"
        raise ConfigError(
            f"{first.path} and {other.path} played different panels, so that no task pairs them: {why}; play both with the same envs, "
            f"evaluation.seed, evaluation.tasks and {TEMPERATURE}"
        )


def _arms(found: Sequence[tuple[Path | None, Run]]) -> list[Arm]:
    """Runs of one arm of a sweep, or, of no sweep, with the same configuration, are an arm."""
    groups: list[tuple[Path | None, list[Run]]] = []
    for home, run in found:
        mine = next((g for g in groups if g[0] == home and (home or g[1][0].deciding == run.deciding)), None)
        if mine is None:
            groups.append((home, [run]))
        else:
            mine[1].append(run)
    short = [home.name if home else _name_of(runs[0].path) for home, runs in groups]
    long = [str(home or runs[0].path) for home, runs in groups]
    names = [name if short.count(name) == 1 else whole for name, whole in zip(short, long, strict=True)]
    return [Arm(name, _by_seed(name, runs)) for name, (_, runs) in zip(names, groups, strict=True)]


def _name_of(path: Path) -> str:
    whole = path.resolve()
    return whole.parent.name if _OF_A_SEED.fullmatch(whole.name) else whole.name


def _by_seed(name: str, runs: Sequence[Run]) -> dict[int, Run]:
    kept: dict[int, Run] = {}
    for run in sorted(runs, key=lambda one: one.seed):
        if run.seed in kept:
            raise ConfigError(
                f"{kept[run.seed].path} and {run.path} are runs of the same configuration and seed ({run.seed}), so they would count twice; give "
                "one of them"
            )
        if (others := apart([kept[min(kept)].deciding, run.deciding])) if kept else ():
            raise ConfigError(
                f"arm {name}: {run.path} differs from its other runs in {', '.join(others)}; give it apart"
            )
        kept[run.seed] = run
    return kept
