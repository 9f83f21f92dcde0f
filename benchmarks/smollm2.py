"""SmolLM2-135M-Instruct: what distillation from itself, shown the worked steps, teaches it, beside supervised fine-tuning.

    python -m benchmarks.smollm2 --seeds 22 23     # resumable: finished runs are kept, and one that was cut off goes on
    python -m benchmarks.smollm2 --table           # the tables from the stored results

Three arms for each seed, all from the same cold start and with as many updates of as many episodes: ``opd`` is
``configs/smollm2.yaml`` itself; ``sft`` learns from fresh traces of the expert, which always succeeds; ``sft+opd`` is distillation once
more, from the end of ``sft``, whose weights are then the teacher's too. The recipe was chosen on seeds 0 to 9 and 20. Each seed has a panel of
100 tasks of its own, which nothing else has seen: questions that a stage or a training step asked as well are counted. Results:
``benchmarks/results/smollm2.json``, every panel task by task.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentopd.isolation.session import Session
from agentopd.rollout import TaskStream
from agentopd.training.run.traces import SPLIT
from agentopd.types import Task
from benchmarks.measured import keep, kept, made_by

RESULTS = Path(__file__).parent / "results" / "smollm2.json"
EXPERT_TRACES = ("method=sft", "objective.sampler={kind: frozen, actors: {expert: 1.0}, episodes: 192}")
"""As many as distillation plays: 24 updates of 8 episodes."""
ARMS = ("opd", "sft", "sft+opd")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[22, 23])
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-smollm2"))
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    for seed in [] if arguments.table else arguments.seeds:
        for arm in ARMS:
            if f"{arm}/{seed}" not in results:
                results[f"{arm}/{seed}"] = measured(arm, seed, arguments.output)
                keep(RESULTS, results)
    print(table(results))


def overrides(arm: str, seed: int, output: Path) -> list[str]:
    """What an arm changes in ``configs/smollm2.yaml``."""
    own = [f"seed={seed}", f"evaluation.seed={seed}", "evaluation.sampled=100", f"stages.cache={output}/cache"]
    if arm == "sft":
        return [*own, *EXPERT_TRACES]
    if arm == "sft+opd":
        return [*own, f"student.model={output / f'sft-{seed}' / 'student'}", "stages.cold_start=null"]
    return own


def measured(arm: str, seed: int, output: Path) -> dict[str, Any]:
    """Trains one arm: success by task of every panel, the tasks' families, and how many questions of the panel were met before."""
    import agentopd
    from agentopd.training.loop.build import panel_tasks

    config = agentopd.load_config("smollm2", overrides(arm, seed, output))
    folder = output / f"{arm}-{seed}"
    result = agentopd.train(config, folder, resume=folder.exists())
    stages = agentopd.load_config("smollm2", [f"seed={seed}"]).stages.cold_start
    stream = TaskStream(config.envs, config.seed, SPLIT)
    met = questions([stream[i] for i in range(stages.episodes if stages else 0)])
    for before in (folder, *([output / f"sft-{seed}"] if arm == "sft+opd" else [])):
        met |= {record.trajectory.opening[-1]["content"] for record in agentopd.records.open(before)}
    return {
        **made_by(),
        "updates": config.train.steps,
        "met_before": len(questions(panel_tasks(config, config.evaluation.tasks, "evaluation")) & met),
        "families": [played.family for played in result.panels["student_after"].episodes],
        "success": {name: panel.success_B.astype(int).tolist() for name, panel in result.panels.items()},
    }


def questions(tasks: Sequence[Task]) -> set[str]:
    """What is asked in them."""
    starts = (Session(task, advice=False, needs_expert=False).reset() for task in tasks)
    return {observed.messages[-1]["content"] for observed in starts}


def table(results: dict[str, Any]) -> str:
    """Success by arm, pooled over the seeds that are finished, then by family, as Markdown."""
    finished = sorted(int(key.removeprefix("opd/")) for key in results if key.startswith("opd/"))
    if not finished:
        return "no seed is finished"
    seeds = {arm: [seed for seed in finished if f"{arm}/{seed}" in results] for arm in ARMS}
    arms = [arm for arm in ARMS if seeds[arm]]
    families = sorted({family for seed in finished for family in results[f"opd/{seed}"]["families"]})
    lines = [
        "| arm | seeds | before | after | gain, paired | sampled before | sampled after | sampled gain, paired |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        gains = (_gain(results, seeds[arm], arm, how) for how in ("", "_sampled"))
        lines.append(f"| {arm} | {', '.join(map(str, seeds[arm]))} | {' | '.join(gains)} |")
    lines += ["", f"| greedy success after | {' | '.join(families)} |", f"|---|{'---|' * len(families)}"]
    for name, arm, panel in [
        ("teacher", "opd", "teacher"),
        ("before", "opd", "student_before"),
        *((arm, arm, "student_after") for arm in arms),
    ]:
        tasks = _tasks(results, seeds[arm], arm, panel)
        cells = (_rate([success for success, of in tasks if of == family]) for family in families)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gain(results: dict[str, Any], seeds: Sequence[int], arm: str, suffix: str) -> str:
    from agentopd.evaluation import paired_difference

    before, after = (
        [success for success, _ in _tasks(results, seeds, arm, f"student_{when}{suffix}")]
        for when in ("before", "after")
    )
    return f"{_rate(before)} | {_rate(after)} | {paired_difference(before, after).text()}"


def _tasks(results: dict[str, Any], seeds: Sequence[int], arm: str, panel: str) -> list[tuple[int, str]]:
    """Success and family of every task."""
    found = (results[f"{arm}/{seed}"] for seed in seeds)
    return [pair for one in found for pair in zip(one["success"][panel], one["families"], strict=True)]


def _rate(successes: Sequence[int]) -> str:
    from agentopd.evaluation import Rate

    return Rate(sum(successes), len(successes)).text()


if __name__ == "__main__":
    main()
