"""Records drawn at random, for round trips."""

from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from agentopd.types import (
    Annotation,
    Block,
    CallOutcome,
    Failure,
    Key,
    Message,
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
    Whose,
)

TEXT = st.text(st.characters(), max_size=12)
"""Any text, lone surrogates and NUL among it: models and environments write such things."""
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
REAL = st.floats()
SCALAR = st.none() | st.booleans() | st.integers() | REAL | TEXT
PLAIN = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXT | st.integers(), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["!tuple", "!dict", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
MAPPING = st.dictionaries(TEXT, PLAIN, max_size=3)


def ints(shape: int | tuple[int, ...]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    return nps.arrays(np.int32, shape)


def floats(shape: int | tuple[int, ...]) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    return nps.arrays(np.float32, shape, elements=st.floats(width=32))


def bools(shape: int) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    return nps.arrays(np.bool_, shape)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    n = draw(st.integers(0, 4))
    return Segment(draw(ints(n)), draw(ints(n)), draw(ints(n)), draw(bools(n)), draw(floats(n)), draw(NAME))


def messages() -> st.SearchStrategy[Message]:
    call = st.fixed_dictionaries({"type": st.just("function"), "function": MAPPING})
    required = {"role": st.sampled_from(["system", "user", "tool"]), "content": TEXT}
    return st.fixed_dictionaries(required, optional={"name": TEXT, "tool_calls": st.lists(call, max_size=2)})  # type: ignore[return-value]


def turns() -> st.SearchStrategy[Turn]:
    small = st.integers(0, 2**31 - 1)
    return st.builds(
        Turn,
        index=small,
        actor=NAME,
        segment=small,
        start=small,
        stop=small,
        text=TEXT,
        action=TEXT,
        calls=st.lists(st.builds(ToolCall, TEXT, MAPPING), max_size=2).map(tuple),
        observations=st.lists(messages(), max_size=2).map(tuple),
        reward=REAL,
        terminated=st.booleans(),
        truncated=st.booleans(),
        finish=st.sampled_from(["stop", "length"]),
        drift=st.sampled_from(["clean", "realigned", "forked", "last"]),
        errors=st.lists(NAME, max_size=2).map(tuple),
        advice=st.none() | TEXT,
        seconds_policy=REAL,
        seconds_env=REAL,
        prefilled=small,
        policy_version=small,
        outcomes=st.lists(st.builds(CallOutcome, TEXT, TEXT, REAL, st.booleans()), max_size=2).map(tuple),
    )


@st.composite
def blocks(draw: st.DrawFn, n: int) -> Block:
    kind = draw(st.sampled_from(["sampled", "sparse", "span"]))
    if kind == "sparse":
        k = draw(st.integers(0, 3))
        of = draw(st.sampled_from(get_args(Whose)))
        return Sparse(draw(ints((n, k))), draw(floats((n, k))), draw(floats(n)), of)
    if kind == "span":
        p = draw(st.integers(0, 3))
        return Span(draw(ints((p, 2))), draw(ints((p, 2))), draw(floats(p)))
    return Sampled()


@st.composite
def annotations(draw: st.DrawFn, turn_count: int) -> Annotation:
    n = draw(st.integers(0, 4))
    corrected = st.lists(st.none() | TEXT, min_size=turn_count, max_size=turn_count).map(tuple)
    return Annotation(
        teacher=draw(NAME),
        segment_N=draw(ints(n)),
        index_N=draw(ints(n)),
        block=draw(blocks(n)),
        taken_logprob_N=draw(floats(n)),
        entropy_N=draw(floats(n)),
        reward_S=draw(floats(turn_count)),
        skip_S=draw(bools(turn_count)),
        corrected_S=draw(st.just(()) | corrected),
        segments=tuple(draw(st.lists(segments(), max_size=1))),
        statistics=draw(st.dictionaries(NAME, floats(n), max_size=2)),
    )


@st.composite
def records(draw: st.DrawFn, key: Key) -> Record:
    taken = tuple(draw(st.lists(turns(), max_size=2)))
    trajectory = Trajectory(
        key=key,
        task=draw(tasks()),
        actors=tuple(draw(st.lists(NAME, max_size=2))),
        segments=tuple(draw(st.lists(segments(), max_size=2))),
        turns=taken,
        outcome=draw(st.builds(Outcome, REAL, st.booleans(), st.sampled_from(["terminated", "overflow", "failed"]))),
        privileged=draw(MAPPING),
        failure=draw(st.none() | st.builds(Failure, NAME, NAME, TEXT)),
        versions=draw(st.dictionaries(NAME, NAME, max_size=2)),
        opening=tuple(draw(st.lists(messages(), max_size=2))),
        tools=tuple(draw(st.lists(MAPPING, max_size=2))),
        origin=draw(st.none() | st.builds(Key, NAME, st.integers(0, 9), st.integers(0, 9))),
        family=draw(st.just("") | NAME),
    )
    return Record(trajectory, tuple(draw(st.lists(annotations(len(taken)), max_size=2))))


def tasks() -> st.SearchStrategy[Task]:
    # keyword arguments have names, and Task.id sorts them
    named = st.dictionaries(
        NAME, st.dictionaries(NAME, SCALAR, max_size=2) | st.lists(SCALAR, max_size=2).map(tuple), max_size=2
    )
    tags = st.lists(NAME, max_size=2).map(tuple)
    return st.builds(Task, NAME, st.integers(0, 2**64 - 1), named, st.none() | named, NAME, tags)


def plain_record(step: int, index: int, tokens: int = 4, success: bool = True, run: str = "run") -> Record:
    """A record of one turn, its contents a function of step and index."""
    n = np.arange(tokens, dtype=np.int32)
    segment = Segment(
        n + step,
        np.where(n < 2, -1, 0).astype(np.int32),
        np.where(n < 2, -1, 0).astype(np.int32),
        n >= 2,
        -n.astype(np.float32),
    )
    turn = Turn(0, "student", 0, 2, tokens, "a", "a", (ToolCall("add", {"x": step}),), errors=("tool_error",))
    trajectory = Trajectory(
        Key(run, step, index),
        Task("toy/Sum-v0", index),
        ("student",),
        (segment,),
        (turn,),
        Outcome(1.0, success, "terminated"),
    )
    rows = np.flatnonzero(segment.turn_T >= 0).astype(np.int32)
    annotation = Annotation(
        "teacher",
        np.zeros_like(rows),
        rows,
        Sampled(),
        segment.logprob_T[rows],
        np.full(len(rows), np.nan, np.float32),
        np.full(1, np.nan, np.float32),
        np.zeros(1, np.bool_),
    )
    return Record(trajectory, (annotation,))
