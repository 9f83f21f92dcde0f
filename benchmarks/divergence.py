"""The fused divergence beside TRL's, Liger's and plain torch: time and memory, from hidden states to gradients.

    pip install trl==1.16.0                           # and liger-kernel, where it should run beside
    python -m benchmarks.divergence                   # resumable: what was measured is kept
    python -m benchmarks.divergence --table           # the tables from the stored results

A case is a shape (H, V, N: hidden size, vocabulary, rows; student and teacher alike), a divergence, and whether the head is trained.
Each has a fresh process, in which all run in turns, forward and backward, in float32; the order rotates. After each round the matrix
products that the fused operator needs run alone, chunk by chunk as it does: N x H x V for the logits of either model, for the gradient
of the hidden states and, where it is trained, of the head. A ratio is of one round's times. Memory is the growth of the peak of a fresh
process over its inputs, the head's own gradient aside. TRL's is ``trl.kernels.chunked_divergence``; Liger's its ``chunked_loss`` in
torch, uncompiled, which forms the head's gradient always. Plain torch runs where its tensors [N, V] are small enough.
Results: ``benchmarks/results/divergence.json``.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from agentopd.objective import linear_divergence
from agentopd.objective.chunked import chunks, rows_of_chunk
from benchmarks.fresh import lines_of, peak_bytes, tell
from benchmarks.measured import keep, kept, made_by

RESULTS = Path(__file__).parent / "results" / "divergence.json"
SHAPES = ((576, 49152, 2048), (896, 151936, 2048))
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
HEADS = ("frozen", "trained")
SEVERAL = 1
"""Rounds in which others than TRL run too."""
NAIVE = 2**27
"""The most logits of one model for plain torch."""
Way: TypeAlias = Callable[["Inputs", str], Tensor]


@dataclass(frozen=True)
class Inputs:
    """What everyone is given."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor

    @classmethod
    def of(cls, shape: Sequence[int], head: str) -> "Inputs":
        """Random, made in place so that their peak is their size."""
        size, vocabulary, rows = shape
        generator = torch.Generator().manual_seed(0)
        made = [torch.randn(n, size, generator=generator) for n in (rows, vocabulary, rows, vocabulary)]
        for weight in made[1::2]:
            weight.mul_(0.05)
        return cls(made[0].requires_grad_(), made[1].requires_grad_(head == "trained"), *made[2:])


def ours(given: Inputs, kind: str) -> Tensor:
    """The mean divergence."""
    return linear_divergence(given.hidden, given.weight, given.teacher_hidden, given.teacher_weight, kind=kind).loss


def trl(given: Inputs, kind: str) -> Tensor:
    """That of TRL's chunked function."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    arguments = given.hidden, given.weight, None, given.teacher_hidden, given.teacher_weight, None, BETAS[kind]
    mean: Tensor = ChunkedDivergenceFunction.apply(*arguments)[0].mean()  # type: ignore[no-untyped-call]
    return mean


def liger(given: Inputs, kind: str) -> Tensor:
    """That of Liger's loss in torch."""
    liger_losses = importlib.import_module("liger_kernel.chunked_loss")

    loss = liger_losses.LigerFusedLinearJSDLoss(0.0, 1.0, beta=BETAS[kind], compiled=False)
    labels = torch.zeros(len(given.hidden), dtype=torch.int64)
    mean: Tensor = loss(given.hidden, given.weight, given.teacher_hidden, given.teacher_weight, labels)
    return mean


def naive(given: Inputs, kind: str) -> Tensor:
    """That of full logits."""
    logp = functional.log_softmax(given.hidden @ given.weight.T, -1)
    logq = functional.log_softmax(given.teacher_hidden @ given.teacher_weight.T, -1)

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return functional.kl_div(other, one, reduction="none", log_target=True).sum(-1).mean()

    if kind == "jsd":
        logm = torch.logaddexp(logp, logq) - torch.tensor(2.0).log()
        return 0.5 * (kl(logp, logm) + kl(logq, logm))
    return kl(logq, logp) if kind == "forward_kl" else kl(logp, logq)


WAYS: Mapping[str, Way] = {"agentopd": ours, "trl": trl, "liger": liger, "torch": naive}


def ways_of(shape: Sequence[int], number: int) -> list[str]:
    """Who runs in a round, in its order."""
    names = ["agentopd", "trl"]
    if number < SEVERAL:
        names += ["liger"] * (importlib.util.find_spec("liger_kernel") is not None)
        names += ["torch"] * (shape[1] * shape[2] <= NAIVE)
    return names[number % len(names) :] + names[: number % len(names)]


def timed(shape: Sequence[int], head: str, kind: str, rounds: range) -> None:
    """Tells of each round: seconds of everyone and of the products alone, and how far the gradients are apart."""
    given = Inputs.of(shape, head)
    small = Inputs.of((shape[0], 64, 4), head)
    for name in ways_of(shape, 0):
        WAYS[name](small, kind).backward()  # type: ignore[no-untyped-call]
    for number in rounds:
        seconds: dict[str, float] = {}
        gradients: dict[str, Tensor | None] = {}
        for name in ways_of(shape, number):
            given.hidden.grad = given.weight.grad = None
            begin = time.perf_counter()
            WAYS[name](given, kind).backward()  # type: ignore[no-untyped-call]
            seconds[name] = time.perf_counter() - begin
            gradients[name] = given.hidden.grad
        given.hidden.grad = given.weight.grad = None
        apart = {name: _apart(gradients[name], gradients["agentopd"]) for name in gradients if name != "agentopd"}
        tell({"seconds": seconds, "products": products(given, head), "gradients_apart": apart})


def _apart(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference, of the largest entry."""
    assert one is not None
    assert other is not None
    return float((one - other).abs().max() / other.abs().max())


@torch.no_grad()
def products(given: Inputs, head: str) -> dict[str, float]:
    """Seconds of the products alone, of all rows: of logits once, though there are two models."""
    hidden, weight = given.hidden.detach(), given.weight.detach()
    size = rows_of_chunk(len(weight))
    logits = torch.empty(min(size, len(hidden)), len(weight))
    of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight) if head == "trained" else None
    seconds = dict.fromkeys(("logits", "hidden", *(["head"] if of_weight is not None else [])), 0.0)
    for rows in chunks(len(hidden), size):
        out = logits[: rows.stop - rows.start]
        times = [time.perf_counter()]
        torch.mm(hidden[rows], weight.T, out=out)
        times.append(time.perf_counter())
        torch.mm(out, weight, out=of_hidden[rows])
        times.append(time.perf_counter())
        if of_weight is not None:
            of_weight.addmm_(out.T, hidden[rows])
            times.append(time.perf_counter())
        for name, begin, end in zip(seconds, times, times[1:], strict=False):
            seconds[name] += end - begin
    return seconds


def remembered(shape: Sequence[int], head: str, kind: str, name: str) -> None:
    """Tells how far the peak of memory grows."""
    small = Inputs.of((shape[0], 64, 4), head)
    WAYS[name](small, kind).backward()  # type: ignore[no-untyped-call]
    given = Inputs.of(shape, head)
    before = peak_bytes()
    WAYS[name](given, kind).backward()  # type: ignore[no-untyped-call]
    own = given.weight.numel() * given.weight.element_size() if head == "trained" else 0
    tell({"bytes": peak_bytes() - before - own})


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--of", choices=("time", "memory"), nargs="+", default=("time", "memory"))
    parser.add_argument("--table", action="store_true", help="only print the tables")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.case:
        _run(*arguments.case)
        return
    results = kept(RESULTS)
    names = [f"{'x'.join(map(str, shape))}/{head}/{kind}" for shape in SHAPES for head in HEADS for kind in BETAS]
    for name in [] if arguments.table else [name for name in names if arguments.only in name]:
        measure(results, name, arguments.rounds if "time" in arguments.of else 0, arguments.threads)
        if "memory" in arguments.of:
            remember(results, name, arguments.threads)
    print(tables(results))


def measure(results: dict[str, Any], name: str, rounds: int, threads: int) -> None:
    """The rounds that are missing of a case, kept as they come."""
    new: dict[str, Any] = {"threads": threads, "trl": version("trl"), "rounds": [], "bytes": {}}
    case = results.setdefault(name, made_by() | new)
    done = len(case["rounds"])
    if done < rounds:
        for found in lines_of("benchmarks.divergence", [name, str(done), str(rounds)], threads):
            case["rounds"].append(found)
            keep(RESULTS, results)


def remember(results: dict[str, Any], name: str, threads: int) -> None:
    """What is missing of a case's memory."""
    held = results[name]["bytes"]
    for way in ways_of(_shape(name), 0):
        if way not in held:
            (found,) = lines_of("benchmarks.divergence", [name, way], threads)
            held[way] = found["bytes"]
            keep(RESULTS, results)


def _shape(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split("/")[0].split("x")))


def _run(name: str, *how: str) -> None:
    """A case inside of its process: rounds from one number to another, or the memory of one way."""
    _, head, kind = name.split("/")
    if len(how) == 1:
        remembered(_shape(name), head, kind, how[0])
    else:
        timed(_shape(name), head, kind, range(int(how[0]), int(how[1])))


def tables(results: Mapping[str, Any]) -> str:
    """By case: the ratio to TRL's time, the share of the products' rate, and memory, as Markdown."""
    lines = [
        "| H x V x N | head | divergence | s | of TRL's time: median | least | most | of Liger's | of torch's "
        "| of the products' rate | GFLOP/s |",
        "|---" * 11 + "|",
    ]
    memory = ["| H x V x N | head | divergence | MiB | TRL | Liger | torch | of TRL's |", "|---" * 8 + "|"]
    for name, case in results.items():
        cells = name.replace("/", " | ")
        if case["rounds"]:
            lines.append(f"| {cells} | {_times(name, case['rounds'])} |")
        if "agentopd" in case["bytes"]:
            held = {way: case["bytes"].get(way) for way in WAYS}
            mib = " | ".join("" if one is None else f"{one / 2**20:.0f}" for one in held.values())
            share = f"{held['agentopd'] / held['trl']:.2f}" if held["trl"] else ""
            memory.append(f"| {cells} | {mib} | {share} |")
    return "\n".join([*lines, "", *memory])


def _times(name: str, rounds: Sequence[Mapping[str, Any]]) -> str:
    size, vocabulary, count = _shape(name)
    own = statistics.median(one["seconds"]["agentopd"] for one in rounds)
    cells = [f"{own:.2f}", *(f"{one:.2f}" for one in _spread(_ratios(rounds, "trl")))]
    for way in ("liger", "torch"):
        ratios = _ratios(rounds, way)
        cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
    alone = [sum(one["products"].values()) + one["products"]["logits"] for one in rounds]
    share = statistics.median(s / one["seconds"]["agentopd"] for s, one in zip(alone, rounds, strict=True))
    needed = len(rounds[0]["products"]) + 1
    return " | ".join([*cells, f"{share:.2f}", f"{needed * 2e-9 * size * vocabulary * count / own:.0f}"])


def _ratios(rounds: Sequence[Mapping[str, Any]], way: str) -> list[float]:
    return [one["seconds"]["agentopd"] / one["seconds"][way] for one in rounds if way in one["seconds"]]


def _spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most: of six rounds the true median lies between these with a probability of 97%."""
    return statistics.median(ratios), min(ratios), max(ratios)


if __name__ == "__main__":
    main()
