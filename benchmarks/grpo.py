"""The quickstart's on-policy distillation beside GRPO: how many episodes each takes to reach the same success.

    python -m benchmarks.grpo            # resumable: finished runs are kept, and one that was cut off goes on
    python -m benchmarks.grpo --table    # the table from the stored results

Both start from the same cold start. GRPO plays 8 episodes of each of 4 tasks a step, for up to five times the episodes, with the
learning rate that did best in a sweep of five on another seed: by the mean of its last panels, after as many episodes as distillation
has. Success is greedy, on 100 validation tasks. Results: ``benchmarks/results/grpo.json``, every curve.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import keep, kept

RESULTS = Path(__file__).parent / "results" / "grpo.json"
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
SWEEP_SEED, SEEDS = 10, (20, 21)
STEPS, EPISODES_PER_STEP = 300, 16
"""Of distillation, as ``configs/quickstart.yaml`` has them."""
GROUPS, PER_TASK = 4, 8
PATIENCE = 5
"""How many times the episodes of distillation GRPO may take."""
POINTS = 20
"""Panels on the way of distillation."""

Curve = list[list[float]]
"""Episodes and success, panel by panel."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-grpo"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    results: dict[str, Curve] = kept(RESULTS)
    for name, seed, rate, times in [] if arguments.table else _runs(results):
        if name not in results:
            results[name] = curve(seed, rate, times, arguments.output, arguments.output / name.replace("/", "-"))
            keep(RESULTS, results)
    print(table(results))


def _runs(results: dict[str, Curve]) -> Any:
    """Name, seed, GRPO's learning rate (none for distillation) and how many times the episodes; the later ones once the sweep is done."""
    for rate in RATES:
        yield f"sweep/{rate:g}", SWEEP_SEED, rate, 1
    for seed in SEEDS:
        yield f"opd/{seed}", seed, None, 1
        yield f"grpo/{seed}", seed, best_rate(results), PATIENCE


def best_rate(results: dict[str, Curve]) -> float:
    """The learning rate with the highest success at the end of its sweep."""
    return max(RATES, key=lambda rate: last(results[f"sweep/{rate:g}"]))


def last(found: Curve) -> float:
    """The mean success of the last quarter of a curve's panels: one alone tells little."""
    ending = [success for _, success in found[-(POINTS // 4) :]]
    return sum(ending) / len(ending)


def curve(seed: int, rate: float | None, times: int, cache: Path, output: Path) -> Curve:
    """Success by episodes played."""
    import agentopd

    per_step = EPISODES_PER_STEP if rate is None else GROUPS * PER_TASK
    steps = times * STEPS * EPISODES_PER_STEP // per_step
    overrides = [
        f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={cache}/cache", f"train.steps={steps}",
        f"train.eval_every={steps // (times * POINTS)}", "train.save_every=0", "evaluation.during=100", "evaluation.tasks=2",
    ]  # fmt: skip
    if rate is not None:
        overrides += ["method=grpo", f"train.learning_rate={rate}", f"train.tasks_per_step={GROUPS}"]
    agentopd.train(agentopd.load_config("quickstart", overrides), output, resume=output.exists())
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [[row["step"] * per_step, row["panel/success"]] for row in rows if "panel/success" in row]


def reached(found: Curve, success: float) -> str:
    """The episodes after which a panel first had this success."""
    first = next((episodes for episodes, value in found if value >= success), None)
    return f"not reached in {found[-1][0]:,.0f}" if first is None else f"{first:,.0f}"


def table(results: dict[str, Curve]) -> str:
    """Episodes to each success, by seed, as Markdown."""
    if any(f"sweep/{rate:g}" not in results for rate in RATES):
        return "the sweep is not finished"
    lines = ["| seed | success | distillation, episodes | GRPO, episodes |", "|---|---|---|---|"]
    for seed in [seed for seed in SEEDS if f"grpo/{seed}" in results]:
        opd, grpo = results[f"opd/{seed}"], results[f"grpo/{seed}"]
        for success in (0.5, 0.6, 0.7, 0.8, max(value for _, value in opd)):
            lines.append(f"| {seed} | {success:.0%} | {reached(opd, success)} | {reached(grpo, success)} |")
    swept = ", ".join(f"{rate:g}: {last(results[f'sweep/{rate:g}']):.0%}" for rate in RATES)
    return "\n".join([*lines, f"\nThe sweep of GRPO's learning rate ended at {swept}."])


if __name__ == "__main__":
    main()
