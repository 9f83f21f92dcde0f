"""What annotating costs beside the forwards, or the requests, that it is made of.

    python -m benchmarks.annotate local          # a local teacher beside the raw model; resumable: what was measured is kept
    python -m benchmarks.annotate served         # a served one beside direct calls; AGENTOPD_VLLM names a Python that has vLLM
    python -m benchmarks.annotate --table        # the tables from the stored results

The teacher is SmolLM2-135M-Instruct (`make smollm2` installs it) in float32; the trajectories are episodes of agentopd/Checkout-v0 with
tool calls, as the environment's expert plays them. `local`: ``LocalTeacher.annotate`` beside the raw model's forward on the same tokens,
in the same batches: ``model(input_ids)``, logits included; and beside its body alone, ``model.model(input_ids)``, which gives no
probabilities. `served`: ``ServedTeacher.annotate`` with ``top_k`` 64 and 32 requests in flight, beside the same requests sent by 32 plain
threads whose answers are parsed as JSON and then dropped; with fewer episodes (``--episodes``) so many are in flight at most. Sides take turns; which is first alternates. A run's result holds the seconds of each side by the clock
and of this process on its processors, the tokens read, those annotated, and what was sent for them.

Results: ``benchmarks/results/annotate.json``.
"""

import argparse
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import httpx2
import torch
from transformers import PreTrainedModel

import agentopd
from agentopd.chat import Chat
from agentopd.models import ModelConfig, load_model, load_tokenizer
from agentopd.packing import batches, padded
from agentopd.records import RecordWriter
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.teachers import TeacherContext
from agentopd.teachers.local import local
from agentopd.teachers.served import served
from agentopd.types import EXPERT, Annotation, Record, Trajectory
from benchmarks.measured import add, kept, made_by, spread, stopwatch
from benchmarks.vllm_server import vllm_server

RESULTS = Path(__file__).parent / "results" / "annotate.json"
EPISODES, MAX_TOKENS, TOP_K, IN_FLIGHT, REPEATS = 64, 4096, 64, 32, 5
BASELINES = {"local": ("model", "body"), "served": ("direct",)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*BASELINES, []], help="what to measure; nothing by default")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="how many are annotated in a run")
    parser.add_argument("--table", action="store_true", help="only print the tables")
    arguments = parser.parse_args(argv)
    for kind in () if arguments.table else arguments.kinds:
        missing = [i for i in range(REPEATS) if f"{kind}/{i}" not in kept(RESULTS)]
        if missing:
            measure = measured_local if kind == "local" else measured_served
            measure(arguments.episodes, missing)
    print(table(kept(RESULTS)))


def measured_local(episodes: int, missing: Sequence[int]) -> None:
    """A local teacher, and the raw forwards."""
    model, chat = smollm2()
    trajectories = played(chat, episodes)
    context = TeacherContext("teacher", chat, lambda _: model, 1.0)
    teacher = local(context, model="smollm2", max_tokens=MAX_TOKENS)
    whole: Any = model  # whose call is untyped
    tokens = [segment.tokens_T for one in trajectories for segment in one.segments]

    @torch.no_grad()
    def forwards(forward: Callable[..., Any]) -> None:
        for batch in batches([len(each) for each in tokens], MAX_TOKENS):
            forward(input_ids=padded([tokens[i] for i in batch]), use_cache=False)

    sides = {
        "annotate": lambda: teacher.annotate(trajectories),
        "model": lambda: forwards(whole),
        "body": lambda: forwards(whole.model),
    }
    for i in missing:
        add(RESULTS, f"local/{i}", in_turns(sides, i) | counted(trajectories, teacher.annotate(trajectories)))


def measured_served(episodes: int, missing: Sequence[int]) -> None:
    """A served teacher, and the same requests sent by hand."""
    model, chat = smollm2()
    trajectories = played(chat, episodes)
    with tempfile.TemporaryDirectory() as name, socket.socket() as one:
        folder = Path(name)
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        one.close()
        model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
        arguments = ["--max-logprobs", str(TOP_K)]
        with vllm_server(os.environ["AGENTOPD_VLLM"], folder, port, folder / "vllm.log", arguments) as url:
            teacher = served(TeacherContext("teacher", chat, refused, 1.0), url=url, top_k=TOP_K, in_flight=IN_FLIGHT)
            sent: list[int] = []
            said: list[Annotation] = []

            def annotate() -> None:
                said[:] = teacher.annotate(trajectories)

            sides: dict[str, Callable[[], Any]] = {
                "annotate": annotate,
                "direct": lambda: direct(url, trajectories, sent),
            }
            for side in sides.values():
                side()  # the server's first requests are slower
            for i in missing:
                sent.clear()
                found = in_turns(sides, i) | counted(trajectories, said)
                found |= {"bytes_sent": sum(sent), "bytes_kept": stored(trajectories, said)}
                add(RESULTS, f"served/{i}", found)


def direct(url: str, trajectories: Sequence[Trajectory], sent: list[int]) -> None:
    """The requests of a served teacher; the bytes of each answer."""
    client = httpx2.Client(base_url=url, timeout=600.0, trust_env=False, limits=httpx2.Limits(max_connections=None))

    def ask(tokens: list[int]) -> None:
        body = {"model": "teacher", "prompt": tokens, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": TOP_K}
        answer = client.post("/v1/completions", json=body)
        answer.raise_for_status()
        answer.json()
        sent.append(len(answer.content))

    with ThreadPool(IN_FLIGHT) as pool:
        pool.map(ask, [read(one, s) for one in trajectories for s in range(len(one.segments))], chunksize=1)


def read(trajectory: Trajectory, segment: int) -> list[int]:
    """The tokens of a segment up to its last action."""
    one = trajectory.segments[segment]
    acted = [t for t, turn in enumerate(one.turn_T) if turn >= 0]
    tokens: list[int] = one.tokens_T[: acted[-1] + 1].tolist()
    return tokens


def in_turns(sides: dict[str, Callable[[], Any]], number: int) -> dict[str, Any]:
    """One run of each side."""
    found = {}
    for name in sorted(sides, reverse=number % 2 == 1):
        timed = stopwatch()
        sides[name]()
        found[name] = timed()
    return made_by() | found


def counted(trajectories: Sequence[Trajectory], said: Sequence[Annotation]) -> dict[str, int]:
    """Episodes, the tokens that were read of them, and those that were annotated."""
    tokens = sum(len(read(one, s)) for one in trajectories for s in range(len(one.segments)))
    return {
        "episodes": len(trajectories),
        "tokens": tokens,
        "annotated": sum(len(one.taken_logprob_N) for one in said),
    }


def stored(trajectories: Sequence[Trajectory], said: Sequence[Annotation]) -> int:
    """The bytes by which records with annotations are larger than those without."""
    sizes = []
    for records in (
        [Record(one) for one in trajectories],
        [Record(*pair) for pair in zip(trajectories, [(a,) for a in said], strict=True)],
    ):
        with tempfile.TemporaryDirectory() as folder:
            RecordWriter(Path(folder) / "records").write(0, records)
            sizes.append(sum(path.stat().st_size for path in Path(folder).rglob("*.parquet")))
    return sizes[1] - sizes[0]


def smollm2() -> tuple[PreTrainedModel, Chat]:
    """The model and its chat."""
    name = str(agentopd.load_config("configs/smollm2.yaml").student.model)
    return load_model(ModelConfig(model=name)), Chat(load_tokenizer(name))


def refused(wanted: ModelConfig) -> PreTrainedModel:
    """A served teacher loads nothing."""
    raise AssertionError(wanted)


def played(chat: Chat, episodes: int) -> list[Trajectory]:
    """Episodes with tool calls."""
    stream = TaskStream([EnvConfig(id="agentopd/Checkout-v0", kwargs={"failure_rate": 0.2})], 3, "train")
    assignments = assign(stream, range(episodes), "fresh", {EXPERT: 1.0}, 1, "run", 0, 3)
    return collect(assignments, {}, chat, Rollout(max_length=1024, max_new_tokens=64))


def table(results: dict[str, Any]) -> str:
    """Tokens per second of each side and their ratios, run by run, as Markdown."""
    lines = []
    for kind, baselines in BASELINES.items():
        runs = [result for name, result in results.items() if name.startswith(f"{kind}/")]
        if not runs:
            continue
        lines += [
            "",
            f"| {kind}, {len(runs)} runs of {runs[0]['tokens']} tokens | median | least | most |",
            "|---|---|---|---|",
        ]
        for side in ("annotate", *baselines):
            lines.append(
                f"| {side}, tokens read per second | {spread([run['tokens'] / run[side]['seconds'] for run in runs])} |"
            )
        for side in baselines:
            ratios = [run[side]["seconds"] / run["annotate"]["seconds"] for run in runs]
            lines.append(f"| annotate against {side} | {spread(ratios)} |")
        for what in ("bytes_sent", "bytes_kept") if kind == "served" else ():
            lines.append(
                f"| {what.replace('_', ' ')} for a token annotated | {spread([run[what] / run['annotated'] for run in runs])} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
