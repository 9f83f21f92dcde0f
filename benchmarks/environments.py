"""What a small student learns in shipped environments: a cold start on the expert's traces, then on-policy distillation.

    python -m benchmarks.environments --seeds 50 51 52     # resumable: finished runs are kept
    python -m benchmarks.environments --table              # what the stored results say

Each arm is a configuration of ``configs/envs``, as it is shipped. The teacher is fitted on the expert's traces, the student's cold start on
fewer; in TextWorld the expert itself teaches. The panel before is that of the student after its cold start. Each seed has a panel of 200
held-out tasks; nothing was chosen by these seeds. Results: ``benchmarks/results/environments.json``, every panel task by task.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import add, arms_parser, kept, measured_run, missing

RESULTS = Path(__file__).parent / "results" / "environments.json"
ARMS = ("frozen_lake", "sql", "textworld")
SHOWN = ("teacher", "student_before", "student_after")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    arguments = arms_parser(__doc__, [50, 51, 52], ARMS, RESULTS).parse_args(argv)
    for arm, seed in missing(arguments):
        # a cache of its own, so that the time is that of a first run
        own = [f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={arguments.output}/cache", *arguments.set]
        result = measured_run(own, arguments.output / f"{arm}-{seed}", f"envs/{arm}")
        add(arguments.results, f"{arm}/{seed}", result)
    print(table(kept(arguments.results)))


def table(results: dict[str, Any]) -> str:
    """Rows by environment and seed, and pooled over seeds, as Markdown."""
    from agentopd.evaluation import Rate, paired_difference

    lines = ["| environment | seed | teacher | after the cold start | after distillation | gain, paired | minutes |"]
    lines.append("|---|---|---|---|---|---|---|")
    for arm in ARMS:
        runs = {key.split("/")[1]: run for key, run in sorted(results.items()) if key.startswith(f"{arm}/")}
        groups = [*((seed, [run]) for seed, run in runs.items()), *([("pooled", list(runs.values()))] if runs else [])]
        for name, members in groups:
            panels = [[success for run in members for success in run["success"].get(panel, [])] for panel in SHOWN]
            rates = " | ".join(Rate(sum(panel), len(panel)).text() if panel else "the expert" for panel in panels)
            minutes = sum(run["seconds"] for run in members) / len(members) / 60
            lines.append(
                f"| {arm} | {name} | {rates} | {paired_difference(panels[1], panels[2]).text()} | {minutes:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
