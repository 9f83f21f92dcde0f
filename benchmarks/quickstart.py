"""The quickstart over seeds, beside two others from the same cold start with as many updates: off-policy, and weighed by the teacher's doubt.

    python -m benchmarks.quickstart --seeds 20 21 22   # resumable: finished runs are kept; several processes may share the seeds
    python -m benchmarks.quickstart --table            # the table from the stored results

Each seed has a panel of its own. Nothing was chosen by these seeds or their tasks. Results:
``benchmarks/results/quickstart.json``, every panel's successes task by task. The other runs find their stages in the cache of the
on-policy run before them, so their seconds leave them out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import add, kept, measured_run

RESULTS = Path(__file__).parent / "results" / "quickstart.json"
ARMS: dict[str, tuple[str, ...]] = {
    "on-policy": (),
    "off-policy": ("objective.sampler={kind: frozen, actors: {teacher: 1.0}, episodes: 1000}", "objective.where={}"),
    "weighted": ("objective.weight={kind: teacher_entropy}", "objective.rescale=true"),
}
"""What each arm changes. Off-policy is the same divergence to the same teacher, on episodes that the teacher played; weighted has each
token count less, the less sure the teacher is there."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-quickstart"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    for seed in [] if arguments.table else arguments.seeds:
        for arm in ARMS:
            if f"{arm}/{seed}" not in kept(RESULTS):
                # a cache of its own, so that the time is that of a first run; the second arm finds the stages of the first
                own = [f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={arguments.output}/cache"]
                result = measured_run([*own, *ARMS[arm]], arguments.output / f"{arm}-{seed}")
                add(RESULTS, f"{arm}/{seed}", result)
    print(table(kept(RESULTS)))


def table(results: dict[str, Any]) -> str:
    """Rows by seed and pooled, as Markdown."""
    from agentopd.evaluation import Rate, paired_difference

    seeds = sorted({int(key.split("/")[1]) for key in results})
    lines = [
        "| seed | teacher | student before | off-policy | on-policy | on-policy gain, paired | on- minus off-policy, paired "
        "| weighted minus on-policy, paired |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, members in [*((str(seed), [seed]) for seed in seeds), ("pooled", seeds)]:
        pooled = {
            column: [s for seed in members for s in results[f"{arm}/{seed}"]["success"][panel]]
            for column, arm, panel in (
                ("teacher", "on-policy", "teacher"),
                ("before", "on-policy", "student_before"),
                ("off", "off-policy", "student_after"),
                ("on", "on-policy", "student_after"),
                ("weighted", "weighted", "student_after"),
            )
        }
        shown = [pooled[column] for column in ("teacher", "before", "off", "on")]
        pairs = (("before", "on"), ("off", "on"), ("on", "weighted"))
        cells = [Rate(sum(values), len(values)).text() for values in shown]
        cells += [paired_difference(pooled[base], pooled[own]).text() for base, own in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
