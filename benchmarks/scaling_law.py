"""How far a distilled student goes with its size and its episodes, in the quickstart's environment: a law, and how well it foretells.

    python -m benchmarks.scaling_law                     # resumable: every run that is finished is kept; several processes may share the work
    python -m benchmarks.scaling_law --seeds 70 --arms 32-40 32-80
    python -m benchmarks.scaling_law --table             # what the stored results say

Five students, from 32 to 128 wide, are distilled from one teacher, 96 wide, for four numbers of steps, with three seeds. A run that is shorter has its own
learning-rate schedule, so each is trained by itself. All students of a seed have one teacher; each has its own cold start, from the same traces.
Every run is measured on the same 200 held-out tasks, greedily. The learning rate is the quickstart's for all sizes: what another would give
a size is not shown. No setting was chosen by a result on these seeds.

The law and its intervals are those of ``agentopd scaling``: docs/scaling-laws.md says what they mean.
Results: ``benchmarks/results/scaling_law/ARM.json``, by seed.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentopd.sweeps.arms import Arm, override
from agentopd.sweeps.plan import Plan, planned
from benchmarks.arms import add_places, keep, missing, run
from benchmarks.measured import kept

RESULTS = Path(__file__).parent / "results" / "scaling_law"
SEEDS = (70, 71, 72)
SMOKE_SEEDS = (0,)
WIDTHS = (32, 48, 64, 96, 128)
STEPS = (40, 80, 160, 320)
PANEL = 70
"""The seed of the tasks that every run is measured on."""
SETTINGS = (
    "method=agentopd",
    "train.eval_every=0",
    "train.save_every=0",
    "train.warmup_steps=5",
    "evaluation.tasks=200",
    f"evaluation.seed={PANEL}",
)
SMOKE = (
    "stages.teacher={episodes: 8, steps: 1, episodes_per_step: 4}", "stages.cold_start={episodes: 8, steps: 1, episodes_per_step: 4}",
    "evaluation.tasks=4", "train.tasks_per_step=2",
    "teachers.teacher.new={hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32, max_positions: 1536, vocab_size: 512}",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the law."""
    arguments = parsed(argv)
    plan = plan_of(arguments.output, arguments.smoke)
    todo = () if arguments.table else missing(arguments.results, arguments.arms, arguments.seeds, arguments.output)
    for arm, seed, folder in todo:
        result = run(plan, arm, [f"seed={seed}"], folder)
        keep(arguments.results, arm, seed, result | {"x": measured_x(folder)})
    print(table({arm: kept(arguments.results / f"{arm}.json") for arm in arms(arguments.smoke)}))


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", metavar="WIDTH-STEPS", help="default: all")
    add_places(parser, RESULTS)
    arguments = parser.parse_args(argv)
    known = arms(arguments.smoke)
    if unknown := [arm for arm in arguments.arms or () if arm not in known]:
        parser.error(f"--arms {unknown[0]}: the arms are {', '.join(known)}")
    arguments.arms = arguments.arms or list(known)
    arguments.seeds = arguments.seeds or (SMOKE_SEEDS if arguments.smoke else SEEDS)
    return arguments


def arms(smoke: bool = False) -> dict[str, Arm]:
    """Every size with every number of steps."""
    widths, steps = ((8, 16, 24, 32), (1, 2, 3)) if smoke else (WIDTHS, STEPS)
    found = [
        Arm(f"{width}-{count}", tuple(override(*one) for one in settings(width, count)))
        for width in widths
        for count in steps
    ]
    return {arm.name: arm for arm in found}


def settings(width: int, steps: int) -> list[tuple[str, Any]]:
    """Of a student so wide, trained for so long."""
    shape = {
        "hidden_size": width,
        "layers": 2,
        "heads": 4,
        "intermediate_size": 8 * width // 3,
        "max_positions": 1536,
        "vocab_size": 512,
    }
    return [("student.new", shape), ("train.steps", steps)]


def plan_of(output: Path, smoke: bool = False) -> Plan:
    """All arms, which differ in the student and in steps, and in nothing else."""
    overrides = [*SETTINGS, override("stages.cache", str(output / "cache")), *(SMOKE if smoke else ())]
    return planned("quickstart", overrides, list(arms(smoke).values()))


def measured_x(folder: Path) -> dict[str, float]:
    """The student's size, and what the run has taken."""
    from agentopd.scaling.runs import measured

    [one], _ = measured([folder])
    return dict(one.point.x)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The law, its parameters, its error on the largest size, and the points, as Markdown."""
    from agentopd.comparing.telling import markdown
    from agentopd.errors import ConfigError
    from agentopd.scaling import scaling
    from agentopd.scaling.points import Point
    from agentopd.scaling.telling import sentences, tables

    points = []
    for arm, seeds in results.items():
        runs = [seeds[seed] for seed in sorted(seeds, key=int)]
        if runs:
            x = {name: float(np.mean([one["x"][name] for one in runs])) for name in runs[0]["x"]}
            panels = [one["success"]["student_after"] for one in runs]
            points.append(Point(arm, x, tuple(1 - float(np.mean(panel)) for panel in panels), len(panels[0])))
    try:
        found = scaling(points)
    except ConfigError as error:
        return f"no law: {error}"
    parts = [
        "\n".join(sentences(found, "error", None)),
        *map(markdown, tables(found)),
        *(f"- {note}" for note in found.notes),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
