"""The columns of a record file: what people query as plain columns, the rest as typed lists or JSON.

Nested fields carry the names of ``types.py``, but for those in ``FIELDS``. Free-form mappings (kwargs, options, privileged facts,
tool schemas and arguments, messages) are JSON text; text that a model or an environment wrote is escaped as
:mod:`agentopd.records.plain` says.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

FORMAT = b"agentopd.format"
RECORDS = b"records"
SIGNALS = b"signals"
VERSION = b"agentopd.version"
CURRENT = b"5"
"""The version that is written."""
READABLE = (b"3", b"4", b"5")
"""The versions that are read: 4 has compact blocks, which 3 lacks, and in 5 their levels are relative to a row's lowest."""

_TEXT = pa.string()
_TEXTS = pa.list_(_TEXT)
_INTS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float32())
_BOOLS = pa.list_(pa.bool_())

SEGMENT = pa.struct(
    {
        "tokens_T": _INTS,
        "turn_T": _INTS,
        "actor_T": _INTS,
        "trainable_T": _BOOLS,
        "logprob_T": _FLOATS,
        "source": _TEXT,
    }
)

TURN = pa.struct(
    {
        "index": pa.int32(),
        "actor": _TEXT,
        "segment": pa.int32(),
        "start": pa.int32(),
        "stop": pa.int32(),
        "text": _TEXT,
        "action": _TEXT,
        "calls": pa.list_(pa.struct({"name": _TEXT, "arguments": _TEXT})),
        "observations": _TEXTS,
        "reward": pa.float64(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
        "finish": _TEXT,
        "drift": _TEXT,
        "errors": _TEXTS,
        "advice": _TEXT,
        "seconds_policy": pa.float64(),
        "seconds_env": pa.float64(),
        "prefilled": pa.int64(),
        "policy_version": pa.int64(),
        "thinking": pa.int32(),
        "outcomes": pa.list_(pa.struct({"name": _TEXT, "outcome": _TEXT, "seconds": pa.float64(), "cut": pa.bool_()})),
    }
)

BLOCKS: Mapping[str, pa.StructType] = {
    "sampled": pa.struct({}),
    # [N, K] and [P, 2] arrays are kept flat, row by row
    "sparse": pa.struct({"k": pa.int32(), "ids_N_K": _INTS, "logprob_N_K": _FLOATS, "logtail_N": _FLOATS, "of": _TEXT}),
    "span": pa.struct({"student_P_2": _INTS, "teacher_P_2": _INTS, "logprob_P": _FLOATS}),
    # the bytes of [N, K] and [N] numbers, the lowest of all in the first plane: see agentopd.records.compact
    "compact": pa.struct(
        {
            "k": pa.int32(),
            **{f"step_{i}": pa.binary() for i in range(4)},
            **{f"level_{i}": pa.binary() for i in range(2)},
            **{f"base_{i}": pa.binary() for i in range(2)},
            "shift_N": _FLOATS,
            "fine_N": _BOOLS,
            "logtail_N": _FLOATS,
        }
    ),
}

ANNOTATION = pa.struct(
    {
        "teacher": _TEXT,
        "segment_N": _INTS,
        "index_N": _INTS,
        "taken_N": _FLOATS,
        "entropy_N": _FLOATS,
        "reward_S": _FLOATS,
        "skip_S": _BOOLS,
        "corrected_S": _TEXTS,
        "segments": pa.list_(SEGMENT),
        "statistics": pa.list_(pa.struct({"name": _TEXT, "values": _FLOATS})),
        "block": _TEXT,
        "sparse": BLOCKS["sparse"],
        "span": BLOCKS["span"],
        "compact": BLOCKS["compact"],
    }
)

FIELDS: Mapping[str, str] = {"taken_N": "taken_logprob_N"}
"""Nested fields that ``types.py`` calls otherwise, and what it calls them."""

JSON = frozenset({"kwargs", "options", "privileged", "versions", "opening", "tools", "observations", "arguments"})
"""Fields, nested ones among them, whose text is JSON."""

PLAIN: Mapping[str, pa.DataType] = {
    "key": _TEXT,
    "run": _TEXT,
    "step": pa.int64(),
    "index": pa.int64(),
    "attempt": pa.int64(),
    "origin": _TEXT,
    "env": _TEXT,
    "task": _TEXT,
    "seed": pa.uint64(),
    "split": _TEXT,
    "tags": _TEXTS,
    "family": _TEXT,
    "source": _TEXT,
    "success": pa.bool_(),
    "reward": pa.float64(),
    "stop": _TEXT,
    "turns": pa.int64(),
    "tokens": pa.int64(),
    "errors": pa.int64(),
    "failure": _TEXT,
}
"""One value an episode: ``origin`` is null unless the episode was played under another key, ``task`` is ``Task.id``, ``source`` that of the first segment, ``turns``, ``tokens`` (of all segments) and
``errors`` (bad actions) are counts, ``failure`` is its kind or null."""

ADDED: Mapping[str, str] = {"family": ""}
"""Columns that a file of this version may lack, since they came later, and what stands for them then."""

ADDED_INSIDE: Mapping[str, Any] = {
    "of": "teacher",
    "thinking": 0,
    "outcomes": (),
    "compact": None,
    "base_0": None,
    "base_1": None,
}
"""Nested fields of which the same holds."""

SCHEMA = pa.schema(
    {
        **PLAIN,
        "failure_boundary": _TEXT,
        "failure_message": _TEXT,
        "kwargs": _TEXT,
        "options": _TEXT,
        "privileged": _TEXT,
        "versions": _TEXT,
        "opening": _TEXTS,
        "tools": _TEXTS,
        "actors": _TEXTS,
        "segments": pa.list_(SEGMENT),
        "turn_S": pa.list_(TURN),
        "annotations": pa.list_(ANNOTATION),
    },
    metadata={FORMAT: RECORDS, VERSION: CURRENT},
)


def fits(held: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a file of this version may hold values of type ``held`` where ``wanted`` is written now."""
    if pa.types.is_list(held) and pa.types.is_list(wanted):
        return fits(held.value_type, wanted.value_type)
    if not (pa.types.is_struct(held) and pa.types.is_struct(wanted)):
        return bool(held == wanted)
    there, now = {field.name: field.type for field in held}, {field.name: field.type for field in wanted}
    lacking = now.keys() - there.keys()
    return lacking <= ADDED_INSIDE.keys() and all(name in now and fits(there[name], now[name]) for name in there)
