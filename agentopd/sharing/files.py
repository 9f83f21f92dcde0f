"""Rows in files: JSON lines, Parquet, a data set of ``datasets`` in a folder or on its hub."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from agentopd.errors import RecordError
from agentopd.sharing.formats import Format, Row

if TYPE_CHECKING:
    import datasets

HUB = "hf:"
"""What the name of a data set on the hub begins with."""
AT_ONCE = 256
"""Rows that are held in memory."""
NAMED = 40
"""Letters of the name of an output that its place aside has, too: names may have 255 bytes."""
Place: TypeAlias = str
"""Where a row stands, for messages: a file and a line, or a file and a row."""


def write(rows: Iterable[Row], output: Path, form: Format, metadata: bool = False) -> int:
    """Writes rows, and returns how many; nothing is left where it fails.

    Args:
        rows: All of one format.
        output: ``*.jsonl``, ``*.parquet``, or else a folder for ``datasets.load_from_disk``.
        form: The format.
        metadata: Whether rows have metadata.

    Raises:
        RecordError: There is something already, there are no rows, or they cannot be written.
    """
    with _unwritable(output):
        _require_free(output)
    with whole(output) as aside, _unwritable(output):
        if output.suffix == ".jsonl":
            count = _lines(rows, aside)
        elif output.suffix == ".parquet":
            count = _parquet(rows, aside, form, metadata)
        else:
            count = _folder(rows, aside, form, metadata)
        if not count:
            raise RecordError(
                "nothing to export: no record is meant, or none has what this format is made of; loosen the filter"
            )
        _require_free(output)  # since then somebody else may have written it
    return count


@contextmanager
def whole(output: Path) -> Iterator[Path]:
    """A place beside ``output``, of nobody else, whose content gets that name at the end; nothing is left where something fails on the way.

    Raises:
        RecordError: Nothing can be made there, or it cannot get the name.
    """
    with _unwritable(output):
        made = next(above for above in output.parents if above.exists())
    try:
        with _unwritable(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{output.name[:NAMED]}-", dir=output.parent))
        try:
            yield aside / output.name
            with _unwritable(output):
                (aside / output.name).rename(output)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        with suppress(OSError):  # what was made for it and is empty
            for above in takewhile(lambda one: one != made, output.parents):
                above.rmdir()


@contextmanager
def _unwritable(output: Path) -> Iterator[None]:
    """Errors of the system are those of writing ``output``."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"cannot write {output}: {error}; make room or choose another output") from error


def _require_free(output: Path) -> None:
    if output.exists():
        raise RecordError(f"{output} exists already; choose another output, or remove it")


def push(rows: Iterable[Row], repository: str, form: Format, metadata: bool = False, private: bool = True) -> int:
    """Puts rows on the hub as the data set ``repository``, and returns how many. Whoever is logged in there does it.

    Raises:
        RecordError: There are no rows, or the hub does not take them.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.parquet"
        count = write(rows, file, form, metadata)
        try:
            data_set(file, folder).push_to_hub(repository, private=private)
        except Exception as error:  # of the hub's client, the network, or the server
            raise RecordError(
                f"hf:{repository}: {type(error).__name__}: {error}; log in by hf auth login, check the name, or write a file instead"
            ) from error
    return count


def data_set(file: Path, cache: str | Path) -> "datasets.Dataset":
    """The rows of a Parquet file of :func:`write` as a data set that lies in ``cache``."""
    import datasets

    return datasets.Dataset.from_parquet(str(file), cache_dir=str(cache))


def read(source: str) -> Iterator[tuple[Place, Row | ValueError]]:
    """The rows of ``source``, each with its place; what is no row is its error.

    Args:
        source: A ``.jsonl``, ``.json`` or ``.parquet`` file, a folder of such or of ``datasets.save_to_disk``, or ``hf:REPOSITORY``.

    Raises:
        RecordError: There is no such thing, or it cannot be read.
    """
    if source.startswith(HUB):
        yield from _from_hub(source.removeprefix(HUB))
        return
    path = Path(source)
    if not path.exists():
        raise RecordError(f"{path} does not exist; give a file, a folder or {HUB}REPOSITORY")
    for file in _files(path):
        if file.is_dir():
            yield from _rows_of_folder(file)
        elif file.suffix == ".parquet":
            yield from _rows_of_parquet(file)
        else:
            yield from _rows_of_json(file)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "state.json").exists():
        return [path]
    if (path / "dataset_dict.json").exists():
        splits = ", ".join(sorted(one.name for one in path.iterdir() if one.is_dir()))
        raise RecordError(f"{path} holds a data set for each split ({splits}); give the folder of one")
    found = sorted(file for file in path.iterdir() if file.suffix in (".jsonl", ".json", ".parquet"))
    if not found:
        raise RecordError(f"{path} holds no .jsonl, .json or .parquet file and no data set; give the folder that does")
    return found


def _from_hub(repository: str) -> Iterator[tuple[Place, Row | ValueError]]:
    import datasets

    name, _, split = repository.partition("@")
    remedy = f"check the network, the name and the split ({HUB}NAME@SPLIT), and log in by hf auth login"
    with _unreadable(f"{HUB}{repository}", remedy):
        found = datasets.load_dataset(name, split=split or "train", streaming=True)
        yield from _numbered(f"{HUB}{repository}", _tables(found))


def _rows_of_folder(folder: Path) -> Iterator[tuple[Place, Row]]:
    import datasets

    with _unreadable(str(folder), "it is damaged, or no data set of save_to_disk"):
        yield from _numbered(str(folder), _tables(datasets.load_from_disk(str(folder))))


@contextmanager
def _unreadable(source: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong is an error of reading ``source``: libraries, systems of files, networks and servers have many kinds."""
    try:
        yield
    except Exception as error:
        raise RecordError(f"cannot read {source}: {type(error).__name__}: {error}; {remedy}") from error


def _tables(found: Any) -> Iterator[Any]:
    """A data set, whether or not it streams, as Arrow tables."""
    yield from found.with_format("arrow").iter(batch_size=AT_ONCE)


def _numbered(name: str, tables: Iterable[Any]) -> Iterator[tuple[Place, Row]]:
    number = 0
    for table in tables:
        for row in table.to_pylist():
            yield (
                f"{name}, row {number}",
                _present({field.name: _unpacked(row[field.name], field.type) for field in table.schema}),
            )
            number += 1


def _unpacked(value: Any, kind: Any) -> Any:
    """A value of Arrow, what is JSON in it parsed.

    A struct has the keys of all rows: those that a row does not have are null in it, and are left out.
    """
    import pyarrow as pa

    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {field.name: _unpacked(value[field.name], field.type) for field in kind if value[field.name] is not None}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [_unpacked(one, kind.value_type) for one in value]
    return value


def _rows_of_parquet(file: Path) -> Iterator[tuple[Place, Row]]:
    import pyarrow.parquet as pq

    with _unreadable(str(file), "it is damaged, or no Parquet file"), pq.ParquetFile(file) as parquet:
        yield from _numbered(str(file), parquet.iter_batches(batch_size=AT_ONCE))


def _rows_of_json(file: Path) -> Iterator[tuple[Place, Row | ValueError]]:
    """JSON lines, or one list of objects."""
    try:
        with file.open(encoding="utf-8-sig") as lines:  # a mark at the beginning, as Windows writes it, is no text
            if file.suffix == ".json":
                yield from _listed(file, lines.read())
                return
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}, line {number}", _row(line)
    except UnicodeDecodeError as error:
        raise RecordError(f"cannot read {file}: it is not UTF-8 ({error}); convert it") from error


def _listed(file: Path, text: str) -> Iterator[tuple[Place, Row | ValueError]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"cannot read {file}: {error}; a .json file is one list of objects, lines of JSON are .jsonl"
        ) from None
    if not isinstance(found, list):
        raise RecordError(f"{file} holds {type(found).__name__}, and a .json file is one list of objects")
    for number, row in enumerate(found):
        what = f"it is {type(row).__name__}, and must be an object"
        yield f"{file}, row {number}", _present(row) if isinstance(row, dict) else ValueError(what)


def _row(line: str) -> Row | ValueError:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"it is not JSON ({error})")
    if not isinstance(found, dict):
        return ValueError(f"it is {type(found).__name__}, and must be an object")
    return _present(found)


def _present(row: Any) -> Row:
    """A row without what is null: a column of a data set has a value in every row."""
    return {name: value for name, value in row.items() if value is not None}


def _lines(rows: Iterable[Row], file: Path) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        lines.flush()
        os.fsync(lines.fileno())
    return count


def _parquet(rows: Iterable[Row], file: Path, form: Format, metadata: bool) -> int:
    import datasets
    import pyarrow.parquet as pq

    features, count = _features(form, metadata), 0
    with pq.ParquetWriter(file, features.arrow_schema) as parquet:
        for part in _in_parts(rows):
            table = datasets.Dataset.from_list(
                [_flat(row, form, features) for row in part], features=features
            ).data.table
            parquet.write_table(table.cast(features.arrow_schema))
            count += len(part)
    return count


def _folder(rows: Iterable[Row], folder: Path, form: Format, metadata: bool) -> int:
    with tempfile.TemporaryDirectory() as cache:
        file = Path(cache) / "rows.parquet"
        count = _parquet(rows, file, form, metadata)
        if count:
            with _quiet():
                data_set(file, cache).save_to_disk(str(folder))
    return count


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars of ``datasets``."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _in_parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while part := list(islice(left, AT_ONCE)):
        yield part


def _flat(row: Row, form: Format, columns: Iterable[str]) -> Row:
    """A row as a data set holds it: a value in every column, and as JSON text what has another shape from row to row."""
    flat = {name: row.get(name) for name in columns}
    if form.name != "sharegpt":  # text, so that no other writer of JSON rounds numbers
        flat |= {name: [_text(message) for message in row[name]] for name in form.lists}
    return flat | {name: _text(flat[name]) for name in ("tools", "metadata") if name in flat}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _features(form: Format, metadata: bool) -> "datasets.Features":
    """The types of a format's columns. A message is JSON: as a struct it would get every key that any other message has."""
    import datasets
    from datasets import Json, Value

    text = Value("string")
    message = {"from": text, "value": text} if form.name == "sharegpt" else Json()
    columns: Row = {name: datasets.List(message) for name in form.lists} | {"tools": text}
    columns |= {"system": text} if form.name == "sharegpt" else {}
    return datasets.Features(columns | ({"metadata": Json()} if metadata else {}))
