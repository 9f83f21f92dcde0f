"""Training from records beside training on new episodes: the same cold start, teacher, divergence and number of updates.

    python -m benchmarks.records_training --seeds 20 21 22   # resumable: finished runs are kept; several processes may share the seeds
    python -m benchmarks.records_training --table            # the table from the stored results

The cold-started student plays some episodes (``agentopd rollout``), and the quickstart's teacher reads them once (``agentopd annotate``).
`offline` learns from these and plays nothing, `prefix` begins recorded episodes of the expert again, backward from their end, and `online` plays
every episode anew. All learn the forward KL over the teacher's 64 likeliest tokens. Each seed has a panel of its own. Seconds are those of a whole run with its two panels, its stages found in the cache; `environment steps` are turns that
an environment answered in training, recorded prefixes included. Results: ``benchmarks/results/records_training.json``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measured import add, arms_parser, kept, made_by, measured_run, missing, stopwatch

RESULTS = Path(__file__).parent / "results" / "records_training.json"
TOP_K = 64
UPDATES, EARLIER, SHOWN = 100, 1600, 400
"""Updates of every arm; episodes of the student before it is trained, and of the expert."""
PREFIX = (
    "acting: {kind: prefix, by: recorded, counted_from: end, turns: {kind: stairs, start: 1.0, end: 30.0, every: 10}}"
)
ARMS: Mapping[str, Sequence[str]] = {
    "online": (),
    "offline": (
        "objective.sampler={kind: recorded, records: FOLDER/earlier-SEED}",
        "teachers.teacher={kind: recorded, records: FOLDER/taught-SEED}",
    ),
    "prefix": (f"objective.sampler={{kind: recorded, records: FOLDER/expert-SEED, {PREFIX}}}",),
}
"""What each arm changes."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the table."""
    arguments = arms_parser(__doc__, [20, 21, 22], ARMS, RESULTS).parse_args(argv)
    for arm, seed in missing(arguments):
        folder: Path = arguments.output
        common = [f"seed={seed}", f"evaluation.seed={seed}", f"stages.cache={folder}/cache", f"train.steps={UPDATES}"]
        common += ["train.learning_rate=1.0e-3", "train.eval_every=0", *arguments.set]
        if f"records/{seed}" not in kept(arguments.results):
            add(arguments.results, f"records/{seed}", _recorded(folder, seed, common))
        own = [text.replace("FOLDER", str(folder)).replace("SEED", str(seed)) for text in ARMS[arm]]
        support = f"objective.support={{kind: top_k, k: {TOP_K}}}"
        result = measured_run([*common, support, *own], folder / f"{arm}-{seed}")
        add(arguments.results, f"{arm}/{seed}", result | {"environment_steps": _played(folder / f"{arm}-{seed}")})
    print(table(kept(arguments.results)))


def _recorded(folder: Path, seed: int, common: Sequence[str]) -> dict[str, Any]:
    """Plays the student and the expert, and lets the teacher read the student's episodes; what that cost."""
    import agentopd
    from agentopd.config import dump
    from agentopd.training.annotating.question import question
    from agentopd.training.annotating.whole import annotate
    from agentopd.training.run.whole import play
    from agentopd.types import EXPERT, STUDENT

    config, file = agentopd.load_config("quickstart", list(common)), folder / f"config-{seed}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(dump(config), encoding="utf-8")
    watch = stopwatch()
    play(config, EARLIER, folder / f"earlier-{seed}", STUDENT)
    told: dict[str, Any] = {"earlier": watch() | {"environment_steps": _played(folder / f"earlier-{seed}")}}
    watch = stopwatch()
    asked = question(folder / f"earlier-{seed}", ["teacher"], file, k=TOP_K)
    annotate(asked, folder / f"taught-{seed}", cache=folder / f"said-{seed}")
    told["taught"] = watch()
    watch = stopwatch()
    play(config, SHOWN, folder / f"expert-{seed}", EXPERT)
    told["expert"] = watch() | {"environment_steps": _played(folder / f"expert-{seed}")}
    return told | made_by()


def _played(run: Path) -> int:
    """The turns of the episodes that a run played itself."""
    import agentopd

    table = agentopd.records.open(run).table(["origin", "turns"]).to_pydict()
    pairs = zip(table["origin"], table["turns"], strict=True)
    return sum(turns for origin, turns in pairs if origin is None)


def table(results: dict[str, Any]) -> str:
    """A row an arm, pooled over the seeds of which all arms are there, as Markdown."""
    from agentopd.evaluation import Rate, paired_difference

    seeds = sorted({int(key.split("/")[1]) for key in results})
    seeds = [seed for seed in seeds if all(f"{arm}/{seed}" in results for arm in ARMS)]
    if not seeds:
        return "no seed has every arm yet"
    lines = [
        f"seeds {', '.join(map(str, seeds))}; cold start {_rate(Rate, results, 'online', seeds, 'student_before')}, "
        f"teacher {_rate(Rate, results, 'online', seeds, 'teacher')}",
        "",
        "| arm | student after | gain over the cold start, paired | minus online, paired | environment steps | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        after, before, online = (
            _pooled(results, who, seeds, panel)
            for who, panel in ((arm, "student_after"), (arm, "student_before"), ("online", "student_after"))
        )
        beside = "" if arm == "online" else paired_difference(online, after).text()
        steps, seconds = (
            sum(results[f"{arm}/{seed}"][what] for seed in seeds) / len(seeds)
            for what in ("environment_steps", "seconds")
        )
        gain = paired_difference(before, after).text()
        lines.append(
            f"| {arm} | {_rate(Rate, results, arm, seeds, 'student_after')} | {gain} | {beside} | {steps:.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _pooled(results: dict[str, Any], arm: str, seeds: Sequence[int], panel: str) -> list[int]:
    return [one for seed in seeds for one in results[f"{arm}/{seed}"]["success"][panel]]


def _rate(rate: Any, results: dict[str, Any], arm: str, seeds: Sequence[int], panel: str) -> str:
    values = _pooled(results, arm, seeds, panel)
    return str(rate(sum(values), len(values)).text())


if __name__ == "__main__":
    main()
