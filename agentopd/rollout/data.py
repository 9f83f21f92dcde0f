"""Tasks from data: each row of a file or a data set is what an environment is told on ``reset``, in one split alone."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from agentopd.errors import ConfigError
from agentopd.rollout.rows import Row, Rows, locate, rows_of_data_set, rows_of_file
from agentopd.settings.base import Settings
from agentopd.settings.problems import nearest, shown

Digests: TypeAlias = npt.NDArray[np.uint64]
Places: TypeAlias = npt.NDArray[np.int64]
Held: TypeAlias = Annotated[float, Field(ge=0.0, lt=1.0)] | Annotated[str, Field(min_length=1)]

TRAIN = "train"
HELD: Mapping[str, str] = {"evaluation": "test", "validation": "validation", "stages": "stages"}
"""The splits of tasks that are held out from training, and the setting that says which rows they have."""
MESSAGE_KEYS = 8
"""Columns that a message lists."""


class Data(Settings):
    """Rows that become tasks, from exactly one of ``file`` and ``dataset``."""

    file: str | None = None
    """A file of rows, by its end .jsonl, .csv, .tsv or .parquet; or ``package:file`` for one inside an installed package."""
    dataset: str | None = None
    """A data set of the package ``datasets``: its name on the hub, or a folder."""
    subset: str | None = None
    """The configuration of the data set, such as ``main``."""
    split: str = "train"
    """The split of the data set."""
    columns: dict[str, str] = {}
    """From an option of ``reset`` to the column that gives it; without any, each column is the option of its own name."""
    test: Held = 0.1
    """The share of the rows that the panel has to itself; or a file, or a split of the data set, that is it."""
    validation: Held = 0.05
    """The same for the panels during training."""
    stages: Held = 0.0
    """The same for what is played before training; 0 lets that have the rows of training."""
    duplicates: Literal["refuse", "drop"] = "refuse"
    """Of rows that tell an environment the same: an error, or one of them is kept, where it stands in several files the held-out one."""
    fingerprint: str | None = None
    """Of all rows, as a run found them. Rows that differ are an error, so that a run goes on only with those it began with."""

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        if (self.file is None) == (self.dataset is None):
            raise ValueError("give either file (such as tasks.jsonl) or dataset (a name on the hub, or a folder)")
        if self.file is not None and (self.subset is not None or self.split != "train"):
            raise ValueError(
                "subset and split are of a dataset, and a file is given; test, validation and stages may be files"
            )
        if sum(share for share in self.held.values() if isinstance(share, float)) >= 1:
            raise ValueError(
                f"test, validation and stages hold out {self.held}, and no row is left to train on; lower them"
            )
        return self

    @property
    def held(self) -> dict[str, float | str]:
        """By split of tasks, what it has to itself."""
        return {split: getattr(self, name) for split, name in HELD.items()}

    def read(self, held: str | None = None) -> Rows:
        """All rows; or those of a file or split that is held out."""
        if self.dataset is not None:
            return rows_of_data_set(self.dataset, self.subset, held or self.split)
        return rows_of_file(held or str(self.file))

    def options(self, row: Row, at: str) -> dict[str, Any]:
        """What a row, which stands ``at``, tells an environment.

        Raises:
            ConfigError: It lacks a column, or a value of one.
        """
        if not self.columns:
            return dict(row)
        for column in self.columns.values():
            if column not in row:
                there = ", ".join([*row][:MESSAGE_KEYS])
                raise ConfigError(f"{at}: there is no column {column!r}{nearest(column, row)}; there are: {there}")
            if row[column] is None:
                raise ConfigError(f"{at}: {column} has no value; give one, or take the row out")
        return {option: row[column] for option, column in self.columns.items()}


class Table:
    """The rows of :class:`Data`, all read once and found right, by split of tasks. In memory are eight bytes a row."""

    def __init__(self, data: Data) -> None:
        """Reads every row.

        Raises:
            ConfigError: There is none, or one is not as it should be; the message says where it stands.
        """
        self._data = data
        self.names: set[str] = set()
        """Of all options that rows give."""
        named = {split: held for split, held in data.held.items() if isinstance(held, str)}
        self._rows = {split: data.read(held) for split, held in named.items()} | {TRAIN: data.read()}
        digests = {split: self._digests(rows) for split, rows in self._rows.items()}
        for split in digests:
            if not len(digests[split]):
                raise ConfigError(f"{named.get(split, data.file or data.dataset)} has no rows")
        self._digest_of = digests
        self.fingerprint = hashlib.sha256(b"|".join(digest.tobytes() for digest in digests.values())).hexdigest()[:16]
        kept = self._once(digests)
        self._places = {split: (split, kept[split]) for split in named}
        for split, places in self._shared(kept[TRAIN]).items():
            self._places.setdefault(split, (TRAIN, places))

    def count(self, split: str) -> int:
        """How many rows a split has."""
        return len(self._places[split][1])

    def options(self, split: str, index: int) -> dict[str, Any]:
        """What the ``index``-th row of a split tells an environment.

        Raises:
            ConfigError: The row is no longer what it was.
        """
        source, places = self._places[split]
        place = int(places[index])
        rows = self._rows[source]
        options = self._data.options(rows[place], rows.at(place))
        if _digest(options, rows.at(place)) != int(self._digest_of[source][place]):
            raise ConfigError(
                f"{rows.at(place)} has changed since its rows were looked at; put it back, and resume the run"
            )
        return options

    def _digests(self, rows: Rows) -> Digests:
        """What tells rows apart, of each row that was found right."""
        types: dict[str, tuple[str, str]] = {}

        def checked() -> Iterator[int]:
            for index, row in enumerate(rows):
                at = rows.at(index)
                options = self._data.options(row, at)
                self.names |= options.keys()
                _require_alike(options, at, types)
                yield _digest(options, at)

        return np.fromiter(checked(), np.uint64, len(rows))

    def _once(self, digests: Mapping[str, Digests]) -> dict[str, Places]:
        """By source, the rows that are there for the first time, held-out sources before the one that is trained on."""
        whole = np.concatenate([*digests.values()])
        order = np.argsort(whole, kind="stable")
        again = np.flatnonzero(whole[order][1:] == whole[order][:-1])
        ends = np.cumsum([0, *map(len, digests.values())])
        if len(again) and self._data.duplicates == "refuse":
            first = again[np.argmin(order[again + 1])]
            places = [self._at(int(order[first + behind]), ends, [*digests]) for behind in (1, 0)]
            raise ConfigError(
                f"{places[0]} tells an environment the same as {places[1]} ({len(again)} such rows in all); take it out, or set "
                "duplicates: drop, which keeps one of them, where one is held out that one"
            )
        kept = np.ones(len(whole), np.bool_)
        kept[order[again + 1]] = False
        return {name: np.flatnonzero(kept[ends[i] : ends[i + 1]]) for i, name in enumerate(digests)}

    def _at(self, place: int, ends: Places, sources: Sequence[str]) -> str:
        source = int(np.searchsorted(ends, place, side="right")) - 1
        return self._rows[sources[source]].at(place - int(ends[source]))

    def _shared(self, places: Places) -> dict[str, Places]:
        """The rows by split. On which side one falls is its own content's, so that rows that come or go move no other."""
        at = self._digest_of[TRAIN][places] / 2.0**64
        found, begin = dict[str, Places](), 0.0
        for split, share in self._data.held.items():
            if isinstance(share, float):
                found[split] = places[(begin <= at) & (at < begin + share)]
                begin += share
        found[TRAIN] = places[at >= begin]
        if self._data.stages == 0:
            found["stages"] = found[TRAIN]
        return found


def opened(data: Data) -> Table:
    """The rows, read once in a process as long as their files do not change.

    Raises:
        ConfigError: As of :class:`Table`; or the rows are not those of ``data.fingerprint``.
    """
    bare = data.model_copy(update={"fingerprint": None})
    files = [name for name in (data.file, *data.held.values()) if data.file is not None and isinstance(name, str)]
    stats = [locate(name).stat() for name in files]
    table = _table(bare.model_dump_json(), tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats))
    if data.fingerprint not in (None, table.fingerprint):
        raise ConfigError(
            f"the rows of {data.file or data.dataset} are others than those that this configuration was made with (fingerprint "
            f"{data.fingerprint}, now {table.fingerprint}); put them back, or leave fingerprint out and start another run"
        )
    return table


@lru_cache(maxsize=16)
def _table(data: str, stats: tuple[tuple[int, ...], ...]) -> Table:
    return Table(Data.model_validate_json(data))


_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False)


def _digest(options: Mapping[str, Any], at: str) -> int:
    """Of the content, the same in every process."""
    try:
        text = _ENCODER.encode(options)
    except (TypeError, ValueError):
        wrong = next(name for name, value in options.items() if not _is_plain(value))
        raise ConfigError(
            f"{at}: {wrong} is {shown(options[wrong])}, which is no text, number, truth value, list or mapping of these; choose other "
            "columns, or convert it"
        ) from None
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _is_plain(value: Any) -> bool:
    try:
        _ENCODER.encode(value)
    except (TypeError, ValueError):
        return False
    return True


def _require_alike(options: Mapping[str, Any], at: str, types: dict[str, tuple[str, str]]) -> None:
    """Notes in ``types`` what kind of value each option has, and where; raises ConfigError where one has another."""
    for name, value in options.items():
        kind = _KINDS.get(type(value), "")
        if not kind:  # nothing, or no plain data, which is told elsewhere
            continue
        known, where = types.setdefault(name, (kind, at))
        if kind != known:
            raise ConfigError(
                f"{at}: {name} is {kind}, and {known} at {where}; write all of a column alike, such as all as text"
            )


_KINDS: Mapping[type, str] = {
    str: "text", int: "a number", float: "a number", bool: "a truth value", list: "a list", dict: "a mapping",
}  # fmt: skip
