"""Does it pay to ask how far a teacher can be trusted? Weights beside uniform, where a teacher leads a student into what it never saw.

    python -m benchmarks.weights --seeds 20 21 22    # resumable: finished runs are kept; several processes may share the seeds
    python -m benchmarks.weights --table             # what the stored results say

The members of an ensemble are fitted on Checkout whose tools never fail, and teach a student that acts where they often do. All arms of
a seed begin with the same cold start, learn from the same members for as many updates, have the default settings of their weight with
``rescale``, and are measured on the same panel of 200 tasks, which nothing else has seen. The arms, the settings and the number of updates
were fixed on seed 0, before any other was looked at.

A seed is one observation: its difference is that of two shares on one panel. Intervals and p-values are of Student's t test over the
seeds, the p-values adjusted by Holm's procedure over the weights, the intervals at the confidence at which it tests each. Results:
``benchmarks/results/weights.json``, every panel task by task.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopd.comparing.inference import holm
from agentopd.config import Config, load_config
from benchmarks.inference import detectable, holm_levels, paired
from benchmarks.measured import add, kept, made_by, stopwatch

RESULTS = Path(__file__).parent / "results" / "weights.json"
SEEDS = tuple(range(20, 30))
FAILURE_RATE = 0.3
MEMBERS = ("one", "two", "three")
SHAPE = "hidden_size: 96, layers: 2, heads: 4, intermediate_size: 256, max_positions: 1024, vocab_size: 512"
ARMS = ("uniform", "teacher_entropy", "epistemic", "aleatoric", "reliability", "until_mistake", "sod")
"""Kinds of weights; all others are held against the first."""
LEVEL = 0.05


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-weights"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    for seed in [] if arguments.table else arguments.seeds:
        for arm in arguments.arms:
            if f"{arm}/{seed}" not in kept(arguments.results):
                add(arguments.results, f"{arm}/{seed}", measured(arm, seed, arguments.output))
    print(
        table({key: one for key, one in kept(arguments.results).items() if int(key.split("/")[1]) in arguments.seeds})
    )


def config(arm: str, seed: int, failure_rate: float, output: Path) -> Config:
    """The quickstart with an ensemble for a teacher, shorter, its tools failing at ``failure_rate``."""
    members = [f"teachers.{name}={{kind: local, new: {{{SHAPE}, seed: {i}}}}}" for i, name in enumerate(MEMBERS)]
    ensemble = f"teachers.teacher={{kind: ensemble, members: [{', '.join(MEMBERS)}]}}"
    return load_config(
        "quickstart",
        [
            f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={output}/cache", f"env.kwargs.failure_rate={failure_rate}",
            *members, ensemble, "stages.teacher.episodes=2000", "stages.teacher.steps=400", f"objective.weight=[{{kind: {arm}}}]",
            "objective.rescale=true", "train.steps=50", "train.warmup_steps=5", "train.eval_every=0", "train.save_every=0",
        ],
    )  # fmt: skip


def measured(arm: str, seed: int, output: Path) -> dict[str, Any]:
    """Success by task of the student after training; with the first arm also of the student before and of a member."""
    from agentopd.training.loop.arguments import arguments
    from agentopd.training.loop.trainer import AgentOPDTrainer
    from agentopd.training.run.stages import student_of, teacher_of, tokenizer_of

    acting, clean = (config(arm, seed, rate, output) for rate in (FAILURE_RATE, 0.0))
    tokenizer = tokenizer_of(acting, print)
    # the members' weights come from a stage where tools never fail
    trainer = AgentOPDTrainer(
        student_of(acting, tokenizer, print),
        arguments(acting, None),
        tokenizer,
        load=lambda wanted: teacher_of(clean, wanted, tokenizer, print),
    )
    panels = {}
    if arm == ARMS[0]:
        panels = {"before": trainer.play_panel(), "member": trainer.play_panel(actor=MEMBERS[0])}
    seconds = stopwatch()
    trainer.train()
    panels["after"] = trainer.play_panel()
    return {
        **made_by(),
        **seconds(),
        "updates": acting.train.steps,
        "success": {name: panel.success_B.astype(int).tolist() for name, panel in panels.items()},
    }


def table(results: dict[str, Any]) -> str:
    """Success by arm, and its difference from the first, over the seeds that all stored arms have, as Markdown."""
    from agentopd.evaluation import Rate

    of_each = {arm: {int(key.split("/")[1]) for key in results if key.startswith(f"{arm}/")} for arm in ARMS}
    of_each = {arm: seeds for arm, seeds in of_each.items() if seeds}
    seeds = sorted(set.intersection(*of_each.values())) if ARMS[0] in of_each else []
    if len(seeds) < 2:
        return "fewer than two seeds are finished"

    def panels(arm: str, panel: str = "after") -> list[list[int]]:
        return [results[f"{arm}/{seed}"]["success"][panel] for seed in seeds]

    def pooled(arm: str, panel: str = "after") -> str:
        found = panels(arm, panel)
        return Rate(sum(map(sum, found)), sum(map(len, found))).text()

    shares = {arm: [sum(panel) / len(panel) for panel in panels(arm)] for arm in of_each}
    found = {
        arm: paired([100 * (own - base) for own, base in zip(share, shares[ARMS[0]], strict=True)])
        for arm, share in shares.items()
        if arm != ARMS[0]
    }
    p_values = [each.p for each in found.values()]
    lines = [
        f"Seeds {', '.join(map(str, seeds))}. Before: {pooled(ARMS[0], 'before')}; a member where tools fail: {pooled(ARMS[0], 'member')}.\n",
        "| weight | success, pooled | minus uniform, points | p, Holm | detectable, points | by seed |",
        "|---|---|---|---|---|---|",
        f"| {ARMS[0]} | {pooled(ARMS[0])} | | | | {' '.join(f'{100 * share:.0f}' for share in shares[ARMS[0]])} |",
    ]
    for (arm, each), p, level in zip(found.items(), holm(p_values), holm_levels(p_values, LEVEL), strict=True):
        low, high = each.interval(1 - level)
        least = detectable(each.spread, each.n, LEVEL / len(found))
        lines.append(
            f"| {arm} | {pooled(arm)} | {each.mean:+.1f} [{low:+.1f}, {high:+.1f}] | {p:.3f} | {least:.1f} | "
            f"{' '.join(f'{100 * (own - base):+.0f}' for own, base in zip(shares[arm], shares[ARMS[0]], strict=True))} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
