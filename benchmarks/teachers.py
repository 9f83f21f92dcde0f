"""A few steps under teachers of each kind, from the same cold start: does the student get better, and by how much?

    python -m benchmarks.teachers --seeds 20 21 22                           # resumable: finished runs are kept
    python -m benchmarks.teachers --seeds 20 21 22 --arms privileged routed  # some of the arms
    python -m benchmarks.teachers --table                                    # what the stored results say

Every run is the quickstart's configuration with ``STEPS`` steps and another teacher. Each seed has a panel of its own, played before and
after: gains are paired, task by task. Results: ``benchmarks/results/teachers.json``, every panel's successes task by task. Runs of a
seed share a cache of stages, so their seconds depend on the order.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import add, arms_parser, kept, measured_run, missing

RESULTS = Path(__file__).parent / "results" / "teachers.json"
STEPS, WARM_UP = 20, 5
ACCURACY = "teacher/discriminator/accuracy"
SHAPE = "hidden_size: 96, layers: 2, heads: 4, intermediate_size: 256, vocab_size: 512"
SECOND = f"teachers.second={{kind: local, new: {{{SHAPE}, max_positions: 1024, seed: 1}}"
RATE = "train.learning_rate=1.0e-4"
"""Of policy gradients: at the quickstart's own rate, which is for distillation, they lose what the student could (``benchmarks.grpo``)."""
SHORT = "train.learning_rate=1.0e-3"
"""Of distillation in so few steps, a third of the quickstart's own, chosen on seed 3: at that rate the student first gets worse, and has no
time to recover."""
ARMS: dict[str, tuple[str, ...]] = {
    "privileged": (
        f"teachers.teacher={{kind: privileged, hint: 'It comes to {{answer}}.', new: {{{SHAPE}, max_positions: 1152}}}}",
        "stages.teacher.privileged=0.5",
        SHORT,
    ),
    "routed": (
        f"{SECOND}, where: {{min_turn: 1, every: 2}}}}",
        "teachers.teacher.where={every: 2}",
        "method={aggregate: turn, terms: [{name: even}, {name: odd, target: {name: second}}]}",
        SHORT,
    ),
    "ensemble": (
        f"{SECOND}}}",
        "teachers.panel={kind: ensemble, members: [teacher, second]}",
        "objective.target.name=panel",
        SHORT,
    ),
    "reward": ("method=grpo", RATE, "teachers.judge={kind: reward}", "objective.target.name=judge"),
    "discriminator": (
        "method=gad",
        RATE,
        f"teachers.discriminator.warm_up={WARM_UP}",
        f"objective.terms.0.coefficient.boundaries=[{WARM_UP}]",
        f"objective.terms.1.coefficient.boundaries=[{WARM_UP}]",
    ),
}
"""What each arm changes: a model that is shown the answer, and was fitted so; two models that teach every other turn each; the mean of the
two; the environment's reward of each step, without a model; and a discriminator, whose first steps copy the expert while it learns."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    arguments = arms_parser(__doc__, [20, 21, 22], ARMS, RESULTS).parse_args(argv)
    for arm, seed in missing(arguments):
        place = arguments.output / f"{arm}-{seed}"
        result = measured_run([*overrides(arm, seed, arguments.output), *arguments.set], place)
        add(arguments.results, f"{arm}/{seed}", result | accuracies(place))
    print(table(kept(arguments.results)))


def overrides(arm: str, seed: int, output: Path) -> list[str]:
    """How a run differs from the quickstart."""
    own = [f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={output}/cache-{seed}"]
    return [
        *own,
        *ARMS[arm],
        f"train.steps={STEPS}",
        "train.warmup_steps=2",
        "train.eval_every=0",
        "train.save_every=0",
    ]


def accuracies(run: Path) -> dict[str, list[float]]:
    """How often the discriminator told a pair apart, step by step, before it had learned from it; nothing of a run without one."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row[ACCURACY] for row in rows if ACCURACY in row]
    return {"accuracy": [round(one, 4) for one in found]} if found else {}


def table(results: dict[str, Any]) -> str:
    """Rows by arm, for each seed and pooled, as Markdown."""
    from agentopd.evaluation import Rate, paired_difference

    lines = ["| teacher | seed | student before | after | gain, paired |", "|---|---|---|---|---|"]
    for arm in ARMS:
        seeds = sorted(int(key.split("/")[1]) for key in results if key.split("/")[0] == arm)
        pooled = [("pooled", seeds)] if len(seeds) > 1 else []
        for name, members in [*((str(seed), [seed]) for seed in seeds), *pooled]:
            before, after = (
                [success for seed in members for success in results[f"{arm}/{seed}"]["success"][panel]]
                for panel in ("student_before", "student_after")
            )
            cells = [Rate(sum(panel), len(panel)).text() for panel in (before, after)]
            lines.append(f"| {arm} | {name} | {' | '.join(cells)} | {paired_difference(before, after).text()} |")
    told = {name: result["accuracy"] for name, result in results.items() if "accuracy" in result}
    for name, by_step in told.items():
        last = by_step[-WARM_UP:]
        lines.append(
            f"\n{name}: accuracy on pairs {by_step[0]:.2f} at first, {sum(last) / len(last):.2f} over the last {len(last)} steps"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
