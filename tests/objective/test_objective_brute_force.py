"""The whole objective against loops over tokens with full logits, in float64: two teachers mixed turn by turn, packed and padded."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_cases import Saying, Student, episode, method, prepared, record, teacher_heads
from torch import Tensor

from agentopd.objective import Batch, chunked, cut, loss
from agentopd.packing import Layout
from agentopd.types import Dense, Record, Sparse

HEADS = teacher_heads("one", "two")
TERMS = [
    {"name": "jsd", "target": {"name": "one"}, "divergence": {"kind": "jsd", "beta": 0.3}, "weight": "teacher_entropy", "rescale": True},
    {"name": "top", "target": {"name": "two"}, "support": {"kind": "top_k", "k": 2}, "coefficient": 0.7},
]  # fmt: skip
SPEAKERS = st.sampled_from(["one", "two", "two sparse", "both", "both but one skips", "nobody"])
EPISODE = st.lists(st.tuples(st.integers(1, 3), SPEAKERS), min_size=1, max_size=4)


def played(plan: Sequence[tuple[int, str]], index: int, fork: int) -> Record:
    """An episode whose turn s has ``plan[s][0]`` tokens, on which ``plan[s][1]`` speaks; turn ``fork`` starts a segment."""
    who = [speaker for _, speaker in plan]

    def turns(*names: str) -> list[int]:
        return [s for s, speaker in enumerate(who) if speaker in names]

    sayings = (
        Saying("one", turns=turns("one", "both", "both but one skips"), skip=turns("both but one skips")),
        Saying("two", turns=turns("two", "both", "both but one skips")),
        Saying("two", "sparse", turns=turns("two sparse")),
    )
    sizes = [size for size, _ in plan]
    return record(episode(sizes, index=index, forks=[fork] if fork else []), *sayings, heads=HEADS)


def said(one: Record, teacher: str) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Turn, prefix, and the best ids and their log-probabilities by a teacher, of each token that it teaches."""
    for annotation in one.annotations:
        for n, (s, t) in enumerate(zip(annotation.segment_N, annotation.index_N, strict=True)):
            segment = one.trajectory.segments[s]
            turn = int(segment.turn_T[t])
            if annotation.teacher != teacher or annotation.skip_S[turn]:
                continue
            if isinstance(annotation.block, Dense):
                logq = (HEADS[teacher].weight_V_H @ annotation.block.hidden_N_H[n]).log_softmax(0)
                logq, ids = logq.sort(descending=True)
            else:
                assert isinstance(annotation.block, Sparse)
                logq, ids = (torch.tensor(c[n]) for c in (annotation.block.logprob_N_K, annotation.block.ids_N_K))
            yield turn, torch.tensor(segment.tokens_T[:t]).long(), ids.long(), logq


def jsd(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence at one token, and its weight."""
    p, q = logp.exp(), logq.exp()
    m = 0.3 * q + 0.7 * p
    return (0.3 * q * (q / m).log() + 0.7 * p * (p / m).log()).sum(), (q * logq).sum().exp()


def two_and_the_rest(logp: Tensor, logq: Tensor) -> tuple[Tensor, Tensor]:
    p, q = logp[:2].exp(), logq[:2].exp()
    rest = (1 - q.sum()) * ((1 - q.sum()) / (1 - p.sum())).log()
    return (q * (q / p).log()).sum() + rest, torch.ones(()).double()


PARTS: Sequence[tuple[float, str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = (
    (1.0, "one", jsd),
    (0.7, "two", two_and_the_rest),
)


def brute(student: Student, records: Sequence[Record]) -> Tensor:
    """The loss by its definition: mean of means over tokens, turns and trajectories, of weight times divergence."""
    total = torch.zeros(()).double()
    for coefficient, teacher, phi in PARTS:
        weighed, weights = [], []
        for one in records:
            by_turn: dict[int, list[tuple[Tensor, Tensor]]] = {}
            for turn, prefix, ids, logq in said(one, teacher):
                logits = student.head.logits(student.embedding_V_H[prefix].sum(0).tanh())
                by_turn.setdefault(turn, []).append(phi(logits.log_softmax(0)[ids], logq))
            if by_turn:
                turns = by_turn.values()
                weighed.append(mean([mean([w * v for v, w in rows]) for rows in turns]))
                weights.append(fmean(fmean(float(w) for _, w in rows) for rows in turns))
        if weighed:
            total = total + coefficient * mean(weighed) / fmean(weights)
    return total


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean()


def hidden(student: Student, batch: Batch) -> Tensor:
    """The student's hidden states, each from the tokens of its own sequence up to it."""
    places = []
    for sample, position in zip(batch.sample_A.tolist(), batch.position_A.tolist(), strict=True):
        positions = batch.position_ids_B_T
        depth = position if positions is None else int(positions[sample, position])
        prefix = batch.input_ids_B_T[sample, position - depth : position + 1]
        places.append(student.embedding_V_H[prefix].sum(0).tanh())
    return torch.stack(places)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@given(
    st.lists(EPISODE, min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(1, 5),
)
@settings(max_examples=20, deadline=None)
def test_loss_and_gradient_equal_brute_force(
    layout: Layout, plans: list[list[tuple[int, str]]], fork: int, max_tokens: int, chunk_rows: int, tile_rows: int
) -> None:
    records = [played(plan, i, fork) for i, plan in enumerate(plans)]
    student = Student.new()
    expected = brute(student, records)
    batches = cut(prepared(method(terms=TERMS, aggregate="turn"), records), max_tokens, layout)
    with patch.object(chunked, "TILE", tile_rows * len(student.head.weight_V_H)):
        found = [loss(hidden(student, b), student.head, HEADS, b, chunk_rows=chunk_rows).loss for b in batches]
    total = torch.stack(found).sum() if found else torch.zeros(()).double()
    torch.testing.assert_close(total, expected, atol=1e-12, rtol=1e-10)
    assert bool(batches) == expected.requires_grad
    if batches:
        pairs = zip(*(torch.autograd.grad(whole, student.parameters) for whole in (total, expected)), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)
