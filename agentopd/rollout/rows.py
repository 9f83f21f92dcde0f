"""Rows of a file or a data set, read one at a time: JSONL by its lines, CSV and Parquet and data sets as memory-mapped Arrow."""

import csv
import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from agentopd.errors import ConfigError, first_line
from agentopd.installed import INSTALLED, folders_of
from agentopd.settings.problems import nearest, shown

Row = Mapping[str, Any]

TABLES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".csv": ("csv", {"sep": ","}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}
"""By the end of a file's name: what reads it in ``datasets``, and how. The values of a CSV file are text, as they stand there; an empty one is none."""
BATCH = 1000


class Rows(Protocol):
    """A table. Columns are names, values what JSON can hold; who reads them finds out."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int) -> Row:
        """One row."""

    def __iter__(self) -> Iterator[Row]:
        """All rows in order."""

    def at(self, index: int) -> str:
        """Where a row stands, for messages: file and line."""


class JsonLines:
    """A file with one JSON object a line; empty lines are no rows. In memory are the places of the lines alone."""

    def __init__(self, path: Path) -> None:
        self._path, self._begin, self._line = path, array("q"), array("q")
        try:
            with path.open("rb") as file:
                begin = 0
                for line, text in enumerate(file, start=1):
                    if text.strip():
                        self._begin.append(begin)
                        self._line.append(line)
                    begin += len(text)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None

    def __len__(self) -> int:
        return len(self._begin)

    def __getitem__(self, index: int) -> Row:
        with self._path.open("rb") as file:
            file.seek(self._begin[index])
            return self._row(index, file.readline())

    def __iter__(self) -> Iterator[Row]:
        with self._path.open("rb") as file:
            yield from (self._row(i, text) for i, text in enumerate(text for text in file if text.strip()))

    def at(self, index: int) -> str:
        """File and line."""
        return f"{self._path}:{self._line[index]}"

    def _row(self, index: int, text: bytes) -> Row:
        try:
            row = _DECODER.decode(text.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            raise ConfigError(f"{self.at(index)}: not valid JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self.at(index)}: not valid JSON: {first_line(error)}") from None
        if not isinstance(row, dict):
            raise ConfigError(
                f'{self.at(index)}: {shown(row)} is no JSON object; write one a line, such as {{"question": "..."}}'
            )
        return row


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number in JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


class Arrow:
    """A data set of ``datasets``, which stays on the disk."""

    def __init__(self, data: Any, name: str) -> None:
        self._data, self._name = data, name

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Row:
        return _told(self._data[index])

    def __iter__(self) -> Iterator[Row]:
        for batch in self._data.iter(batch_size=BATCH):
            yield from (_told(dict(zip(batch, values, strict=True))) for values in zip(*batch.values(), strict=True))

    def at(self, index: int) -> str:
        """Its name, and the row counted from 1."""
        return f"{self._name}, row {index + 1}"


def _told(row: Row) -> Row:
    """A row without what others alone tell: Arrow gives a mapping in a column the keys that any row has there, with null where it has none."""
    return {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def rows_of_file(name: str) -> Rows:
    """The rows of a JSONL, CSV, TSV or Parquet file.

    Args:
        name: Its path, or ``package:file`` for one inside an installed Python package.

    Raises:
        ConfigError: There is no such file, or it cannot be read.
    """
    path = locate(name)
    if path.suffix in {".jsonl", ".ndjson"}:
        return JsonLines(path)
    if path.suffix not in TABLES:
        raise ConfigError(
            f"{path}: the name of a file with rows ends in .jsonl, {', '.join(TABLES)}; rename or convert it"
        )
    import datasets  # heavy, and not needed for JSONL

    reader, settings = TABLES[path.suffix]
    try:
        if reader == "csv":
            settings = {
                **settings,
                "keep_default_na": False,
                "na_values": [""],
                "features": _texts(path, settings["sep"]),
            }
        return Arrow(datasets.load_dataset(reader, data_files=str(path), split="train", **settings), str(path))
    except ConfigError:
        raise
    except Exception as error:  # damage shows itself as nearly anything; what is behind an error is the nearest to it
        raise ConfigError(f"{path} cannot be read: {first_line(error.__cause__ or error)}") from None


def _texts(path: Path, separator: str) -> Any:
    """The columns of a CSV file, all as text: a guess at their types would turn 007 into 7.

    Raises:
        ConfigError: Two are called alike, of which one would be lost, or one has no name; or there are no rows, or more values than names.
    """
    from datasets import Features, Value

    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, delimiter=separator)
        names = next(lines, [])
        first = next(filter(None, lines), None)
        if first is None:
            raise ConfigError(f"{path} has no rows")
        if len(first) > len(names):  # the reader would take the first value for a name of the row, and move the others
            raise ConfigError(
                f"{path}: its first row has {len(first)} values, and its first line names {len(names)} columns; name each, or take "
                "separators at the ends of rows away"
            )
    for place, name in enumerate(names, start=1):
        if not name.strip() or names.count(name) > 1:
            wrong = f"two columns are called {name!r}" if name.strip() else f"column {place} has no name"
            raise ConfigError(f"{path}: {wrong}; its first line is to name each column once")
    return Features({name: Value("string") for name in names})


def rows_of_data_set(name: str, subset: str | None, split: str) -> Rows:
    """The rows of one split of a data set.

    Args:
        name: On the hub, or a folder: of data files, or one that ``save_to_disk`` wrote.
        subset: The name of a configuration of it, such as ``main``.
        split: Such as ``train``, or a part of it, as ``datasets`` writes it: ``train[:1000]``.

    Raises:
        ConfigError: It cannot be loaded, or has no such split.
    """
    import datasets

    said = f"{name}{f'/{subset}' if subset else ''}"
    folder = Path(name).expanduser()
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return Arrow(_saved(folder, said, split), f"{said}[{split}]")
    try:
        found = datasets.load_dataset(str(folder) if folder.is_dir() else name, subset, split=split)
    except Exception as error:  # of the network, the hub, or any builder
        raise ConfigError(f"{said}: split {split!r} cannot be loaded: {first_line(error)}") from None
    return Arrow(found, f"{said}[{split}]")


def _saved(folder: Path, said: str, split: str) -> Any:
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise ConfigError(f"{said} cannot be loaded: {first_line(error)}") from None
    parts = found if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
    lengths = {name: len(rows) for name, rows in parts.items()}
    try:
        taken = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    except ValueError:
        raise ConfigError(f"{said} has no split {split!r}{nearest(split, parts)}; it has: {', '.join(parts)}") from None
    return datasets.concatenate_datasets([parts[one.splitname].select(range(one.from_, one.to)) for one in taken])


def locate(name: str) -> Path:
    """The file that ``name`` says, as for :func:`rows_of_file`.

    Raises:
        ConfigError: There is no such file.
    """
    path, installed = Path(name).expanduser(), INSTALLED.fullmatch(name)
    if path.is_file():
        return path
    if installed is None:
        here = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise ConfigError(f"there is no file {name}{here}; a path is seen from where the command is given")
    folders = folders_of(installed["package"])
    found = [folder / installed["file"] for folder in folders if (folder / installed["file"]).is_file()]
    if not found:
        raise ConfigError(
            f"there is no file {installed['file']} in the package {installed['package']}"
            f"{'' if folders else ', which is not installed'}"
        )
    return found[0]
