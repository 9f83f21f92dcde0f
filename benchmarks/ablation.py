"""One part of a method at a time: what each changes in two environments whose failures differ, from the default, with equal episodes.

    python -m benchmarks.ablation                        # resumable: every run that is finished is kept; several processes may share the work
    python -m benchmarks.ablation --envs checkout --seeds 60 61 --arms default grpo
    python -m benchmarks.ablation --table                # what the stored results say

In ``checkout`` a fifth of all calls of tools fail, and a student must try again; on ``frozen_lake`` a fifth of all moves slip, and a student
stands where it did not mean to go; the expert's discount of 0.95 lets it hurry, or some of its episodes would still be under way after 20
turns. ``benchmarks/ablation.yaml`` has the arms. All arms of a seed begin with the same cold start, have the same
teacher, meet the same training tasks, learn from as many episodes, and are measured on the same panel of held-out tasks, greedily:
``agentopd.sweeps`` refuses arms that do not. Learning rates are the default's for all arms but GRPO. No setting was chosen by a result on these
seeds; an arm that would do better with another learning rate or scale is not shown at its best.

Intervals and p-values are those of ``agentopd compare``, over seeds and tasks, the p-values corrected by Holm over all arms of an environment.
Results: ``benchmarks/results/ablation/ENV/ARM.json``, each seed's panels task by task.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentopd.config.shipped import load_yaml
from agentopd.sweeps.arms import Arm, override
from agentopd.sweeps.budget import Budget
from agentopd.sweeps.plan import Plan, planned
from benchmarks.arms import add_places, keep, missing, run
from benchmarks.measured import kept

RESULTS = Path(__file__).parent / "results" / "ablation"
ARMS = Path(__file__).with_suffix(".yaml")
DEFAULT = "default"
SEEDS = (60, 61, 62, 63, 64)
SMOKE_SEEDS = (0,)
MEMBERS = ("one", "two", "three")
"""Of the ensemble whose doubts two arms ask for; in no arm do they teach."""


@dataclass(frozen=True, slots=True)
class Setup:
    """An environment, what is trained in it, and for how long."""

    source: str
    overrides: tuple[str, ...]
    episodes: int


SHAPE = {"hidden_size": 96, "layers": 2, "heads": 4, "intermediate_size": 256, "max_positions": 1024, "vocab_size": 512}
SHORT = (
    "method=agentopd",
    "train.eval_every=0",
    "train.save_every=0",
    "evaluation.tasks=200",
    "train.warmup_steps=5",
    "train.tasks_per_step=16",
)
ENVS: Mapping[str, Setup] = {
    "checkout": Setup("quickstart", (*SHORT, "stages.teacher.episodes=2000", "stages.teacher.steps=400"), 4800),
    "frozen_lake": Setup(
        "envs/frozen_lake",
        (
            *SHORT, "env.kwargs={size: 4, is_slippery: true, success_rate: 0.8, discount: 0.95}", "stages.teacher.episodes=1500",
            "stages.teacher.steps=300", "stages.cold_start.episodes=32", "stages.cold_start.steps=150",
        ),
        960,
    ),
}  # fmt: skip
SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "intermediate_size": 32, "max_positions": 1024, "vocab_size": 300}
SMOKE = (
    "stages.teacher={episodes: 8, steps: 1, episodes_per_step: 4}", "stages.cold_start={episodes: 8, steps: 1, episodes_per_step: 4}",
    "evaluation.tasks=4",
)  # fmt: skip
"""So little of all that nothing is learned, to see whether every arm runs."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    arguments = parsed(argv)
    for env in arguments.envs:
        plan = plan_of(env, arguments.output, arguments.smoke)
        results, output = arguments.results / env, arguments.output / env
        todo = () if arguments.table else missing(results, arguments.arms, arguments.seeds, output)
        for arm, seed, folder in todo:
            keep(results, arm, seed, run(plan, arm, [f"seed={seed}", f"evaluation.seed={seed}"], folder))
        print(table(env, {arm: kept(results / f"{arm}.json") for arm in arms()}))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=list(ENVS), default=list(ENVS))
    parser.add_argument("--arms", nargs="+", choices=list(arms()), default=list(arms()))
    add_places(parser, RESULTS)
    arguments = parser.parse_args(argv)
    arguments.seeds = arguments.seeds or (SMOKE_SEEDS if arguments.smoke else SEEDS)
    return arguments


def arms() -> dict[str, Any]:
    """What the arms change, and what they are held against."""
    return dict(load_yaml(ARMS))


def plan_of(env: str, output: Path, smoke: bool = False) -> Plan:
    """All arms in an environment, held against each other: they differ in what ``benchmarks/ablation.yaml`` says and in nothing else."""
    setup = ENVS[env]
    shape = SMALL if smoke else SHAPE
    members = {name: {"kind": "local", "new": {**shape, "seed": i}} for i, name in enumerate(MEMBERS)}
    models = {
        "student.new": shape,
        "teachers.teacher.new": shape,
        **{f"teachers.{name}": one for name, one in members.items()},
        "teachers.ensemble": {"kind": "ensemble", "members": MEMBERS},
        "stages.cache": str(output / "cache"),
    }
    overrides = [*setup.overrides, *(override(key, value) for key, value in models.items()), *(SMOKE if smoke else ())]
    found = [
        Arm(name, tuple(override(key, value) for key, value in one["settings"].items())) for name, one in arms().items()
    ]
    return planned(setup.source, overrides, found, budget=Budget("episodes", 32 if smoke else setup.episodes))


def table(env: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Success by arm and its difference from what it is held against, over the seeds that both have, as Markdown."""
    from agentopd.comparing.crossed import crossed
    from agentopd.comparing.inference import LEVEL, detectable, holm

    against = {arm: one.get("against", DEFAULT) for arm, one in arms().items() if arm != DEFAULT}
    found = {}
    for arm, base in against.items():
        seeds = sorted(results[arm].keys() & results[base].keys(), key=int)
        if len(seeds) > 1:
            found[arm] = seeds, crossed(panels(results[arm], seeds) - panels(results[base], seeds))
    if not found:
        return f"{env}: no two seeds of an arm and of what it is held against are finished"
    lines = [
        f"**{env}**. Before: {shares(results[DEFAULT], 'student_before')}. The teacher: {shares(results[DEFAULT], 'teacher')}.\n",
        "| arm | success, by seed | minus | difference, points | p | p, Holm | found 4 times of 5, points |",
        "|---|---|---|---|---|---|---|",
        f"| {DEFAULT} | {shares(results[DEFAULT])} | | | | | |",
    ]
    adjusted = dict(zip(found, holm([mean.p for _, mean in found.values()]), strict=True))
    for arm, (seeds, mean) in found.items():
        low, high = np.clip(mean.interval(), -1.0, 1.0)
        told = f"{100 * mean.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        equal = bool(mean.widest)  # on all tasks of all seeds, which says nothing of how much the difference varies
        least = "" if equal else f"{100 * detectable(mean.spread, len(seeds), mean.tasks, LEVEL / len(found)):.0f}"
        base = against[arm]
        lines.append(
            f"| {arm} | {shares(results[arm])} | {base} | {told} | {mean.p:.3f} | {adjusted[arm]:.3f} | {least} |"
        )
    if waiting := [arm for arm in against if arm not in found]:
        lines.append(f"\nWithout two seeds that what they are held against has too: {', '.join(waiting)}.")
    return "\n".join(lines) + "\n"


def panels(runs: Mapping[str, Any], seeds: Sequence[str]) -> np.ndarray:
    """Success after training, [seed, task]."""
    return np.array([runs[seed]["success"]["student_after"] for seed in seeds], np.float64)


def shares(runs: Mapping[str, Any], panel: str = "student_after") -> str:
    """The mean over seeds, and each seed's, in percent."""
    if not runs:
        return "no runs"
    each = [100 * float(np.mean(runs[seed]["success"][panel])) for seed in sorted(runs, key=int)]
    return f"{np.mean(each):.1f}% ({' '.join(f'{one:.0f}' for one in each)})"


if __name__ == "__main__":
    main()
