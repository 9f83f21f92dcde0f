"""How many traces a cold start should see, by a rule that knows nothing of what distillation makes of it.

    python -m benchmarks.cold_start              # resumable: finished fits are kept
    python -m benchmarks.cold_start --table      # what each count came to, and the one that the rule takes

The rule: of ``COUNTS``, the one whose success, pooled over ``SEEDS`` on tasks of the validation split, lies nearest 40%, the
middle of 25% to 55%. No seed and no task of the quickstart's table is used. Results: ``benchmarks/results/cold_start.json``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import keep, kept

RESULTS = Path(__file__).parent / "results" / "cold_start.json"
COUNTS = (48, 64, 96, 128, 160)
SEEDS = (10, 11, 12)
TASKS = 200
AIM = 0.40


def main(argv: Sequence[str] | None = None) -> None:
    """Fits what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-cold-start"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    for name, count, seed in [] if arguments.table else [(f"{c}/{s}", c, s) for c in COUNTS for s in SEEDS]:
        if name not in results:
            results[name] = fitted(count, seed, arguments.output)
            keep(RESULTS, results)
    print(table(results))


def fitted(count: int, seed: int, output: Path) -> list[int]:
    """Success, task by task, of a student that has seen ``count`` traces and nothing else."""
    import agentopd
    from agentopd.chat import Chat
    from agentopd.training.loop.build import build_panel
    from agentopd.training.run.stages import student_of, tokenizer_of

    overrides = [f"seed={seed}", f"stages.cold_start.episodes={count}", f"stages.cache={output}/cache"]
    config = agentopd.load_config("quickstart", overrides)
    tokenizer = tokenizer_of(config, print)
    panel = build_panel(config, student_of(config, tokenizer, print), Chat(tokenizer), TASKS, "validation")
    return [int(success) for success in panel.success_B]


def table(results: dict[str, Any]) -> str:
    """A row a count, as Markdown, and what the rule takes."""
    from agentopd.evaluation import Rate

    pooled = {
        count: Rate(sum(map(sum, found)), sum(map(len, found)))
        for count in COUNTS
        if len(found := [results[f"{count}/{seed}"] for seed in SEEDS if f"{count}/{seed}" in results]) == len(SEEDS)
    }
    lines = [f"| traces | success, seeds {', '.join(map(str, SEEDS))} pooled |", "|---|---|"]
    lines += [f"| {count} | {rate.text()} |" for count, rate in pooled.items()]
    taken = min(pooled, key=lambda count: abs(pooled[count].value - AIM), default=None)
    return "\n".join([*lines, f"\nnearest {AIM:.0%}: {taken} traces"])


if __name__ == "__main__":
    main()
