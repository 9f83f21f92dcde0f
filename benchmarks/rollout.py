"""What a rollout spends outside the engine and the environments, and what it gains by not waiting for slow environments.

    python -m benchmarks.rollout                         # resumable: what was measured is kept
    python -m benchmarks.rollout --vllm /opt/vllm/bin/python       # the vLLM engine too
    python -m benchmarks.rollout --limit 1               # at most one more case
    python -m benchmarks.rollout --table                 # the tables from the stored results

64 episodes at once, of eight turns each, in an environment whose step sleeps 0, 50 or 500 ms. The model is a Llama with random weights,
whose turns end by chance after 24 tokens on average, 64 at most: so episodes drift apart, as those of a real model do.

``turns`` is ``collect``: all that live act, then all their environments step. ``stream`` is what ``rollout.mode: async`` plays in. Both play
the same tasks, with the same seeds. ``engine`` are the seconds with turns under way, ``path`` the environments' critical path: the largest
sum, over one episode, of the seconds of its steps. Where no environment sleeps, all that is not engine is outside.

Results: ``benchmarks/results/rollout.json``. A case ``ENGINE/MS/N`` holds one run of each mode, which of them is first alternates.
"""

import argparse
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import gymnasium
import torch
from transformers import PreTrainedModel

from agentopd.chat import Chat
from agentopd.env import TextEnv
from agentopd.models import NewModel, build_tokenizer, new_model
from agentopd.rollout import Assignment, Rollout, collect
from agentopd.rollout.policy import Policy
from agentopd.rollout.stream import Lot, Stream
from agentopd.types import STUDENT, Key, Task, Trajectory
from benchmarks.measured import keep, kept, made_by, spread

RESULTS = Path(__file__).parent / "results" / "rollout.json"
ENV = "agentopd-benchmarks/Sleeps-v0"
ROWS, TURNS, LENGTH, MOST, MEAN = 64, 8, 2048, 64, 24
SLEEPS, REPEATS, MODES = (0, 50, 500), 5, ("turns", "stream")
MODEL = NewModel(hidden_size=256, layers=6, heads=4, intermediate_size=768, max_positions=LENGTH, vocab_size=512)


class Sleeps(TextEnv):
    """Answers in the same words, after a while."""

    def __init__(self, ms: int) -> None:
        super().__init__()
        self.ms = ms

    def start(self) -> str:
        """The task."""
        return "Say something. " * 20

    def respond(self, text: str) -> str:
        """Sleeps first."""
        sleep(self.ms / 1000)
        return "Go on, please. " * 5


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=1000, help="measure at most so many cases")
    parser.add_argument("--vllm", metavar="PYTHON", help="an interpreter that vLLM is installed for")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    results = kept(RESULTS)
    engines: dict[str, Any] = {"transformers": "transformers"}
    if arguments.vllm:
        engines["vllm"] = {"kind": "vllm", "python": arguments.vllm}
    names = [f"{engine}/{ms}/{i}" for i in range(REPEATS) for engine in engines for ms in SLEEPS]
    for name in [] if arguments.table else [name for name in names if name not in results][: arguments.limit]:
        engine, ms, which = name.split("/")
        results[name] = made_by() | measured(engines[engine], int(ms), int(which))
        keep(RESULTS, results)
    print(table(results))


def measured(engine: Any, ms: int, which: int) -> dict[str, Any]:
    """One run of each mode, after a warm-up of few turns."""
    settings = Rollout(engine=engine, max_new_tokens=MOST, max_length=LENGTH, max_turns=TURNS, concurrency=ROWS)
    chat, model = prepared()
    policy = settings.policy(model, chat.ends_of_turn)
    play("turns", policy, chat, settings.model_copy(update={"max_turns": 1}), 0)
    order = sorted(MODES, reverse=which % 2 == 1)
    return {mode: play(mode, policy, chat, settings, ms) for mode in order}


@cache
def prepared() -> tuple[Chat, PreTrainedModel]:
    """The chat, and a model that ends a turn with probability 1 / MEAN at each token, by its weights alone.

    All embeddings are ones, but the end's a little more, and no layer adds anything to them, though each computes in full: what the head
    sees is all ones, at every token.
    """
    tokenizer = build_tokenizer(["Say something. Go on, please."] * 40, MODEL.vocab_size)
    chat, model = Chat(tokenizer), new_model(MODEL, tokenizer, seed=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_tokens" in name or "lm_head" in name:
                weight.fill_(1.0)
                weight[chat.end_of_turn] += math.log((len(weight) - 1) / (MEAN - 1)) / weight.shape[1]
            elif "o_proj" in name or "down_proj" in name:
                weight.zero_()
    return chat, model


def play(mode: str, policy: Policy, chat: Chat, settings: Rollout, ms: int) -> dict[str, float]:
    """One rollout: its seconds, those of the engine, and the environments' critical path."""
    if ENV not in gymnasium.registry:
        gymnasium.register(ENV, entry_point=lambda **kwargs: Sleeps(**kwargs))
    asked = [
        Assignment(Task(ENV, seed=i, kwargs={"ms": ms}), Key("benchmark", 0, i), STUDENT, seed=i, source="fresh")
        for i in range(ROWS)
    ]
    begin = perf_counter()
    if mode == "turns":
        played = collect(asked, {STUDENT: policy}, chat, settings)
    else:
        stream = Stream({STUDENT: policy}, chat, settings)
        played = stream.submit(Lot(asked, settings)).over.result()
        stream.close()
    return told(played, perf_counter() - begin)


def told(played: Sequence[Trajectory], seconds: float) -> dict[str, float]:
    """What a rollout of so many seconds was."""
    turns = [turn for one in played for turn in one.turns]
    return {
        "seconds": round(seconds, 3),
        "engine": round(sum(turn.seconds_policy for turn in turns), 3),
        "path": round(max(sum(turn.seconds_env for turn in one.turns) for one in played), 3),
        "turns": len(turns),
        "generated": sum(turn.stop - turn.start for turn in turns),
    }


def table(results: dict[str, Any]) -> str:
    """By engine and sleep: what the two modes took, and what they were bound by, as Markdown."""
    lines = []
    for engine in dict.fromkeys(name.split("/")[0] for name in results):
        lines += [
            f"| {engine} | mode | seconds | least | most | over the larger of engine and path | least | most | outside |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for ms in SLEEPS:
            runs = [result for name, result in results.items() if name.startswith(f"{engine}/{ms}/")]
            for mode in MODES if runs else ():
                each = [run[mode] for run in runs]
                over = [one["seconds"] / max(one["engine"], one["path"]) for one in each]
                outside = [(one["seconds"] - one["engine"]) / one["seconds"] for one in each]
                shown = f"{100 * sorted(outside)[len(outside) // 2]:.1f}%" if not ms else ""
                taken = spread([one["seconds"] for one in each])
                lines.append(f"| {ms} ms | {mode} | {taken} | {spread(over)} | {shown} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
