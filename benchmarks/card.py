"""A whole step on one graphics card at real sizes: where its time goes, what learning reaches of the card, and how far off a plan is.

    python -m benchmarks.card --hardware H200            # resumable: what was measured is kept
    python -m benchmarks.card --hardware H200 --cases 0.6b 1.7b-lora
    python -m benchmarks.card --table                    # the tables from the stored results

Students and teachers have the shapes of Qwen3 models and random weights, in bfloat16. Each step plays 32 episodes of 16 turns, forced and
answered as in ``benchmarks/step.py``, by transformers' engine; a local teacher annotates them, and the student learns by the reverse KL over
the whole vocabulary. A case is a fresh process: a step to warm up, then the steps that count, of which medians are told.

*Utilisation* is of learning alone, from the forward passes to the optimiser's gradients: the operations that ``agentopd plan`` counts for
what was learned from, without those that checkpointed layers repeat, in a second, as a share of the card's dense rate for bfloat16. What
all episodes begin with counts as often as it is read: once a micro-batch, or in each row under checkpointing.

Memory is what the process held of the card at most, by torch's allocator (``held``: with what it keeps of freed tensors, and the rest of the
process), beside what the plan says of the same configuration with episodes of these lengths.

Results: ``benchmarks/results/card.json``.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, TrainerCallback

from agentopd import AgentOPDConfig, AgentOPDTrainer
from agentopd.config import Config, load_config
from agentopd.models import NewModel, new_model
from agentopd.planning.hardware import Hardware, hardware
from agentopd.planning.hardware import table as cards
from agentopd.planning.memory import CONTEXT, Device, parts, peak
from agentopd.planning.outlines import known
from agentopd.planning.seconds import stages
from agentopd.planning.setup import Setup as Planned
from agentopd.planning.setup import setup_of
from agentopd.planning.step import Step, by_limits, like, read
from agentopd.planning.work import attention, learning
from benchmarks.fresh import lines_of, tell
from benchmarks.measured import keep, kept, made_by
from benchmarks.rollout_kv import ACTION, LENGTH, MODELS, Setup, prepared
from benchmarks.step import BETAS, ENV, LEARNING_RATE, Tasks, prompts

RESULTS = Path(__file__).parent / "results" / "card.json"
STAGES = {"generate": "seconds/rollout", "teachers": "seconds/teachers", "learn": "seconds/learner"}
EPISODES, TURNS, STEPS = 32, 16, 3
LORA = {"r": 32, "lora_alpha": 64}
CASES: dict[str, dict[str, Any]] = {
    "0.6b": {"student": "Qwen/Qwen3-0.6B", "teacher": "Qwen/Qwen3-1.7B"},
    "1.7b": {"student": "Qwen/Qwen3-1.7B", "teacher": "Qwen/Qwen3-4B"},
    "1.7b-checkpointed": {
        "student": "Qwen/Qwen3-1.7B",
        "teacher": "Qwen/Qwen3-4B",
        "arguments": {"gradient_checkpointing": True},
    },
    "1.7b-offloaded": {
        "student": "Qwen/Qwen3-1.7B",
        "teacher": "Qwen/Qwen3-4B",
        "arguments": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"offload": True}},
    },
    "1.7b-lora": {"student": "Qwen/Qwen3-1.7B", "teacher": "Qwen/Qwen3-4B", "lora": LORA},
}
SMALL = NewModel(hidden_size=32, layers=1, heads=2, intermediate_size=32, max_positions=LENGTH, vocab_size=512)
SMOKE: dict[str, Any] = {"student": SMALL, "teacher": SMALL}
"""For a processor, to see whether a case runs."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", choices=[*cards()], help="the card that is here")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the tables")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.case:
        name, card = given.case
        tell(measured(CASES[name], hardware(card), EPISODES, TURNS, STEPS))
        return
    results = kept(given.results)
    missing = [] if given.table else [name for name in given.cases if name not in results]
    if missing and (given.hardware is None or not torch.cuda.is_available()):
        parser.error("give --hardware, the card that is here, on a machine that has one; or --table")
    for name in missing:
        (found,) = lines_of("benchmarks.card", [name, given.hardware], 8)
        results[name] = made_by() | {"hardware": given.hardware} | found
        keep(given.results, results)
    print(table(results))


class Seen(TrainerCallback):
    """What each step after the first took."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keeps seconds, and bytes where there is a card."""
        metrics = self.trainer.step_metrics
        seconds = {stage: metrics[name] for stage, name in STAGES.items()} | {"step": metrics["seconds/step"]}
        if state.global_step > 1:
            self.steps.append(seconds | memory())
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()


def memory() -> dict[str, float]:
    """Bytes of the card: the most in tensors since the last step, and all that is held."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"tensors": float(torch.cuda.max_memory_allocated()), "held": float(total - free)}


def measured(case: Mapping[str, Any], on: Hardware, episodes: int, turns: int, steps: int) -> dict[str, Any]:
    """The steps of one case, and what a plan says of them."""
    setup = prepared(MODELS["tokens"])
    config = config_of(case, setup, episodes, turns, 1 + steps)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = (model_of(case[one], setup, seed, device) for seed, one in enumerate(("student", "teacher")))
    script = replace(setup.script, after_V=setup.script.after_V.to(device), prompts=[])
    student.register_forward_hook(script, with_kwargs=True)
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        arguments = config.train.arguments | {"save_strategy": "no", "report_to": [], "disable_tqdm": True}
        args = AgentOPDConfig(folder, agentopd=config, **arguments)
        seen.trainer = AgentOPDTrainer(student, args, setup.tokenizer, teacher_model=teacher, callbacks=[seen])
        seen.trainer.train()
    planned, _ = setup_of(config, lambda: setup.tokenizer)
    step = like(by_limits(config), seen.trainer.river.played)
    assert step is not None
    return {"steps": seen.steps} | foretold(planned, step, on)


def config_of(case: Mapping[str, Any], setup: Setup, episodes: int, turns: int, steps: int) -> Config:
    """One student, one teacher, episodes that all play alike."""
    if ENV not in gymnasium.registry:
        gymnasium.register(ENV, entry_point=lambda **kwargs: Tasks(**kwargs))
    student, teacher = (named(case[one]) for one in ("student", "teacher"))
    return load_config(
        {
            "env": {"id": ENV, "kwargs": {"tasks": prompts(setup), "observation": setup.observation}},
            "student": student,
            "teachers": {"teacher": {"kind": "local", "max_tokens": 32768, **teacher}},
            "rollout": {"max_new_tokens": ACTION, "max_length": LENGTH, "max_turns": turns, "concurrency": episodes},
            "objective": {"divergence": "reverse_kl", "aggregate": "token"},
            "evaluation": {"tasks": 1},
            "train": {
                "steps": steps, "tasks_per_step": episodes, "learning_rate": LEARNING_RATE, "betas": BETAS, "eval_every": 0,
                "max_tokens": 32768, "lora": case.get("lora"), "arguments": case.get("arguments", {}),
            },
        }
    )  # fmt: skip


def named(model: str | NewModel) -> dict[str, Any]:
    """What a configuration says of it; the weights are given."""
    return {"new": model.model_dump()} if isinstance(model, NewModel) else {"model": model, "dtype": "bfloat16"}


def model_of(model: str | NewModel, setup: Setup, seed: int, device: torch.device) -> PreTrainedModel:
    """Random weights in the shape that is named; those of a hub's model in bfloat16, made on the device."""
    if isinstance(model, NewModel):
        return nn.Module.to(new_model(model, setup.tokenizer, seed), device)
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**known()[model])
    with device:
        made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    return nn.Module.eval(made)


def foretold(planned: Planned, step: Step, on: Hardware) -> dict[str, Any]:
    """What a plan says of steps like this one, and the operations of learning, repeated ones left out."""
    shape, found = planned.student.shape, read(step, planned.max_tokens, once=planned.checkpoints is None)
    again = planned.checkpoints.count(shape.layers) / shape.layers if planned.checkpoints else 0.0
    repeated = again * (2 * shape.body * found.tokens + attention(shape, found.pairs))
    most = peak(parts(planned, step, Device(on.memory, on.cpu)))[1]
    return {
        "length": step.length,
        "common": step.common,
        "flops": learning(planned, step).flops - repeated,
        "rate": on.bfloat16,
        "predicted": {one.name: one.seconds for one in stages(planned, step, on)}
        | {"tensors": most, "held": most + CONTEXT},
    }


def table(results: Mapping[str, Any]) -> str:
    """Seconds by stage and utilisation; bytes beside the plan's; as Markdown."""
    lines = [
        "| case | step, s | generate | teachers | learn | learn, TFLOP/s | utilisation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        seconds = {key: middle(found, key) for key in ("step", *STAGES)}
        rate = found["flops"] / seconds["learn"]
        told = " | ".join(f"{one:.2f}" for one in seconds.values())
        lines.append(f"| {name} | {told} | {rate / 1e12:.0f} | {rate / found['rate']:.0%} |")
    lines += ["", "| case | of | predicted | measured | predicted is off by |", "|---|---|---|---|---|"]
    for name, found in results.items():
        for key, said in found["predicted"].items():
            if key in found["steps"][0]:
                unit, scale = ("GiB", 2**30) if key in ("tensors", "held") else ("s", 1.0)
                real = middle(found, key)
                lines.append(
                    f"| {name} | {key} | {said / scale:.3g} {unit} | {real / scale:.3g} {unit} | {said / real - 1:+.0%} |"
                )
    return "\n".join(lines)


def middle(found: Mapping[str, Any], key: str) -> float:
    """The median over the steps that count."""
    return float(statistics.median(one[key] for one in found["steps"]))


if __name__ == "__main__":
    main()
