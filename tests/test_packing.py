"""Batches under a token budget, and their tensors."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.packing import Layout, batches, packed, padded

LENGTHS = st.lists(st.integers(0, 50), max_size=40)


@given(LENGTHS, st.integers(1, 200), st.sampled_from(["padded", "packed"]))
def test_every_sequence_once_within_the_budget_longest_first(
    lengths: list[int], max_tokens: int, layout: Layout
) -> None:
    cut = batches(lengths, max_tokens, layout)
    assert sorted(i for batch in cut for i in batch) == [i for i, length in enumerate(lengths) if length]
    for batch in cut:
        inside = [lengths[i] for i in batch]
        assert inside == sorted(inside, reverse=True)
        assert len(batch) == 1 or (len(batch) * inside[0] if layout == "padded" else sum(inside)) <= max_tokens
    assert all(lengths[one[0]] >= lengths[other[0]] for one, other in pairwise(cut))
    if layout == "padded":
        assert all(lengths[one[-1]] >= lengths[other[0]] for one, other in pairwise(cut))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_equal_lengths_keep_their_order(layout: Layout) -> None:
    assert batches([3, 5, 3, 5, 3], 10, layout) == [[1, 3], [0, 2, 4]]


def test_padded_batches_are_as_few_as_their_order_allows() -> None:
    assert batches([3, 9, 4, 2], 10) == [[1], [2, 0], [3]]


def test_packed_batches_take_whatever_fits_the_first_that_has_room() -> None:
    assert batches([5, 9, 4, 1], 10, "packed") == [[1, 3], [0, 2]]


def test_nothing_is_no_batch_and_no_budget_an_error() -> None:
    assert batches([], 10) == batches([0, 0], 10) == []
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        batches([3], 0)


def test_padding_stands_on_the_right() -> None:
    sequences = [np.array([5, 6, 7], np.int32), np.array([8], np.int32)]
    assert padded(sequences).tolist() == [[5, 6, 7], [8, 0, 0]]
    assert packed(sequences).tolist() == [[5, 6, 7, 8]]
    assert str(padded(sequences).dtype) == str(packed(sequences).dtype) == "torch.int64"
