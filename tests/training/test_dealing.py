"""Micro-batches are dealt evenly, by number first and then by cost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentopd.objective.batch import Passed
from agentopd.training.loop.dealing import cost, deal


@pytest.mark.parametrize(
    ("costs", "size", "expected"),
    [
        ([5, 4, 3, 3, 3], 2, [[0, 3], [1, 2, 4]]),  # 5 | 4, | 4 3, 5 3 |, and the last to 7 rather than 8
        ([9, 1, 1, 1], 2, [[0, 3], [1, 2]]),  # two each, though one has most of the work
        ([2, 7], 3, [[1], [0], []]),
        ([], 2, [[], []]),
        ([1, 2, 3], 1, [[2, 1, 0]]),
    ],
)
def test_the_costliest_go_first_to_whoever_has_least(costs: list[float], size: int, expected: list[list[int]]) -> None:
    assert deal(costs, size) == expected


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 5))
def test_everything_is_dealt_once_and_nobody_has_two_more_than_needed(costs: list[int], size: int) -> None:
    dealt = deal(costs, size)
    assert sorted(i for one in dealt for i in one) == list(range(len(costs)))
    assert max(map(len, dealt)) == -(-len(costs) // size)


def _passed(ids_B_T: torch.Tensor, positions_B_T: torch.Tensor | None) -> Passed:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Passed(ids_B_T, positions_B_T, nothing, nothing, nothing, nothing)


def test_long_sequences_cost_more_than_as_many_tokens_in_short_ones() -> None:
    long, short = torch.zeros(1, 12, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    assert cost(_passed(long, None), 2) == 12 + (12 * 13 / 2) / 12
    assert cost(_passed(short, None), 2) == 12 + 3 * (4 * 5 / 2) / 12
    positions_B_T = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]])
    assert cost(_passed(long, positions_B_T), 2) == cost(_passed(short, None), 2)
