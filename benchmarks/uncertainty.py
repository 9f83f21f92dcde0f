"""Does an ensemble know what it does not know, and tell that from what cannot be known?

    python -m benchmarks.uncertainty --seeds 10 11    # resumable: finished seeds are kept
    python -m benchmarks.uncertainty --table          # what the stored results say

Four models of one shape, each fitted on its own traces of an expert, watch a student in ``benchmarks/errands.py``. Where it may choose
among places, the members should agree that the next token is open: ``aleatoric``. Where a tool has just failed, which no trace of
theirs ever showed, they should disagree: ``epistemic``. The readings, fixed on seeds 0 and 1:

- a turn is a ``choice``, a ``failure`` (the tool had just failed) or ``plain``; turns right after a mistake of the student's own are as
  unseen as failures and are none of these: they are stored and left out;
- each turn has the mean of a statistic over its tokens and, as a second reading, the largest of them;
- the area under the ROC curve is that of one kind among all three, its 95% interval a bootstrap over episodes;
- wanted is, in every seed and by the mean over tokens, at least 0.75 for ``aleatoric`` at choices and for ``epistemic`` at failures,
  and above the other statistic there with disjoint intervals.

``entropy`` is the sum of both, all that a single distribution tells. Results: ``benchmarks/results/uncertainty.json``, every turn.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agentopd.config import Config, load_config
from agentopd.types import Annotation, Trajectory
from benchmarks import errands
from benchmarks.inference import Column, auroc, clustered
from benchmarks.measured import add, kept, made_by, stopwatch

RESULTS = Path(__file__).parent / "results" / "uncertainty.json"
SEEDS = (10, 11, 12, 13, 14)
FAILURE_RATE = 0.15
EPISODES = 120
MEMBERS = tuple(f"member_{i}" for i in range(4))
SHAPE = {"hidden_size": 64, "layers": 2, "heads": 4, "intermediate_size": 128, "max_positions": 512, "vocab_size": 400}
READINGS = ("mean", "largest")
STATISTICS = ("aleatoric", "epistemic", "entropy")
OWN = {"choice": ("aleatoric", "epistemic"), "failure": ("epistemic", "aleatoric")}
"""Of each kind of turn the statistic that should find it, and the one that should not."""
WANTED = 0.75
UNIT = 1e-5
"""Of the numbers that are stored, in nats."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmark-uncertainty"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    for seed in [] if arguments.table else arguments.seeds:
        if str(seed) not in kept(arguments.results):
            add(arguments.results, str(seed), measured(seed, arguments.output))
    print(table({name: one for name, one in kept(arguments.results).items() if int(name) in arguments.seeds}))


def config(seed: int, failure_rate: float, output: Path) -> Config:
    """Student, members and environment, whose tools fail at ``failure_rate``."""
    members = {name: {"kind": "local", "new": {**SHAPE, "seed": i}} for i, name in enumerate(MEMBERS)}
    fit = {"steps": 300, "episodes_per_step": 16, "learning_rate": 3e-3}
    return load_config(
        {
            "seed": seed,
            "env": {"id": errands.ID, "kwargs": {"failure_rate": failure_rate}},
            "student": {"new": SHAPE},
            "teachers": {**members, "teacher": {"kind": "ensemble", "members": MEMBERS}},
            "stages": {
                "teacher": {"episodes": 1000, **fit},
                "cold_start": {"episodes": 600, **fit},
                "cache": f"{output}/cache",
            },
            "rollout": {"max_new_tokens": 24, "max_length": 512, "max_turns": 16},
        }
    )


def measured(seed: int, output: Path) -> dict[str, Any]:
    """Every turn that a student took where tools fail, told by columns."""
    from agentopd.chat import Chat
    from agentopd.rollout import TaskStream, assign, collect
    from agentopd.teachers import build_teachers
    from agentopd.training.loop.build import build_policy
    from agentopd.training.run.stages import student_of, teacher_of, tokenizer_of
    from agentopd.types import STUDENT

    seconds = stopwatch()
    acting, clean = config(seed, FAILURE_RATE, output), config(seed, 0.0, output)
    tokenizer = tokenizer_of(acting, print)
    chat = Chat(tokenizer)
    teachers = build_teachers(
        acting.teachers, chat, lambda wanted: teacher_of(clean, wanted, tokenizer, print), acting.temperature
    )
    policy = build_policy(student_of(acting, tokenizer, print), chat, acting.rollout)
    stream = TaskStream(acting.envs, seed, "evaluation")
    assignments = assign(stream, range(EPISODES), "fresh", {STUDENT: 1.0}, 1, "uncertainty", 0, seed)
    played = collect(assignments, {STUDENT: policy}, chat, acting.rollout)
    said = teachers["teacher"].annotate(played)
    turns = [{"episode": i, **turn} for i, pair in enumerate(zip(played, said, strict=True)) for turn in told(*pair)]
    return {
        **made_by(),
        **seconds(),
        "success": [int(one.outcome.success) for one in played],
        "kinds": "".join(turn["kind"][0] for turn in turns),
        "turns": {name: [turn[name] for turn in turns] for name in turns[0] if name != "kind"},
    }


def told(trajectory: Trajectory, said: Annotation) -> list[dict[str, Any]]:
    """Of each turn its kind, and the mean and the largest of each statistic over its tokens, in units of 1e-5 nats."""
    starts = np.cumsum([0, *(len(segment) for segment in trajectory.segments)])
    turn_N = np.concatenate([segment.turn_T for segment in trajectory.segments])[starts[said.segment_N] + said.index_N]
    values = {**said.statistics, "entropy": said.entropy_N}
    found: list[dict[str, Any]] = []
    for s, kind in enumerate(kinds(trajectory)):
        at = {name: values[name][turn_N == s] / UNIT for name in STATISTICS}
        means = {f"{name}/mean": round(float(value_N.mean())) for name, value_N in at.items()}
        found.append({"kind": kind, **means, **{f"{name}/largest": round(float(at[name].max())) for name in at}})
    return found


def kinds(trajectory: Trajectory) -> list[str]:
    """What each turn began in, found by playing the episode again: after a ``failure`` of a tool or a ``mistake``; else a ``choice``, or ``plain``."""
    import agentopd

    env = agentopd.make(trajectory.task.env_id, **trajectory.task.kwargs)
    env.reset(seed=trajectory.task.seed)
    found: list[str] = []
    errors: tuple[str, ...] = ()
    for turn in trajectory.turns:
        before = "failure" if errors == (errands.UNAVAILABLE,) else "mistake" if errors else ""
        found.append(before or ("choice" if env.get_wrapper_attr("choosing") else "plain"))
        env.step(turn.action)
        errors = turn.errors
    return found


def area(result: dict[str, Any], kind: str, column: str) -> tuple[float, Column]:
    """How well a column finds the turns of one kind, and the bootstrap distribution of that."""
    kind_N = np.array(list(result["kinds"]))
    counted_N = kind_N != "m"
    value_N, found_N = np.array(result["turns"][column])[counted_N], kind_N[counted_N] == kind[0]
    episode_N = np.array(result["turns"]["episode"])[counted_N]
    return auroc(value_N, found_N), clustered(episode_N, lambda at: auroc(value_N[at], found_N[at]))


def table(results: dict[str, Any]) -> str:
    """Areas by reading, kind, statistic and seed, as Markdown; then whether what was wanted came out."""
    seeds = sorted(results, key=int)
    if not seeds:
        return "no seed is finished"
    lines = [
        f"| reading | turns | statistic | {' | '.join(seeds)} | mean of the seeds |",
        "|---" * (4 + len(seeds)) + "|",
    ]
    for reading in READINGS:
        for kind, (own, other) in OWN.items():
            cells = {name: [area(results[seed], kind, f"{name}/{reading}") for seed in seeds] for name in STATISTICS}
            for name, areas in cells.items():
                mean = (float(np.mean([value for value, _ in areas])), np.mean([draws for _, draws in areas], axis=0))
                lines.append(f"| {reading} | {kind} | {name} | {' | '.join(_cell(*one) for one in [*areas, mean])} |")
            held = sum(_wanted(*pair) for pair in zip(cells[own], cells[other], strict=True))
            lines.append(f"| {reading} | {kind} | *as wanted* |{' |' * len(seeds)} {held} of {len(seeds)} |")
    counts = ", ".join(
        f"{sum(results[seed]['kinds'].count(kind[0]) for seed in seeds)} {kind}"
        for kind in ("choice", "failure", "plain", "mistake")
    )
    return "\n".join([*lines, f"\nturns: {counts} (left out)"])


def _interval(draws: Column) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _cell(value: float, draws: Column) -> str:
    low, high = _interval(draws)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _wanted(own: tuple[float, Column], other: tuple[float, Column]) -> bool:
    """Whether one statistic finds its own kind of turn, and better than the other does."""
    return own[0] >= WANTED and _interval(own[1])[0] > _interval(other[1])[1]


if __name__ == "__main__":
    main()
