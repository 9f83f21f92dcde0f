"""Records as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from agentopd.errors import RecordError
from agentopd.records.plain import escape, to_json
from agentopd.records.schema import ANNOTATION, BLOCKS, FIELDS, SCHEMA, SEGMENT, TURN
from agentopd.types import Annotation, Block, Record, Sampled, Segment, Span, Sparse, Trajectory, Turn


def to_table(records: Sequence[Record]) -> pa.Table:
    """One row a record, in order.

    Raises:
        RecordError: A record holds what cannot be read back equal: a dense block, an array of another type than ``types.py``
            gives, something that is not plain data.
    """
    rows = [_row(record) for record in records]
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise RecordError(
            f"cannot write {_span(records)}: {error}; every field must have the type that types.py gives it"
        ) from error


def to_bytes(annotation: Annotation) -> bytes:
    """One annotation alone, in the form that it has in a table: an Arrow stream.

    Raises:
        RecordError: As of :func:`to_table`.
    """
    where = f"annotation of teacher {annotation.teacher!r}"
    sink = pa.BufferOutputStream()
    try:
        table = pa.Table.from_pylist([_annotation(annotation, where)], schema=pa.schema(list(ANNOTATION)))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"cannot write the {where}: {error}; give every field the type of types.py") from error
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _span(records: Sequence[Record]) -> str:
    return f"records {records[0].trajectory.key} to {records[-1].trajectory.key}"


def _row(record: Record) -> dict[str, Any]:
    trajectory = record.trajectory
    where = f"trajectory {trajectory.key}"
    return {
        **_plain_columns(trajectory),
        **_failure(trajectory),
        "kwargs": to_json(trajectory.task.kwargs, f"{where}: task.kwargs"),
        "options": None
        if trajectory.task.options is None
        else to_json(trajectory.task.options, f"{where}: task.options"),
        "privileged": to_json(trajectory.privileged, f"{where}: privileged"),
        "versions": to_json(trajectory.versions, f"{where}: versions"),
        "opening": [to_json(message, f"{where}: opening") for message in trajectory.opening],
        "tools": [to_json(schema, f"{where}: tools") for schema in trajectory.tools],
        "actors": trajectory.actors,
        "segments": [_segment(segment, f"{where}: segment {i}") for i, segment in enumerate(trajectory.segments)],
        "turn_S": [_turn(turn, f"{where}: turn {i}") for i, turn in enumerate(trajectory.turns)],
        "annotations": [_annotation(a, f"{where}: annotation of teacher {a.teacher!r}") for a in record.annotations],
    }


def _plain_columns(trajectory: Trajectory) -> dict[str, Any]:
    key, task, outcome = trajectory.key, trajectory.task, trajectory.outcome
    return {
        "key": str(key),
        "run": key.run,
        "step": key.step,
        "index": key.index,
        "attempt": key.attempt,
        "env": task.env_id,
        "task": task.id,
        "seed": task.seed,
        "split": task.split,
        "tags": task.tags,
        "family": trajectory.family,
        "origin": None if trajectory.origin is None else str(trajectory.origin),
        "source": trajectory.segments[0].source if trajectory.segments else None,
        "success": outcome.success,
        "reward": outcome.total_reward,
        "stop": outcome.stop,
        "turns": len(trajectory.turns),
        "tokens": sum(len(segment) for segment in trajectory.segments),
        "errors": sum(len(turn.errors) for turn in trajectory.turns),
    }


def _failure(trajectory: Trajectory) -> dict[str, Any]:
    failure = trajectory.failure
    if failure is None:
        return {"failure": None, "failure_boundary": None, "failure_message": None}
    return {
        "failure": failure.kind,
        "failure_boundary": failure.boundary,
        "failure_message": escape(failure.message),
    }


def _segment(segment: Segment, where: str) -> dict[str, Any]:
    return {"source": segment.source, **_arrays(segment, SEGMENT, where)}


def _turn(turn: Turn, where: str) -> dict[str, Any]:
    return {field.name: getattr(turn, field.name) for field in TURN} | {
        "text": escape(turn.text),
        "action": escape(turn.action),
        "advice": None if turn.advice is None else escape(turn.advice),
        "calls": [
            {"name": escape(call.name), "arguments": to_json(call.arguments, f"{where}: arguments of {call.name!r}")}
            for call in turn.calls
        ],
        "observations": [to_json(message, f"{where}: observations") for message in turn.observations],
        "outcomes": [
            {"name": escape(one.name), "outcome": escape(one.outcome), "seconds": one.seconds, "cut": one.cut}
            for one in turn.outcomes
        ],
    }


def _annotation(annotation: Annotation, where: str) -> dict[str, Any]:
    statistics = [
        {"name": name, "values": _checked(values, pa.float32(), f"{where}: statistics[{name!r}]")}
        for name, values in annotation.statistics.items()
    ]
    return {
        "teacher": annotation.teacher,
        **_arrays(annotation, ANNOTATION, where),
        "corrected_S": [None if text is None else escape(text) for text in annotation.corrected_S],
        "segments": [_segment(segment, f"{where}: segment {i}") for i, segment in enumerate(annotation.segments)],
        "statistics": statistics,
        **_block(annotation.block, where),
    }


def _block(block: Block, where: str) -> dict[str, Any]:
    if isinstance(block, Sampled):
        return {"block": "sampled"}
    if isinstance(block, Sparse):
        _require_shapes(block, where)
        arrays = _arrays(block, BLOCKS["sparse"], where)
        return {"block": "sparse", "sparse": {"k": block.ids_N_K.shape[1], **arrays, "of": block.of}}
    if isinstance(block, Span):
        _require_pairs(block, where)
        return {"block": "span", "span": _arrays(block, BLOCKS["span"], where)}
    raise RecordError(
        f"{where} is a dense block (hidden states), which records do not keep; write agentopd.records.thin(record, ...) instead"
    )


def _require_shapes(block: Sparse, where: str) -> None:
    ids, logprob, tail = block.ids_N_K.shape, block.logprob_N_K.shape, block.logtail_N.shape
    if len(ids) != 2 or logprob != ids or tail != ids[:1]:
        raise RecordError(
            f"{where}: a sparse block of shapes {ids}, {logprob}, {tail}; they must be [N, K], [N, K], [N]"
        )


def _require_pairs(block: Span, where: str) -> None:
    shapes = block.student_P_2.shape, block.teacher_P_2.shape, block.logprob_P.shape
    size = block.logprob_P.size
    if shapes != ((size, 2), (size, 2), (size,)):
        raise RecordError(
            f"{where}: a block of spans of shapes {', '.join(map(str, shapes))}; they must be [P, 2], [P, 2], [P]"
        )


def _arrays(owner: object, kind: pa.StructType, where: str) -> Mapping[str, np.ndarray[Any, Any]]:
    """The arrays of ``owner``, those of its fields that ``kind`` holds as lists of numbers, flat."""
    lists = [f for f in kind if pa.types.is_list(f.type) and pa.types.is_primitive(f.type.value_type)]
    named = [(f, FIELDS.get(f.name, f.name)) for f in lists]
    return {f.name: _checked(getattr(owner, n), f.type.value_type, f"{where}: {n}") for f, n in named}


def _checked(array: np.ndarray[Any, Any], kind: pa.DataType, where: str) -> np.ndarray[Any, Any]:
    expected = np.dtype(kind.to_pandas_dtype())
    if array.dtype != expected:
        raise RecordError(f"{where} is {array.dtype}; make it {expected}, or it would not be read back equal")
    return array.reshape(-1)
