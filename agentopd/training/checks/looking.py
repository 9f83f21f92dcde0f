"""What lies in records, looked at once before a run draws from them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from agentopd import records as store
from agentopd.filters import Filter
from agentopd.sharing.repeats import Repeats
from agentopd.types import SAMPLING, TOKENIZER, Annotation, Key, Record, Sampled, Sparse

UNTOLD = ""
"""Stands for what records do not say."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One episode to draw."""

    key: Key
    """Of its record."""
    played: Key
    """Under which it was played: another where the record is of a later step that learned from it."""
    task: str
    """The id of its task; episodes that share it form a group."""
    env: str
    """The id of its environment."""


@dataclass(slots=True)
class Found:
    """What a filter leaves of the records in a folder: each episode once, those without a turn left out."""

    folder: Path
    total: int = 0
    """Records in all."""
    entries: list[Entry] = field(default_factory=list)
    longest: int = 0
    """Tokens of the longest segment."""
    actors: set[str] = field(default_factory=set)
    tokenizers: set[str] = field(default_factory=set)
    samplings: set[str] = field(default_factory=set)
    said: Mapping[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """By teacher: by the key under which an episode was played, what it said of its distributions: ``sampled``, ``sparse K`` or ``span``."""

    def take(self, record: Record) -> None:
        """Adds a record that is meant."""
        one = record.trajectory
        entry = Entry(one.key, one.origin or one.key, one.task.id, one.task.env_id)
        self.entries.append(entry)
        self.longest = max(self.longest, *map(len, one.segments))
        self.actors |= {
            one.actors[actor] for segment in one.segments for actor in set(segment.actor_T.tolist()) if actor >= 0
        }
        self.tokenizers.add(one.versions.get(TOKENIZER, UNTOLD))
        self.samplings.add(one.versions.get(SAMPLING, UNTOLD))
        for annotation in record.annotations:
            self.said[annotation.teacher][str(entry.played)] = _told(annotation)


def _told(annotation: Annotation) -> str:
    block = annotation.block
    if isinstance(block, Sparse):
        return f"sparse {block.ids_N_K.shape[1]}"
    return "sampled" if isinstance(block, Sampled) else "span"


def look(path: str, keep: Filter | None = None) -> Found:
    """Reads the records at ``path``, one after the other; a second look at the same ones costs nothing.

    Raises:
        RecordError: There are none, or one is damaged, or it lacks what ``keep`` reads.
    """
    folder = store.open(path).folder
    files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in folder.glob("*.parquet"))
    return _look(folder, (keep or Filter()).model_dump_json(), tuple(files))


@lru_cache(maxsize=8)
def _look(folder: Path, keep: str, files: tuple[tuple[str, int, int], ...]) -> Found:
    wanted, found, seen = Filter.model_validate_json(keep), Found(folder), Repeats()
    for record in store.open(folder):
        found.total += 1
        if record.trajectory.turns and wanted.keeps(record) and not seen.is_again(record.trajectory):
            found.take(record)
    return found
