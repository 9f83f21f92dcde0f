"""Optimal play from tables of transitions."""

import numpy as np
import pytest

from agentopd.env import expert_action, has_expert, make
from agentopd.env.planning import best, values_of
from agentopd.testing import check_text_env


def test_values_by_hand() -> None:
    """State 0: stay for 0, or a fair coin between the end for 2 and state 1. State 1: the end for 1, or back for -1."""
    table = {
        0: {0: [(1.0, 0, 0.0, False)], 1: [(0.5, 1, 2.0, True), (0.5, 1, 0.0, False)]},
        1: {0: [(1.0, 0, 1.0, True)], 1: [(1.0, 0, -1.0, False)]},
    }
    assert np.allclose(values_of(table, 0.5), [[0.625, 1.25], [1.0, -0.375]])
    assert np.allclose(values_of(table, 0.9), [[1.305, 1.45], [1.0, 0.305]])
    assert best(np.array([1.0, 2.0, 2.0 - 1e-12])) == [1, 2]


@pytest.mark.parametrize("id", ["Taxi-v4", "CliffWalking-v1"])
def test_experts_of_tables_always_arrive(id: str) -> None:
    report = check_text_env(id)
    assert report.expert_rate == 1.0
    if id == "CliffWalking-v1":
        assert report.expert_turns == 13  # up, eleven to the right, down: none is shorter without falling


def test_taxi_is_driven_as_short_as_can_be() -> None:
    """Against breadth-first search over the same table, from every state that an episode may begin in."""
    env = make("Taxi-v4")
    env.reset(seed=0)
    table = env.unwrapped.P  # type: ignore[attr-defined]
    distance = {state: 0 for state, row in table.items() if any(o[3] for outs in row.values() for o in outs)}
    distance = dict.fromkeys(distance, 1)
    changed = True
    while changed:
        changed = False
        for state, row in table.items():
            shorter = 1 + min(distance.get(outs[0][1], 999) for outs in row.values())
            if shorter < distance.get(state, 999):
                distance[state], changed = shorter, True
    for seed in range(25):
        env.reset(seed=seed)
        least, moves, over = distance[int(env.unwrapped.s)], 0, False  # type: ignore[attr-defined]
        while not over:
            _, _, over, _, _ = env.step(expert_action(env))
            moves += 1
        assert moves == least


def test_a_game_without_a_table_has_no_expert() -> None:
    assert not has_expert(make("Blackjack-v1"))
