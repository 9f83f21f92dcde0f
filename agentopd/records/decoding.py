"""Rows of a table as records."""

from typing import Any

import pyarrow as pa

import agentopd.records.compact as compact
from agentopd.records.plain import all_from_json, unescape
from agentopd.records.schema import ADDED, ADDED_INSIDE, FIELDS, JSON
from agentopd.types import (
    Annotation,
    Block,
    CallOutcome,
    Failure,
    Key,
    Outcome,
    Record,
    Sampled,
    Segment,
    Span,
    Sparse,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)


def to_records(table: pa.Table) -> list[Record]:
    """The records of a table that :func:`agentopd.records.encoding.to_table` made."""
    rows = [{**ADDED, **row} for row in unpack(table.to_struct_array().combine_chunks())]
    return [Record(_trajectory(row), tuple(map(_annotation, row["annotations"]))) for row in rows]


def from_bytes(data: bytes) -> Annotation:
    """The annotation that :func:`agentopd.records.encoding.to_bytes` was given."""
    with pa.ipc.open_stream(data) as stream:
        [row] = unpack(stream.read_all().to_struct_array().combine_chunks())
    return _annotation(row)


def unpack(array: pa.Array, name: str = "") -> list[Any]:
    """Structs as dicts, lists of numbers as numpy arrays of their own, JSON read, the rest as Python values; null is ``None``.

    Args:
        array: A column.
        name: Of the field, which says whether its text is JSON.
    """
    kind = array.type
    if pa.types.is_struct(kind):
        names, columns = [field.name for field in kind], map(unpack, array.flatten(), [field.name for field in kind])
        return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    if not pa.types.is_list(kind):
        return all_from_json(_plain(array)) if name in JSON else _plain(array)
    numbers = pa.types.is_primitive(kind.value_type)
    offsets, valid = array.offsets.to_numpy().tolist(), array.is_valid().to_numpy(zero_copy_only=False).tolist()
    first, last = offsets[0], offsets[-1]
    inner = array.values.slice(first, last - first)
    values = inner.to_numpy(zero_copy_only=False) if numbers else unpack(inner, name)
    ends = zip(offsets, offsets[1:], valid, strict=False)
    # a copy, so that one record does not keep its whole file alive, and so that its arrays can be written to
    return [values[a - first : b - first].copy() if is_valid else None for a, b, is_valid in ends]


def _plain(array: pa.Array) -> list[Any]:
    """Values of a column of numbers, text or bytes; numpy is much faster at it than Arrow."""
    if array.null_count and not pa.types.is_string(array.type):
        return list(array.to_pylist())
    return list(array.to_numpy(zero_copy_only=False).tolist())


def _trajectory(row: dict[str, Any]) -> Trajectory:
    return Trajectory(
        key=Key(row["run"], row["step"], row["index"], row["attempt"]),
        task=Task(row["env"], row["seed"], row["kwargs"], row["options"], row["split"], tuple(row["tags"])),
        actors=tuple(row["actors"]),
        segments=tuple(Segment(**segment) for segment in row["segments"]),
        turns=tuple(map(_turn, row["turn_S"])),
        outcome=Outcome(row["reward"], row["success"], row["stop"]),
        privileged=row["privileged"],
        failure=_failure(row),
        versions=row["versions"],
        opening=tuple(row["opening"]),
        tools=tuple(row["tools"]),
        origin=None if row["origin"] is None else Key.parse(row["origin"]),
        family=row["family"],
    )


def _failure(row: dict[str, Any]) -> Failure | None:
    if row["failure"] is None:
        return None
    return Failure(row["failure_boundary"], row["failure"], unescape(row["failure_message"]))


def _turn(row: dict[str, Any]) -> Turn:
    calls = tuple(ToolCall(unescape(call["name"]), call["arguments"]) for call in row["calls"])
    changed = {
        "text": unescape(row["text"]),
        "action": unescape(row["action"]),
        "advice": None if row["advice"] is None else unescape(row["advice"]),
        "calls": calls,
        "observations": tuple(row["observations"]),
        "errors": tuple(row["errors"]),
        "outcomes": tuple(map(_outcome, row.get("outcomes", ADDED_INSIDE["outcomes"]))),
    }
    return Turn(**row | changed)


def _outcome(row: dict[str, Any]) -> CallOutcome:
    return CallOutcome(unescape(row["name"]), unescape(row["outcome"]), row["seconds"], row["cut"])


def _annotation(row: dict[str, Any]) -> Annotation:
    names = ("segment_N", "index_N", "taken_N", "entropy_N", "reward_S", "skip_S")
    arrays = {FIELDS.get(name, name): row[name] for name in names}
    return Annotation(
        teacher=row["teacher"],
        block=_block(row),
        corrected_S=tuple(None if text is None else unescape(text) for text in row["corrected_S"]),
        segments=tuple(Segment(**segment) for segment in row["segments"]),
        statistics={entry["name"]: entry["values"] for entry in row["statistics"]},
        **arrays,
    )


def _block(row: dict[str, Any]) -> Block:
    if row["block"] == "sampled":
        return Sampled()
    if row["block"] == "sparse":
        kept = {**ADDED_INSIDE, **row["sparse"]}
        shape = (len(kept["logtail_N"]), kept["k"])
        return Sparse(kept["ids_N_K"].reshape(shape), kept["logprob_N_K"].reshape(shape), kept["logtail_N"], kept["of"])
    if row["block"] == "compact":
        return compact.unpack(row["compact"])
    kept = row["span"]
    return Span(kept["student_P_2"].reshape(-1, 2), kept["teacher_P_2"].reshape(-1, 2), kept["logprob_P"])
