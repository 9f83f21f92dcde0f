"""Records as rows of a table, made column by column."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import agentopd.records.compact as compact
from agentopd.errors import RecordError
from agentopd.records.columns import Names, nested, numbers, struct
from agentopd.records.plain import escape, to_json
from agentopd.records.schema import ANNOTATION, BLOCKS, FIELDS, PLAIN, SCHEMA, SEGMENT, TURN
from agentopd.types import Annotation, Block, Compact, Record, Sampled, Segment, Span, Sparse, Trajectory, Turn

_KINDS: Mapping[type, str] = {Sampled: "sampled", Sparse: "sparse", Compact: "compact", Span: "span"}


def to_table(records: Sequence[Record]) -> pa.Table:
    """One row a record, in order.

    Raises:
        RecordError: A record holds what cannot be read back equal: a dense block, an array of another type than ``types.py``
            gives, something that is not plain data.
    """
    try:
        columns = _columns(records)
        return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
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
        array = _annotations([annotation], lambda: [where])
        table = pa.Table.from_arrays(array.flatten(), schema=pa.schema(list(ANNOTATION)))
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise RecordError(f"cannot write the {where}: {error}; give every field the type of types.py") from error
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _span(records: Sequence[Record]) -> str:
    return f"records {records[0].trajectory.key} to {records[-1].trajectory.key}"


def _columns(records: Sequence[Record]) -> dict[str, pa.Array]:
    all_B = [record.trajectory for record in records]
    named = [f"trajectory {one.key}" for one in all_B]
    rows = list(zip(all_B, named, strict=True))
    free = {
        "kwargs": [to_json(one.task.kwargs, f"{name}: task.kwargs") for one, name in rows],
        "options": [
            None if one.task.options is None else to_json(one.task.options, f"{name}: task.options")
            for one, name in rows
        ],
        "privileged": [to_json(one.privileged, f"{name}: privileged") for one, name in rows],
        "versions": [to_json(one.versions, f"{name}: versions") for one, name in rows],
        "opening": [[to_json(message, f"{name}: opening") for message in one.opening] for one, name in rows],
        "tools": [[to_json(schema, f"{name}: tools") for schema in one.tools] for one, name in rows],
        "actors": [one.actors for one in all_B],
    }
    told = _transposed([_plain(one) | _failure(one) for one in all_B]) if all_B else dict.fromkeys(_TOLD, ())
    return {name: pa.array(column, SCHEMA.field(name).type) for name, column in (told | free).items()} | {
        "segments": nested(
            [one.segments for one in all_B], SEGMENT, lambda all_: _segments(all_, _parts(rows, "segment"))
        ),
        "turn_S": nested([one.turns for one in all_B], TURN, lambda all_: _turns(all_, _parts(rows, "turn"))),
        "annotations": nested(
            [record.annotations for record in records],
            ANNOTATION,
            lambda all_: _annotations(
                all_,
                lambda: [
                    f"{name}: annotation of teacher {one.teacher!r}"
                    for record, name in zip(records, named, strict=True)
                    for one in record.annotations
                ],
            ),
        ),
    }


def _parts(rows: Sequence[tuple[Trajectory, str]], what: str) -> Names:
    """What the segments, or turns, of trajectories are called."""
    field = {"segment": "segments", "turn": "turns"}[what]
    return lambda: [f"{name}: {what} {i}" for one, name in rows for i in range(len(getattr(one, field)))]


def _transposed(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _plain(trajectory: Trajectory) -> dict[str, Any]:
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


_TOLD = (*PLAIN, "failure_boundary", "failure_message")


def _segments(segments: Sequence[Segment], names: Names) -> pa.StructArray:
    source = pa.array([segment.source for segment in segments], SEGMENT.field("source").type)
    return struct(SEGMENT, {"source": source, **_arrays(segments, SEGMENT, names)})


def _turns(turns: Sequence[Turn], names: Names) -> pa.StructArray:
    where = list(names())
    told: dict[str, list[Any]] = {field.name: [getattr(turn, field.name) for turn in turns] for field in TURN}
    told["text"] = [escape(turn.text) for turn in turns]
    told["action"] = [escape(turn.action) for turn in turns]
    told["advice"] = [None if turn.advice is None else escape(turn.advice) for turn in turns]
    told["calls"] = [
        [
            {"name": escape(call.name), "arguments": to_json(call.arguments, f"{name}: arguments of {call.name!r}")}
            for call in turn.calls
        ]
        for turn, name in zip(turns, where, strict=True)
    ]
    told["observations"] = [
        [to_json(message, f"{name}: observations") for message in turn.observations]
        for turn, name in zip(turns, where, strict=True)
    ]
    told["outcomes"] = [
        [
            {"name": escape(one.name), "outcome": escape(one.outcome), "seconds": one.seconds, "cut": one.cut}
            for one in turn.outcomes
        ]
        for turn in turns
    ]
    return struct(TURN, {field.name: pa.array(told[field.name], field.type) for field in TURN})


def _annotations(annotations: Sequence[Annotation], names: Names) -> pa.StructArray:
    blocks = [annotation.block for annotation in annotations]
    corrected = [
        [None if text is None else escape(text) for text in annotation.corrected_S] for annotation in annotations
    ]
    statistics = [list(annotation.statistics.items()) for annotation in annotations]

    def inner() -> Iterable[str]:
        return [
            f"{name}: segment {i}"
            for one, name in zip(annotations, names(), strict=True)
            for i in range(len(one.segments))
        ]

    columns = {
        "teacher": pa.array([annotation.teacher for annotation in annotations], pa.string()),
        **_arrays(annotations, ANNOTATION, names),
        "corrected_S": pa.array(corrected, ANNOTATION.field("corrected_S").type),
        "segments": nested(
            [annotation.segments for annotation in annotations], SEGMENT, lambda all_: _segments(all_, inner)
        ),
        "statistics": _statistics(statistics, names),
        "block": pa.array([_kind(blocks, i, names) for i in range(len(blocks))], pa.string()),
        "sparse": _of_kind(blocks, "sparse", names, _sparse),
        "span": _of_kind(blocks, "span", names, _spans),
        "compact": _of_kind(blocks, "compact", names, _compacts),
    }
    return struct(ANNOTATION, columns)


def _statistics(all_: Sequence[Sequence[tuple[str, Any]]], names: Names) -> pa.ListArray:
    kind = ANNOTATION.field("statistics").type.value_type

    def inner() -> Iterable[str]:
        return [f"{name}: statistics[{one!r}]" for found, name in zip(all_, names(), strict=True) for one, _ in found]

    def build(pairs: Sequence[tuple[str, Any]]) -> pa.Array:
        columns = {
            "name": pa.array([name for name, _ in pairs], pa.string()),
            "values": numbers([array for _, array in pairs], pa.float32(), "its array", inner),
        }
        return struct(kind, columns)

    return nested(all_, kind, build)


def _kind(blocks: Sequence[Block], i: int, names: Names) -> str:
    kind = _KINDS.get(type(blocks[i]))
    if kind is None:
        raise RecordError(
            f"{list(names())[i]} is a dense block (hidden states), which records do not keep; write "
            "agentopd.records.thin(record, ...) instead"
        )
    return kind


def _of_kind(
    blocks: Sequence[Block], kind: str, names: Names, build: Callable[[Sequence[Any], Names], dict[str, pa.Array]]
) -> pa.StructArray:
    """The blocks of one kind, null where a block is of another."""
    fields = BLOCKS[kind]
    mine = [_KINDS[type(block)] == kind for block in blocks]
    if not any(mine):
        return pa.nulls(len(blocks), fields)

    def named() -> Iterable[str]:
        return [name for name, is_mine in zip(names(), mine, strict=True) if is_mine]

    columns = build([block for block, is_mine in zip(blocks, mine, strict=True) if is_mine], named)
    held = struct(fields, columns)
    if all(mine):
        return held
    places = np.cumsum(mine) - 1
    return held.take(pa.array(places, pa.int64(), mask=~np.asarray(mine)))


def _sparse(blocks: Sequence[Sparse], names: Names) -> dict[str, pa.Array]:
    for i, block in enumerate(blocks):
        ids, logprob, tail = block.ids_N_K.shape, block.logprob_N_K.shape, block.logtail_N.shape
        if len(ids) != 2 or logprob != ids or tail != ids[:1]:
            raise RecordError(
                f"{list(names())[i]}: a sparse block of shapes {ids}, {logprob}, {tail}; they must be [N, K], [N, K], [N]"
            )
    return {
        "k": pa.array([block.ids_N_K.shape[1] for block in blocks], pa.int32()),
        **_arrays(blocks, BLOCKS["sparse"], names),
        "of": pa.array([block.of for block in blocks], pa.string()),
    }


def _spans(blocks: Sequence[Span], names: Names) -> dict[str, pa.Array]:
    for i, block in enumerate(blocks):
        shapes = block.student_P_2.shape, block.teacher_P_2.shape, block.logprob_P.shape
        size = block.logprob_P.size
        if shapes != ((size, 2), (size, 2), (size,)):
            raise RecordError(
                f"{list(names())[i]}: a block of spans of shapes {', '.join(map(str, shapes))}; they must be [P, 2], [P, 2], [P]"
            )
    return _arrays(blocks, BLOCKS["span"], names)


def _compacts(blocks: Sequence[Compact], names: Names) -> dict[str, pa.Array]:
    packed = _transposed([compact.pack(block) for block in blocks])
    bytes_ = {name: pa.array(column, BLOCKS["compact"].field(name).type) for name, column in packed.items()}
    return {**bytes_, **_arrays(blocks, BLOCKS["compact"], names)}


def _arrays(owners: Sequence[Any], kind: pa.StructType, names: Names) -> dict[str, pa.ListArray]:
    """The arrays of ``owners``, those of their fields that ``kind`` holds as lists of numbers, flat."""
    lists = [f for f in kind if pa.types.is_list(f.type) and pa.types.is_primitive(f.type.value_type)]
    named = [(f, FIELDS.get(f.name, f.name)) for f in lists]
    return {f.name: numbers([getattr(one, n) for one in owners], f.type.value_type, n, names) for f, n in named}
