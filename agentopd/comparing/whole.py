"""Arms held against each other, task by task and seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from agentopd.comparing.crossed import Spread, crossed
from agentopd.comparing.inference import LEVEL, detectable, holm, seeds_needed
from agentopd.comparing.runs import Arm, arms_of
from agentopd.config.differing import apart, settings_of
from agentopd.errors import ConfigError
from agentopd.evaluation import Difference, Interval, paired_difference, wilson
from agentopd.settings.problems import nearest

FEW_TASKS = 20
"""Of a panel, below which resampling them calls equal arms different too often."""


@dataclass(frozen=True, slots=True)
class Rated:
    """The success of an arm, with its 95% interval."""

    arm: Arm
    value: float
    interval: Interval
    by_seed: Mapping[int, float]
    costs: Mapping[str, float]
    """Means of its runs, ``nan`` where one does not tell."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An arm minus another: the mean over the seeds that both have, and over the panel's tasks."""

    arm: str
    baseline: str
    seeds: tuple[int, ...]
    difference: Difference
    """With its own 95% interval."""
    p: float
    """Of no difference, this comparison alone."""
    settings: tuple[str, ...]
    """In which the two differ."""
    adjusted: float = 1.0
    """``p``, corrected for all comparisons."""
    spread: Spread | None = None
    """Of the differences; ``None`` with one seed."""
    detectable: float | None = None
    """The true difference that as many runs find four times of five; ``None`` with one seed, and where no task tells them apart."""
    needed: int | None = None
    """How many seeds find a true difference of the size seen four times of five; ``None`` where no number does, or one seed says nothing."""

    @property
    def verdict(self) -> Literal["better", "worse", "not told apart"]:
        """After the correction."""
        if self.adjusted > LEVEL:
            return "not told apart"
        return "better" if self.difference.value > 0 else "worse"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison says."""

    tasks: int
    arms: Sequence[Rated]
    pairs: Sequence[Pair]
    notes: Sequence[str]
    """What is left out, and what to mind, one sentence each."""


def compare(paths: Sequence[str | Path], baseline: str | None = None, every_pair: bool = False) -> Comparison:
    """Compares finished runs on the panel that all of them have played.

    Args:
        paths: Folders of runs or of sweeps.
        baseline: The arm that the others are held against; by default the first.
        every_pair: Whether all arms are held against each other instead.

    Raises:
        ConfigError: There are fewer than two arms, or two without a seed in common, or no such baseline; or the panels differ.
    """
    arms, notes = arms_of(paths)
    names = [arm.name for arm in arms]
    if len(arms) < 2:
        raise ConfigError(
            f"there is one arm, {names[0]}, with {len(arms[0].runs)} finished runs, and nothing to hold it against; give runs that differ in "
            "more than their seed" + "".join(f" ({note})" for note in notes)
        )
    if baseline is not None and baseline not in names:
        raise ConfigError(
            f"--baseline {baseline}: no arm is called so{nearest(baseline, names)}; there are: {', '.join(names)}"
        )
    base = next(arm for arm in arms if arm.name == (baseline or names[0]))
    chosen = (
        [(after, before) for before, after in combinations(arms, 2)]
        if every_pair
        else [(arm, base) for arm in arms if arm is not base]
    )
    tasks = len(next(iter(base.runs.values())).panel.episodes)
    if tasks < 2:
        raise ConfigError("evaluation.tasks=1: one task tells no arms apart; train with a panel of more")
    tested = _tested([_pair(arm, against, len(chosen)) for arm, against in chosen])
    return Comparison(
        tasks, [_rated(arm) for arm in arms], tested, [*notes, *_few(tasks, tested), *_notes(arms, tested)]
    )


def _tested(pairs: Sequence[Pair]) -> list[Pair]:
    adjusted = holm([pair.p for pair in pairs])
    return [replace(pair, adjusted=p) for pair, p in zip(pairs, adjusted, strict=True)]


def _pair(arm: Arm, base: Arm, comparisons: int) -> Pair:
    seeds = tuple(seed for seed in arm.runs if seed in base.runs)
    if not seeds:
        raise ConfigError(
            f"{arm.name} has the seeds {', '.join(map(str, arm.runs))} and {base.name} {', '.join(map(str, base.runs))}: runs are paired by their "
            "seed, and these have none in common; train both with the same"
        )
    after_S_T, before_S_T = arm.success_S_T(seeds), base.success_S_T(seeds)
    settings = tuple(settings_of(apart([base.config, arm.config])))
    if len(seeds) == 1:
        found = paired_difference(before_S_T[0], after_S_T[0])
        return Pair(arm.name, base.name, seeds, found, _sign_test(before_S_T[0], after_S_T[0]), settings)
    mean = crossed(after_S_T.astype(float) - before_S_T)
    low, high = mean.interval()
    found, level = Difference(mean.value, max(low, -1.0), min(high, 1.0)), LEVEL / comparisons
    least = None if mean.widest else detectable(mean.spread, mean.seeds, mean.tasks, level)
    needed = seeds_needed(mean.value, mean.spread, mean.tasks, level)
    return Pair(
        arm.name, base.name, seeds, found, mean.p, settings, spread=mean.spread, detectable=least, needed=needed
    )


def _sign_test(before_T: np.ndarray, after_T: np.ndarray) -> float:
    """The exact test of McNemar: whether as many tasks were gained as lost."""
    gained, lost = int((after_T & ~before_T).sum()), int((before_T & ~after_T).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _rated(arm: Arm) -> Rated:
    success_S_T = arm.success_S_T([*arm.runs])
    value = float(success_S_T.mean())
    if len(arm.runs) == 1:
        interval = wilson(int(success_S_T.sum()), success_S_T.size)
    else:
        low, high = crossed(success_S_T).interval()
        interval = Interval(max(low, 0.0), min(high, 1.0))
    by_seed = {seed: float(row.mean()) for seed, row in zip(arm.runs, success_S_T, strict=True)}
    costs = [run.costs() for run in arm.runs.values()]
    return Rated(
        arm, value, interval, by_seed, {name: float(np.mean([one[name] for one in costs])) for name in costs[0]}
    )


def _few(tasks: int, pairs: Sequence[Pair]) -> list[str]:
    if tasks >= FEW_TASKS or all(len(pair.seeds) == 1 for pair in pairs):
        return []
    return [
        f"{tasks} tasks are few to resample: where they are what arms differ by, intervals are too narrow and p is too small; train with "
        f"evaluation.tasks={FEW_TASKS} or more"
    ]


def _notes(arms: Sequence[Arm], pairs: Sequence[Pair]) -> list[str]:
    notes = []
    if any(len(pair.seeds) == 1 for pair in pairs):
        notes.append(
            "with one seed in common only tasks can be resampled: such an interval is of these two runs, not of their methods, which differ from "
            "seed to seed; train three seeds or more"
        )
    for pair in pairs:
        if len(pair.settings) > 1:
            notes.append(
                f"{pair.arm} and {pair.baseline} differ in {len(pair.settings)} settings ({', '.join(pair.settings)}), so the difference is of all of "
                "them together"
            )
        arm, base = (next(one for one in arms if one.name == name) for name in (pair.arm, pair.baseline))
        if left := sorted({*arm.runs} ^ {*base.runs}):
            notes.append(
                f"{pair.arm} and {pair.baseline}: seeds {', '.join(map(str, left))} are left out, which one alone has"
            )
    for arm in arms:
        if failed := sum(run.panel.failed for run in arm.runs.values()):
            notes.append(
                f"{arm.name}: {failed} episodes of its panels failed outside of the student, and count as no success"
            )
    return notes
