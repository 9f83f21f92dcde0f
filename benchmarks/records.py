"""What records cost: written, read and kept, beside plain JSONL and beside ``datasets``, with the same content.

    python -m benchmarks.records             # resumable: what was measured is kept
    python -m benchmarks.records --table     # the table from the stored results
    python -m benchmarks.records --stream    # 100,000 episodes written and read, and the memory that it takes; minutes

The content are episodes of agentopd/Checkout-v0 as the environment's expert plays them, each with a sparse annotation (k = 64) from a
small model with random weights. Sides take turns, and which is first alternates. A side writes the episodes to a new folder and reads all of them
back:

- ``records``: a ``RecordWriter`` step by step, and ``for record in records``: every field of a ``Record``, arrays as numpy arrays. On the disk
  (synced), compressed, with checksums.
- ``records-compact``: the same with compact blocks.
- ``jsonl``: ``json.dumps`` of the same rows, arrays as lists, a line each; ``json.loads``. Not synced.
- ``datasets``: ``Dataset.from_list`` of the same rows and ``save_to_disk``; ``load_from_disk`` and a loop over its rows as numpy arrays. Not synced,
  not compressed.
- ``datasets-parquet``: the same with ``to_parquet`` and ``Dataset.from_parquet``. Not synced.

Results: ``benchmarks/results/records.json``.
"""

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

import agentopd
from agentopd import records as store
from agentopd.chat import Chat
from agentopd.models import NewModel, new_model
from agentopd.records import RecordWriter, thin
from agentopd.rollout import EnvConfig, Rollout, TaskStream, assign, collect
from agentopd.teachers import TeacherContext
from agentopd.teachers.local import local
from agentopd.training.run.stages import tokenizer_of
from agentopd.types import EXPERT, Key, Record
from benchmarks.measured import add, kept, made_by, spread

RESULTS = Path(__file__).parent / "results" / "records.json"
EPISODES, STEP, K, REPEATS, STREAMED = 2048, 64, 64, 5, 100_000
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--stream", action="store_true", help="write and read 100,000 episodes")
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args(argv)
    found = kept(arguments.results)
    missing = [i for i in range(REPEATS) if not arguments.table and f"turn/{i}" not in found]
    if missing:
        measure(arguments.episodes, missing, arguments.results)
    if arguments.stream and not arguments.table:
        add(arguments.results, "stream", made_by() | streamed(played(64), STREAMED))
    print(table(kept(arguments.results)))


def measure(episodes: int, missing: Iterable[int], results: Path) -> None:
    """Every side, once for each of ``missing``."""
    datasets.disable_progress_bars()
    exact = played(episodes)
    compact = [thin(record, "compact") for record in exact]
    rows = [plain(record) for record in exact]
    sides: Mapping[str, Callable[[Path], dict[str, float]]] = {
        "records": lambda folder: through_records(exact, folder),
        "records-compact": lambda folder: through_records(compact, folder),
        "jsonl": lambda folder: through_jsonl(rows, folder),
        "datasets": lambda folder: through_datasets(rows, folder),
        "datasets-parquet": lambda folder: through_parquet(rows, folder),
    }
    tokens = sum(len(segment) for record in exact for segment in record.trajectory.segments)
    annotated = sum(len(one.index_N) for record in exact for one in record.annotations)
    for i in missing:
        told: dict[str, Any] = {
            "episodes": episodes,
            "tokens": tokens,
            "annotated": annotated,
            "load": os.getloadavg()[0],
        }
        for name in sorted(sides, reverse=i % 2 == 1):
            with tempfile.TemporaryDirectory() as folder:
                told[name] = sides[name](Path(folder))
        add(results, f"turn/{i}", made_by() | told)


def played(episodes: int) -> list[Record]:
    """Episodes with an annotation each, in steps of ``STEP``."""
    config = agentopd.load_config("quickstart")
    tokenizer = tokenizer_of(config, print)
    chat = config.chat(tokenizer)
    stream = TaskStream([EnvConfig(id="agentopd/Checkout-v0")], 3, "train")
    assignments = assign(stream, range(episodes), "fresh", {EXPERT: 1.0}, 1, "run", 0, 3)
    trajectories = collect(assignments, {}, chat, Rollout(max_length=1024, max_new_tokens=64))
    teacher = local(context_of(chat, tokenizer), new=NewModel(hidden_size=64, layers=2, heads=2, intermediate_size=128))
    made = []
    for first in range(0, episodes, STEP):
        some = trajectories[first : first + STEP]
        said = teacher.annotate(some)
        for i, (one, annotation) in enumerate(zip(some, said, strict=True)):
            trajectory = replace(one, key=Key("run", first // STEP, i))
            made.append(thin(Record(trajectory, (annotation,)), "sparse", K, heads=teacher.heads))
    return made


def context_of(chat: Chat, tokenizer: PreTrainedTokenizerBase) -> TeacherContext:
    """What a local teacher with random weights needs."""
    return TeacherContext("teacher", chat, lambda config: new_model(config.new or NewModel(), tokenizer, 0), 1.0)


def plain(value: Any) -> Any:
    """A record as a row; mappings of any content as text, since a table has the same fields in every row."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return json.dumps(value, default=list)
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return value


def through_records(records: Sequence[Record], folder: Path) -> dict[str, float]:
    """Ours."""
    writer = RecordWriter(folder)

    def write() -> None:
        for first in range(0, len(records), STEP):
            writer.write(first // STEP, records[first : first + STEP])

    written = seconds_of(write)
    found = {"write": written, "read": seconds_of(lambda: sum(1 for _ in store.open(folder))), "bytes": size_of(folder)}
    opened = store.open(folder)
    chosen = np.random.default_rng(0).integers(0, len(records), 50)
    keys = [records[i].trajectory.key for i in chosen]
    found["key"] = seconds_of(lambda: [opened[key] for key in keys]) / len(keys)
    return found


def through_jsonl(rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """A line a record."""
    path = folder / "records.jsonl"

    def write() -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, default=_listed) + "\n")

    def read() -> None:
        with path.open(encoding="utf-8") as file:
            for line in file:
                json.loads(line)

    return {"write": seconds_of(write), "read": seconds_of(read), "bytes": size_of(folder)}


def _listed(value: Any) -> Any:
    return value.tolist()


def through_datasets(rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """A data set in Arrow files."""
    written = seconds_of(lambda: datasets.Dataset.from_list(list(rows)).save_to_disk(folder / "set"))
    read = seconds_of(lambda: sum(1 for _ in datasets.load_from_disk(folder / "set")))
    return {"write": written, "read": read, "bytes": size_of(folder)}


def through_parquet(rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """A data set in a Parquet file."""
    path = folder / "records.parquet"
    written = seconds_of(lambda: datasets.Dataset.from_list(list(rows)).to_parquet(path))
    cache = folder / "cache"
    read = seconds_of(lambda: sum(1 for _ in datasets.Dataset.from_parquet(str(path), cache_dir=str(cache))))
    return {"write": written, "read": read, "bytes": float(path.stat().st_size)}


def streamed(records: Sequence[Record], episodes: int) -> dict[str, Any]:
    """Writes so many episodes, each under a key of its own, and reads all and some; the memory is the most that the process had, in MB."""
    folder = Path(tempfile.mkdtemp())
    try:
        writer = RecordWriter(folder)
        timed = time.perf_counter()
        for first in range(0, episodes, 1000):
            some = [records[i % len(records)] for i in range(first, first + 1000)]
            step = first // 1000
            writer.write(step, [_under(Key("run", step, i), one) for i, one in enumerate(some)])
        written, memory = time.perf_counter() - timed, {"written": peak()}
        opened = store.open(folder)
        timed = time.perf_counter()
        for i, _ in enumerate(opened):
            if i == episodes // 10:
                memory["read a tenth"] = peak()
        read = time.perf_counter() - timed
        memory["read all"] = peak()
        keys = [Key("run", int(i) // 1000, int(i) % 1000) for i in np.random.default_rng(0).integers(0, episodes, 100)]
        key = seconds_of(lambda: [opened[one] for one in keys]) / len(keys)
        return {
            "episodes": episodes,
            "write": written,
            "read": read,
            "key": key,
            "bytes": size_of(folder),
            "memory": memory,
        }
    finally:
        shutil.rmtree(folder)


def _under(key: Key, record: Record) -> Record:
    return replace(record, trajectory=replace(record.trajectory, key=key))


def peak() -> float:
    """The most memory that the process had so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def seconds_of(work: Callable[[], Any]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return round(time.perf_counter() - begin, 4)


def size_of(folder: Path) -> float:
    """The bytes of the files in it."""
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def table(results: Mapping[str, Any]) -> str:
    """Rates, bytes and ratios of each side as Markdown."""
    turns = [result for name, result in results.items() if name.startswith("turn/")]
    if not turns:
        return "nothing is measured yet"
    one = turns[0]
    lines = [
        f"{len(turns)} turns of {one['episodes']} episodes, {one['tokens']} tokens, {one['annotated']} of them annotated with k = {K}; median "
        "of trajectories per second, and least and most",
        "",
        "| side | written | least | most | read | least | most | MB/s written | MB/s read | bytes per token |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for side in (name for name in one if isinstance(one[name], dict) and "write" in one[name]):
        found = [turn[side] for turn in turns]
        rates = {what: [one["episodes"] / each[what] for each in found] for what in ("write", "read")}
        size = found[0]["bytes"]
        mb = [np.median([size / 1e6 / each[what] for each in found]) for what in ("write", "read")]
        cells = [spread(rates["write"]), spread(rates["read"]), *(f"{each:.1f}" for each in mb)]
        lines.append(f"| {side} | {' | '.join(cells)} | {size / one['tokens']:.0f} |")
    keys = [turn["records"]["key"] * 1e3 for turn in turns]
    lines += ["", f"One record by its key: {np.median(keys):.1f} ms."]
    if stream := results.get("stream"):
        memory = ", ".join(f"{what} {value:.0f}" for what, value in stream["memory"].items())
        lines += [
            "",
            f"{stream['episodes']} episodes: written in {stream['write']:.0f} s, read in {stream['read']:.0f} s, one by its key in "
            f"{stream['key'] * 1e3:.1f} ms; most memory of the process, MB: {memory}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
