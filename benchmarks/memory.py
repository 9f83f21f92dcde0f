"""Peak memory of a training step against vocabulary and sequence length: student and teacher are a layer and a head each.

    python -m benchmarks.memory                       # resumable: what was measured is kept
    python -m benchmarks.memory --table               # the table from the stored results

A step is the student's layer, the teacher's, the divergence (forward KL) of all positions and its gradient, the head's too, and an update
in place; in float32, hidden size 64, a fresh process each. Told is how far the step lets the peak grow over the parameters and the
inputs, the head's own gradient aside: by the fused divergence, and by full logits where these are small enough.
Results: ``benchmarks/results/memory.json``.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agentopd.objective import divergence, linear_divergence
from benchmarks.fresh import lines_of, peak_bytes, tell
from benchmarks.measured import keep, kept, made_by

RESULTS = Path(__file__).parent / "results" / "memory.json"
VOCABULARIES = (8192, 16384, 32768, 49152, 98304, 151936)
LENGTHS = (512, 2048, 8192)
SIZE = 64
FULL = 2**26
"""The most logits of one model in full."""


class Small(nn.Module):
    """A layer and an output head."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, SIZE)
        self.head = nn.Linear(SIZE, vocabulary, bias=False)

    def forward(self, inputs_A_H: Tensor) -> Tensor:
        """Hidden states."""
        return torch.tanh(self.layer(inputs_A_H))


def step(student: Small, teacher: Small, inputs_A_H: Tensor, way: str) -> None:
    """One update of the student."""
    hidden_A_H = student(inputs_A_H)
    with torch.no_grad():
        taught_A_H = teacher(inputs_A_H)
    if way == "agentopd":
        loss = linear_divergence(hidden_A_H, student.head.weight, taught_A_H, teacher.head.weight).loss
    else:
        with torch.no_grad():
            logits_A_V = teacher.head(taught_A_H)
        loss = divergence("forward_kl", student.head(hidden_A_H), logits_A_V).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in student.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=1e-3)
            parameter.grad = None


def measured(vocabulary: int, length: int, way: str) -> None:
    """Tells of one case, inside of its process."""
    torch.manual_seed(0)
    step(Small(16), Small(16), torch.randn(4, SIZE), way)
    student, teacher, inputs_A_H = Small(vocabulary), Small(vocabulary), torch.randn(length, SIZE)
    before = peak_bytes()
    step(student, teacher, inputs_A_H, way)
    tell({"bytes": peak_bytes() - before - 4 * vocabulary * SIZE})


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.case:
        vocabulary, length, way = arguments.case
        measured(int(vocabulary), int(length), way)
        return
    results = kept(RESULTS)
    cases = [
        (str(vocabulary), str(length), way)
        for length in LENGTHS
        for vocabulary in VOCABULARIES
        for way in ("agentopd", "full")
        if way == "agentopd" or vocabulary * length <= FULL
    ]
    for case in [] if arguments.table else cases:
        if "/".join(case) not in results:
            (found,) = lines_of("benchmarks.memory", case, arguments.threads)
            results["/".join(case)] = made_by() | {"threads": arguments.threads} | found
            keep(RESULTS, results)
    print(table(results))


def table(results: Mapping[str, Any]) -> str:
    """MiB by vocabulary and length, as Markdown; in brackets what full logits take."""
    lines = ["| vocabulary | " + " | ".join(f"{length} positions" for length in LENGTHS) + " |"]
    lines.append("|---" * (1 + len(LENGTHS)) + "|")
    for vocabulary in VOCABULARIES:
        cells = [_cell(results, vocabulary, length) for length in LENGTHS]
        lines.append(f"| {vocabulary} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(results: Mapping[str, Any], vocabulary: int, length: int) -> str:
    fused, full = (results.get(f"{vocabulary}/{length}/{way}") for way in ("agentopd", "full"))
    told = f"{fused['bytes'] / 2**20:.0f}" if fused else ""
    return f"{told} ({full['bytes'] / 2**20:.0f})" if full else told


if __name__ == "__main__":
    main()
