"""Cutting a prepared batch: budgets, layouts, what is left out, and where each row's hidden state stands."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import Saying, episode, method, prepared, record

from agentopd.objective import Batch, Prepared, cut
from agentopd.objective.floor import FLOOR
from agentopd.packing import Layout
from agentopd.types import Dense, Record

SFT: dict[str, Any] = {"target": {"kind": "taken"}}


def four_lengths() -> list[Record]:
    """Segments of 4, 6, 3 and 12 tokens, of which the last is never an input."""
    return [record(episode(turns, index=i), Saying()) for i, turns in enumerate([[2], [4], [1], [3, 5]])]


def check(ready: Prepared, batches: list[Batch]) -> None:
    """Every needed row stands once, behind the token before it, with its own token and coefficients."""
    rows = ready.rows
    needed = np.flatnonzero(np.any([term.coef_A != 0 for term in ready.terms], axis=0))
    assert sorted(torch.cat([batch.row_A for batch in batches]).tolist()) == needed.tolist()
    for batch in batches:
        for a, row in enumerate(batch.row_A.tolist()):
            segment, index = rows.segments[rows.segment_A[row]], int(rows.index_A[row])
            sample, position = int(batch.sample_A[a]), int(batch.position_A[a])
            start = position - (index - 1)
            inputs = batch.input_ids_B_T[sample, start : position + 1].tolist()
            assert inputs == segment.tokens_T[:index].tolist()
            if batch.position_ids_B_T is not None:
                assert batch.position_ids_B_T[sample, start : position + 1].tolist() == list(range(index))
            assert int(batch.token_A[a]) == segment.tokens_T[index]
            for term, whole in zip(batch.terms, ready.terms, strict=True):
                assert float(term.coef_A[a]) == whole.coef_A[row]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("max_tokens", [1, 8, 14, 1000])
def test_every_needed_row_once_within_the_budget(layout: Layout, max_tokens: int) -> None:
    ready = prepared(method(), four_lengths())
    batches = cut(ready, max_tokens, layout)
    check(ready, batches)
    for batch in batches:
        single = len(set(ready.rows.segment_A[batch.row_A.numpy()].tolist())) == 1
        assert batch.input_ids_B_T.numel() <= max_tokens or single
    again = cut(ready, max_tokens, layout)
    assert [batch.row_A.tolist() for batch in again] == [batch.row_A.tolist() for batch in batches]


def test_padded_buckets_hold_neighbours_in_length() -> None:
    batches = cut(prepared(method(), four_lengths()), 15, "padded")
    assert [tuple(batch.input_ids_B_T.shape) for batch in batches] == [(1, 11), (3, 5)]
    assert batches[0].position_ids_B_T is None


def test_packed_fills_up_with_whatever_fits() -> None:
    batches = cut(prepared(method(), four_lengths()), 14, "packed")
    assert [batch.input_ids_B_T.shape[1] for batch in batches] == [14, 7]
    positions = batches[1].position_ids_B_T
    assert positions is not None
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0, 1]]


def test_a_segment_ends_before_its_last_needed_row_and_unneeded_segments_cost_nothing() -> None:
    records = [
        *four_lengths(),
        record(episode([9], index=9), Saying(skip=[0])),
        record(episode([9], index=8, failed=True), Saying()),
    ]
    first = method(where={"actor": "student", "max_turn": 0})
    (batch,) = cut(prepared(first, records), 10**6)
    # the longest first turn has 4 tokens after 2 of context: 5 inputs predict them all
    assert tuple(batch.input_ids_B_T.shape) == (4, 5)
    check(prepared(first, records), [batch])


def test_only_the_forked_segment_that_is_needed_is_read() -> None:
    ready = prepared(method(where={"actor": "student", "min_turn": 1}), [record(episode([2, 1], forks=[1]), Saying())])
    (batch,) = cut(ready, 100)
    check(ready, [batch])
    assert batch.input_ids_B_T.shape == (1, 6)


def test_no_coefficient_no_batch() -> None:
    assert cut(prepared(method(), [record(episode([2]), Saying(skip=[0]))]), 100) == []
    assert cut(prepared(method(), []), 100) == []


def test_blocks_hold_what_some_term_reads_and_nothing_else() -> None:
    said = (Saying(turns=[0]), Saying(kind="sparse", turns=[1]), Saying("other", turns=[0, 1]))
    records = [record(episode([2, 1, 1], index=i), *said, Saying("mute", "sampled")) for i in range(2)]
    terms = [
        {"name": "k", "support": "top_k"},
        {"name": "o", "target": {"name": "other"}, "where": {"max_turn": 0}},
        {"name": "m", "target": {"name": "mute"}, "estimator": "score_function"},
    ]
    ready = prepared(method(terms=terms), records)
    (batch,) = cut(ready, 1000)
    found = {(block.teacher, block.dense is not None): block for block in batch.blocks}
    assert set(found) == {("teacher", True), ("teacher", False), ("other", True)}
    depth = ready.rows.turn_A[batch.row_A.numpy()]
    assert set(depth[found["teacher", True].row_N]) == {0}
    assert set(depth[found["teacher", False].row_N]) == {1}
    assert set(depth[found["other", True].row_N]) == {0}
    assert all(len(block.row_N) == (2 if block.dense is None else 4) for block in batch.blocks)
    for block in batch.blocks:
        assert block.row_N.tolist() == sorted(block.row_N.tolist())
        for n, a in enumerate(block.row_N.tolist()):
            columns = ready.rows.teachers[block.teacher]
            row = int(batch.row_A[a])
            annotation = records[ready.rows.trajectory_A[row]].annotations[columns.annotation_A[row]]
            if block.dense is not None:
                assert isinstance(annotation.block, Dense)
                assert torch.equal(block.dense.hidden_N_H[n], annotation.block.hidden_N_H[columns.entry_A[row]])


def test_sparse_blocks_of_different_width_are_padded() -> None:
    records = [record(episode([1], index=i), Saying(kind="sparse")) for i in range(2)]
    block: Any = records[1].annotations[0].block
    narrow = replace(block, ids_N_K=block.ids_N_K[:, :2], logprob_N_K=block.logprob_N_K[:, :2])
    records[1] = replace(records[1], annotations=(replace(records[1].annotations[0], block=narrow),))
    (batch,) = cut(prepared(method(support="top_k"), records), 100)
    (merged,) = batch.blocks
    assert merged.sparse is not None
    assert (merged.sparse.ids_N_K < 0).tolist() == [[False] * 4, [False, False, True, True]]
    assert (merged.sparse.logprob_N_K == FLOOR).tolist() == (merged.sparse.ids_N_K < 0).tolist()


def test_settings_by_row_are_cut_too() -> None:
    ready = prepared(method(divergence="jsd"), four_lengths())
    shares = np.linspace(0.1, 0.9, len(ready.rows))
    ready = replace(
        ready, terms=(replace(ready.terms[0], settings={**ready.terms[0].settings, "divergence": {"beta": shares}}),)
    )
    for batch in cut(ready, 8):
        assert batch.terms[0].settings["divergence"]["beta"].tolist() == shares[batch.row_A.numpy()].tolist()


def test_a_batch_moves_whole() -> None:
    (batch,) = cut(prepared(method(), four_lengths()), 1000, "packed")
    moved = batch.to("meta")
    assert moved.position_ids_B_T is not None
    assert moved.blocks[0].dense is not None
    for tensor in (
        moved.input_ids_B_T,
        moved.position_ids_B_T,
        moved.terms[0].coef_A,
        moved.blocks[0].dense.hidden_N_H,
    ):
        assert tensor.device.type == "meta"
    assert moved.terms[0].term == batch.terms[0].term


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        cut(prepared(method(), four_lengths()), 0)
    with pytest.raises(ValueError, match="teacher 'teacher', which gave only a Sampled block"):
        cut(prepared(method(), [record(episode([1]), Saying(kind="sampled"))]), 10)
    bare = episode([1])
    cropped = replace(
        bare.segments[0],
        **{
            name: getattr(bare.segments[0], name)[2:]
            for name in ("tokens_T", "turn_T", "actor_T", "trainable_T", "logprob_T")
        },
    )
    with pytest.raises(ValueError, match="first token is an action"):
        cut(prepared(method(**SFT), [record(replace(bare, segments=(cropped,)))]), 10)
