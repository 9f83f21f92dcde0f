"""A whole training step beside TRL's: episodes with tools, the teacher, the loss and its gradient, the optimiser.

    python -m benchmarks.step              # resumable: what was measured is kept
    python -m benchmarks.step --limit 1    # at most one more case
    python -m benchmarks.step --table      # the tables from the stored results

Eight episodes a step, of 2, 4, 8 and 16 turns. Prompts have 200 tokens, actions 32 and observations 60, forced and answered as in
``benchmarks/rollout_kv.py``. Ours is ``AgentOPDTrainer`` with a local teacher, TRL's ``DistillationTrainer`` with its own tool loop; both are
run by their own ``train``. A case ``TURNS/SIDE/N`` is a fresh process: a step to warm up, then the steps that count. Which side is first
alternates with N. Both sides must learn from the same tokens, and have the same loss at every step, the first and those after updates; the
relative differences are kept with the second of a pair.

The same on both sides: the student and the teacher (Llamas of one size with random weights), the prompts, the forced actions, the tool's
answers, one temperature of 1, the reverse KL over the whole vocabulary averaged over action tokens (TRL's ``beta`` of 1), all episodes in
one micro-batch, float32, AdamW at one rate with the same betas and no decay, gradients clipped at 1, a log entry each step. Neither writes
records, checkpoints or panels. ``learn`` is all of a training step but episodes and teacher; ``other`` is what surrounds it, the optimiser
and logs above all.

What favours ours:

- Of a prompt's 200 tokens the first 167 are the same in all episodes, as instructions and tools are. Ours reads them once, in rollout,
  teacher and learner; TRL reads them in each episode. Behind them nothing is shared. What is read behind them needs an attention mask, which
  costs more the longer the episodes are.
- Both sides decode with the model that is trained. TRL can use vLLM instead, which keeps caches between turns by itself.
- Without Triton, as on a CPU, TRL's loss projects the observations too, and masks them after. The vocabulary of 512 keeps that small.

What favours TRL:

- Gradient checkpointing is off, which is on by TRL's defaults and off by ours.
- All episodes have turns of one length, so TRL's padding to the longest costs nothing.
- The last action's call is run by ours alone.
- Ours measures more of each token and turn, and keeps behaviour log-probabilities.

Results: ``benchmarks/results/step.json``.
"""

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import gymnasium
import numpy as np
import torch
from transformers import PreTrainedModel, Trainer, TrainerCallback

from agentopd import AgentOPDConfig, AgentOPDTrainer
from agentopd.chat import Chat
from agentopd.config import load_config
from agentopd.forward import common_prefix
from agentopd.models import NewModel, new_model
from benchmarks.measured import add, kept, made_by, spread
from benchmarks.rollout_kv import (
    ACTION,
    LENGTH,
    MODELS,
    PROMPT,
    ROWS,
    WORDS,
    Notes,
    Setup,
    filled,
    noting,
    prepared,
)

RESULTS = Path(__file__).parent / "results" / "step.json"
ENV = "agentopd-benchmarks/Tasks-v0"
SIDES = ("agentopd", "trl")
STAGES = ("generate", "teacher", "learn", "other")
TURNS, REPEATS, STEPS = (2, 4, 8, 16), 5, 3
TASK = 32
"""Tokens at the end of a prompt that are the episode's own."""
LEARNING_RATE, BETAS = 1e-5, (0.9, 0.95)
QUIET: dict[str, Any] = {"use_cpu": True, "save_strategy": "no", "report_to": [], "disable_tqdm": True}
CLOSE = 1e-4
"""Relative difference up to which two losses of the same tokens are one, but for rounding."""
Episode = tuple[tuple[int, ...], tuple[bool, ...]]
"""Tokens, and which are trained."""


@dataclass
class Clock(TrainerCallback):
    """The seconds of each step, by stage too; what is not of a stage is ``other``."""

    read: Callable[[], dict[str, float]] = dict
    """Seconds by stage of the step that has just ended, where the trainer itself measures them."""
    steps: list[dict[str, float]] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    begun: tuple[float, float] = (0.0, 0.0)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts."""
        self.begun = perf_counter(), process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Closes a step; the next one begins at once."""
        now = perf_counter(), process_time()
        seconds, cpu_seconds = now[0] - self.begun[0], now[1] - self.begun[1]
        stages, self.stages, self.begun = self.stages | self.read(), {}, now
        other = seconds - sum(stages.values())
        self.steps.append({"seconds": seconds, "cpu_seconds": cpu_seconds, **stages, "other": other})

    @contextmanager
    def stage(self, name: str, inside: Sequence[str] = ()) -> Iterator[None]:
        """Adds what is done here to ``name``, less what is meanwhile added to the stages ``inside``."""
        apart, begin = sum(self.stages.get(one, 0.0) for one in inside), perf_counter()
        yield
        spent = perf_counter() - begin - sum(self.stages.get(one, 0.0) for one in inside) + apart
        self.stages[name] = self.stages.get(name, 0.0) + spent


class Tasks(Notes):
    """Each task in turn, whatever the seed: so every step of ours plays each once, as TRL's does."""

    def __init__(self, tasks: Sequence[str], observation: str) -> None:
        super().__init__("", observation)
        self.tasks = tasks

    def start(self) -> str:
        """The next task."""
        return self.tasks[next(DRAWN) % len(self.tasks)]


DRAWN = count()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, each case in a process of its own, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="measure at most so many cases")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--case", metavar="TURNS/SIDE/N", help="measure this one here, and print it alone")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    if arguments.case:
        turns, side, _ = arguments.case.split("/")
        print(json.dumps(measured(int(turns), side, MODELS["speed"], STEPS)))
        return
    missing = [name for name in cases() if name not in kept(arguments.results)]
    for name in [] if arguments.table else missing[: arguments.limit]:
        command = [sys.executable, "-m", "benchmarks.step", "--case", name]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result = json.loads(printed.splitlines()[-1])
        add(arguments.results, name, result | compared(name, result, kept(arguments.results)))
    print(table(kept(arguments.results)))


def cases() -> list[str]:
    """All cases, in the order in which they are measured."""
    return [
        f"{turns}/{side}/{repeat}"
        for repeat in range(REPEATS)
        for turns in TURNS
        for side in (SIDES[::-1] if repeat % 2 else SIDES)
    ]


def compared(name: str, result: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """How far the losses of all steps lie from the other side's, relative to them; nothing where those are not measured yet.

    Raises:
        RuntimeError: The two have not learned from the same tokens, or their losses differ by more than rounding.
    """
    turns, side, repeat = name.split("/")
    other = results.get(f"{turns}/{SIDES[1 - SIDES.index(side)]}/{repeat}")
    if other is None:
        return {}
    apart = [abs(a - b) / abs(b) for a, b in zip(result["losses"], other["losses"], strict=True)]
    if result["episodes"] != other["episodes"] or not max(apart) <= CLOSE:
        both = [{key: one[key] for key in ("losses", "episodes", "tokens", "trained")} for one in (result, other)]
        raise RuntimeError(f"{name}: the sides have not learned the same: {both[0]} and {both[1]}")
    return {"loss_differences": apart}


def measured(turns: int, side: str, shape: NewModel, steps: int) -> dict[str, Any]:
    """One side's steps after the first, and what the first learned from."""
    setup = prepared(shape)
    teacher = new_model(shape, setup.tokenizer, seed=1)
    tasks = prompts(setup)
    with tempfile.TemporaryDirectory() as folder:
        clock, losses, episodes = {"agentopd": ours, "trl": theirs}[side](
            setup, teacher, tasks, turns, 1 + steps, folder
        )
    trained = sum(sum(trained_T) for _, trained_T in episodes)
    if len(episodes) != ROWS or trained != ROWS * turns * ACTION:
        raise RuntimeError(f"{turns} turns were not played: {len(episodes)} episodes, {trained} tokens of actions")
    return made_by() | {
        "trl": version("trl"),
        "transformers": version("transformers"),
        "tokens": sum(len(tokens_T) for tokens_T, _ in episodes),
        "common": common_prefix(torch.tensor([tokens_T for tokens_T, _ in episodes])),
        "trained": trained,
        "episodes": hashlib.sha256(repr(sorted(episodes)).encode()).hexdigest()[:16],
        "losses": losses,
        "steps": [{name: round(seconds, 4) for name, seconds in step.items()} for step in clock.steps[1:]],
    }


def prompts(setup: Setup) -> list[str]:
    """A task for each episode, behind instructions that all have; alike to the end, ours would read all but one of them for free."""
    chat, tools = Chat(setup.tokenizer), Notes("", "").tools.schemas

    def written(before: str, wanted: int) -> str:
        def length(text: str) -> int:
            return len(chat.prompt([{"role": "user", "content": before + text}], tools))

        return before + filled(length, wanted)

    instructions = written("", PROMPT - TASK)
    return [written(f"{instructions} {word} ", PROMPT) for word in WORDS.split()[:ROWS]]


def ours(
    setup: Setup, teacher: PreTrainedModel, tasks: Sequence[str], turns: int, steps: int, folder: str
) -> tuple[Clock, list[float], list[Episode]]:
    """Steps of this package: the clock, the loss of each, and the episodes of the first."""
    if ENV not in gymnasium.registry:
        gymnasium.register(ENV, entry_point=lambda **kwargs: Tasks(**kwargs))
    new = {"new": MODELS["tokens"].model_dump()}  # not built: the weights are given
    config = load_config(
        {
            "env": {"id": ENV, "kwargs": {"tasks": list(tasks), "observation": setup.observation}},
            "student": new,
            "teachers": {"teacher": {"kind": "local", **new}},
            "rollout": {"max_new_tokens": ACTION, "max_length": LENGTH, "max_turns": turns, "concurrency": ROWS},
            "objective": {"divergence": "reverse_kl", "aggregate": "token"},
            "train": {
                "steps": steps, "tasks_per_step": ROWS, "learning_rate": LEARNING_RATE, "betas": BETAS, "eval_every": 0,
            },
        }
    )  # fmt: skip
    args = AgentOPDConfig(folder, agentopd=config, **QUIET)
    clock = Clock()
    first: list[Episode] = []
    trainer = AgentOPDTrainer(setup.model, args, setup.tokenizer, teacher_model=teacher, callbacks=[clock])

    def read() -> dict[str, float]:
        if not first:
            segments = [one for played in trainer.river.played for one in played.segments]
            first.extend((tuple(one.tokens_T.tolist()), tuple(one.trainable_T.tolist())) for one in segments)
        names = {"generate": "rollout", "teacher": "teachers", "learn": "learner"}
        return {stage: trainer.step_metrics[f"seconds/{name}"] for stage, name in names.items()}

    clock.read = read
    trainer.train()
    return clock, losses_of(trainer), first


def theirs(
    setup: Setup, teacher: PreTrainedModel, tasks: Sequence[str], turns: int, steps: int, folder: str
) -> tuple[Clock, list[float], list[Episode]]:
    """The same of TRL's."""
    from datasets import Dataset
    from trl.trainer.distillation_trainer import DistillationTrainer

    clock = Clock()
    first: list[Episode] = []

    class Timed(DistillationTrainer):  # type: ignore[misc, unused-ignore]
        """Notes when a stage begins and ends."""

        def _generate(self, prompts: Any) -> Any:
            with clock.stage("generate"):
                played = super()._generate(prompts)
            for prompt, completion, mask in zip(*played[:3], strict=True) if not first else ():
                first.append(((*prompt, *completion), (*[False] * len(prompt), *map(bool, mask))))
            return played

        def _get_last_hidden_state(self, unwrapped_model: Any, *args: Any, **kwargs: Any) -> Any:
            if unwrapped_model is not teacher:
                return super()._get_last_hidden_state(unwrapped_model, *args, **kwargs)
            with clock.stage("teacher"):
                return super()._get_last_hidden_state(unwrapped_model, *args, **kwargs)

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with clock.stage("learn", inside=("generate", "teacher")):
                return super().training_step(*args, **kwargs)  # type: ignore[no-untyped-call, unused-ignore]

    trainer = Timed(
        setup.model,
        teacher,
        args=distillation_config(turns, steps, folder),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": task}]} for task in tasks]),
        processing_class=setup.tokenizer,
        tools=[noting(setup.observation)],
        callbacks=[clock],
    )
    trainer.train()
    return clock, losses_of(trainer), first


def distillation_config(turns: int, steps: int, folder: str) -> Any:
    """TRL's settings, equal to ours where both have one."""
    from trl.trainer.distillation_config import DistillationConfig

    return DistillationConfig(
        folder,
        **QUIET,
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        max_completion_length=LENGTH - PROMPT - 1,
        max_tool_calling_iterations=turns - 1,
        beta=1.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=1.0,
    )


def losses_of(trainer: Trainer) -> list[float]:
    """The loss of each step."""
    return [one["loss"] for one in trainer.state.log_history if "loss" in one]


def table(results: dict[str, Any]) -> str:
    """Seconds a step by turns, how they grow, and where they go, as Markdown."""
    pairs = {turns: pairs_of(results, turns) for turns in TURNS}
    pairs = {turns: found for turns, found in pairs.items() if found}
    lines: list[str] = []
    for clock in ("seconds", "cpu_seconds"):
        lines += [
            f"| turns | agentopd, {clock} | TRL | ratio, pair by pair | least | most |",
            "|---|---|---|---|---|---|",
        ]
        medians: dict[str, dict[int, float]] = {side: {} for side in SIDES}
        for turns, found in pairs.items():
            each = {side: [median(pair[side], clock) for pair in found] for side in SIDES}
            for side in SIDES:
                medians[side][turns] = statistics.median(each[side])
            ratios = [trl / agentopd for agentopd, trl in zip(*each.values(), strict=True)]
            taken = " | ".join(f"{medians[side][turns]:.2f}" for side in SIDES)
            lines.append(f"| {turns} | {taken} | {spread(ratios)} |")
        if len(pairs) > 1:
            fitted = ", ".join(f"{side} {exponent(of):.2f}" for side, of in medians.items())
            lines += ["", f"Exponents of {clock} over turns, by least squares of the logarithms: {fitted}."]
        lines.append("")
    lines += [f"| turns | side | {' | '.join(f'{stage}, s' for stage in STAGES)} |", "|---|---|---|---|---|---|"]
    for turns, found in pairs.items():
        for side in SIDES:
            each_stage = (statistics.median(median(pair[side], stage) for pair in found) for stage in STAGES)
            lines.append(f"| {turns} | {side} | {' | '.join(f'{seconds:.2f}' for seconds in each_stage)} |")
    return "\n".join(lines)


def pairs_of(results: dict[str, Any], turns: int) -> list[dict[str, Any]]:
    """The steps of both sides, of each repeat that both were measured in."""
    named = [{side: f"{turns}/{side}/{repeat}" for side in SIDES} for repeat in range(REPEATS)]
    whole = [names for names in named if all(name in results for name in names.values())]
    return [{side: results[name]["steps"] for side, name in names.items()} for names in whole]


def median(steps: Sequence[dict[str, float]], name: str) -> float:
    """Of the steps of one case."""
    return statistics.median(step[name] for step in steps)


def exponent(seconds: dict[int, float]) -> float:
    """The slope of log(seconds) over log(turns), by least squares."""
    slope, _ = np.polyfit([math.log(turns) for turns in seconds], [math.log(one) for one in seconds.values()], 1)
    return float(slope)


if __name__ == "__main__":
    main()
