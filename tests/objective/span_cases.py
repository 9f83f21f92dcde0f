"""Episodes that a teacher with another vocabulary annotated in spans."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from objective_cases import H, V, episode
from torch import Tensor

from agentopd.objective import Head, Rows, TeacherColumns
from agentopd.types import Aligned, Annotation, Dense, Ints, Matched, Record, Span, Trajectory

W = 13
PAIRS = Matched(np.array([0, 1, 2, 3, 4, 5, 7], np.int32), np.array([2, 0, 1, 5, 4, 3, 12], np.int32))
"""Of the student's 11 tokens and the teacher's 13, those that mean the same."""


def theirs(name: str = "teacher", size: int = W) -> dict[str, Head]:
    generator = torch.Generator().manual_seed(7)
    return {name: Head(torch.randn(size, H, generator=generator, dtype=torch.float64))}


def actions(trajectory: Trajectory) -> list[tuple[int, int]]:
    return [(s, int(t)) for s, one in enumerate(trajectory.segments) for t in np.flatnonzero(one.turn_T >= 0)]


def turn_of(trajectory: Trajectory, place: tuple[int, int]) -> int:
    return int(trajectory.segments[place[0]].turn_T[place[1]])


def spans_of(trajectory: Trajectory, sizes: Sequence[int]) -> list[list[tuple[int, int]]]:
    """The rows of each span: the sizes in turn, cut at the ends of turns."""
    found: list[list[tuple[int, int]]] = []
    for _n, place in enumerate(actions(trajectory)):
        wanted = sizes[(len(found) - 1) % len(sizes)] if found else 0
        full = not found or len(found[-1]) >= wanted
        if full or turn_of(trajectory, found[-1][-1]) != turn_of(trajectory, place):
            found.append([])
        found[-1].append(place)
    return found


def annotated(
    trajectory: Trajectory,
    sizes: Sequence[int] = (1, 2, 1, 3),
    their_sizes: Sequence[int] = (1, 1, 2),
    matched: Matched = PAIRS,
    seed: int = 0,
    skip: Sequence[int] = (),
    head: Head | None = None,
    coming: Sequence[tuple[int, int]] = ((-1, -1),),
    forms: Sequence[int] = (),
) -> Annotation:
    """Random hidden states; the teacher's token of a span of one on each side is the student's partner, where there is one.

    ``coming`` are the tokens that begin what could come, span by span; ``forms`` which of three spans are in other bytes.
    """
    head = head or theirs()["teacher"]
    size = len(head.weight_V_H)
    random = np.random.default_rng([seed, trajectory.key.index])
    spans = spans_of(trajectory, sizes)
    many = np.array([their_sizes[p % len(their_sizes)] for p in range(len(spans))])
    token_P = random.integers(0, size, len(spans)).astype(np.int32)
    for p, span in enumerate(spans):
        own = int(trajectory.segments[span[0][0]].tokens_T[span[0][1]])
        if len(span) == many[p] == 1 and own in matched.student_K:
            token_P[p] = matched.teacher_K[list(matched.student_K).index(own)]
    hidden = torch.from_numpy(random.normal(size=(len(spans), H)))
    logq = torch.log_softmax(head.logits(hidden), 1)
    rest_P = np.where(many > 1, -random.uniform(0.05, 2.0, len(spans)), 0.0).astype(np.float32)
    total_P = (logq.gather(1, torch.from_numpy(token_P).long()[:, None])[:, 0].numpy() + rest_P).astype(np.float32)
    same_P = ~np.isin(np.arange(len(spans)) % 3, forms)
    next_P_2 = np.array([coming[p % len(coming)] for p in range(len(spans))], np.int32)
    rows = [place for span in spans for place in span]
    stops, their_stops = np.cumsum([len(span) for span in spans]), np.cumsum(many)
    ends, their_ends = (np.stack([np.concatenate([[0], s[:-1]]), s], 1).astype(np.int32) for s in (stops, their_stops))
    turns = len(trajectory.turns)
    return Annotation(
        "teacher",
        np.array([s for s, _ in rows], np.int32),
        np.array([t for _, t in rows], np.int32),
        Aligned(Span(ends, their_ends, total_P), Dense(hidden, "teacher"), token_P, rest_P, same_P, next_P_2, matched),
        np.repeat(total_P / np.array([len(span) for span in spans], np.float32), [len(span) for span in spans]),
        np.repeat((-(logq.exp() * logq).sum(1)).float().numpy(), [len(span) for span in spans]),
        np.full(turns, np.nan, np.float32),
        np.isin(np.arange(turns), list(skip)),
    )


def records(count: int = 4, **settings: object) -> list[Record]:
    """Episodes of several turns, some forked, all annotated."""
    shapes = [[5, 3, 1], [4], [2, 7, 2], [6, 1]]
    return [
        Record(one, (annotated(one, **settings),))  # type: ignore[arg-type]
        for one in (episode(shapes[i], index=i, task=i, forks=[1] if i == 2 else []) for i in range(count))
    ]


def shifted(record: Record, by: Tensor) -> Record:
    """The same with other hidden states."""
    [said] = record.annotations
    assert isinstance(said.block, Aligned)
    dense = replace(said.block.dense, hidden_N_H=said.block.dense.hidden_N_H + by)
    return replace(record, annotations=(replace(said, block=replace(said.block, dense=dense)),))


EVERY: Ints = np.arange(V, dtype=np.int32)
SAME = Matched(EVERY, EVERY, same=True)
"""Of one vocabulary."""


def middle(rows: Rows, teacher: TeacherColumns | None) -> NDArray[np.float64]:
    """A weight: 1 on the second of all rows."""
    weight: NDArray[np.float64] = np.eye(1, len(rows), 1)[0]
    return weight
