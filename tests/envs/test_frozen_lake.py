"""FrozenLake in words: the policy is optimal, also where it is slippery."""

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import MAPS, FrozenLakeEnv
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import expert_action, make
from agentopd.envs.frozen_lake import FrozenLake
from agentopd.errors import ConfigError
from agentopd.testing import HOSTILE, check_text_env
from agentopd.tooling import call

ID = "agentopd/FrozenLake-v0"


def lake(**kwargs: Any) -> FrozenLake:
    env = FrozenLake(**kwargs)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("kwargs", [{}, {"map_name": "8x8"}, {"size": 2}, {"size": 10, "p": 0.7}, {"p": 1.0}])
def test_the_expert_always_arrives_where_it_is_not_slippery(kwargs: dict[str, Any]) -> None:
    assert check_text_env(ID, **kwargs).expert_rate == 1.0


def test_it_conforms_where_it_is_slippery_too() -> None:
    assert (check_text_env(ID, is_slippery=True, map_name="4x4").expert_rate or 0) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID).unwrapped)


def test_the_small_map_by_hand() -> None:
    env = make(ID, map_name="4x4", discount=0.9)
    observation, info = env.reset(seed=0)
    here = "You: row 0, column 0. Goal: row 3, column 3. Left edge, down ice, right ice, up edge."
    assert observation == f"SFFF\nFHFH\nFFFH\nHFFG\n{here}"
    assert info["privileged"]["value"] == pytest.approx(0.9**5)  # six moves, of which the last is paid in full
    assert info["privileged"]["policy"].splitlines() == [
        "down/right, right, down, left",
        "down, hole, down, hole",
        "right, down/right, down, hole",
        "hole, right, right, goal",
    ]
    said = [env.step(call("move", direction=way)) for way in ("right", "right", "down", "down", "down", "right")]
    assert said[2][0] == "You: row 1, column 2. Goal: row 3, column 3. Left hole, down ice, right hole, up ice."
    assert [step[1] for step in said] == [0, 0, 0, 0, 0, 1]
    assert said[-1][0] == "You are at the goal."
    assert said[-1][2]
    assert said[-1][4]["success"] is True


def test_equal_directions_are_equally_probable() -> None:
    env = lake(map_name="4x4")
    assert env.expert_distribution() == {"down": 0.5, "right": 0.5}
    assert env.expert() == call("move", direction="down")
    env.step(call("move", direction="down"))
    assert env.expert_distribution() == {"down": 1.0}
    slippery = lake(map_name="4x4", is_slippery=True)
    slippery.lake.s = 6  # between two holes: left and right lead up, down, or into one of them
    assert slippery.expert_distribution() == {"left": 0.5, "right": 0.5}
    assert slippery.privileged()["policy"].splitlines()[1] == "left, hole, left/right, hole"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("success_rate", [1 / 3, 0.8])
def test_the_values_are_those_of_the_policy_and_no_other_is_better(seed: int, success_rate: float) -> None:
    """The policy's values from its linear equations satisfy Bellman's optimality equation (Puterman, 1994, theorem 6.2.2)."""
    env = FrozenLake(size=5, is_slippery=True, success_rate=success_rate, discount=0.98)
    env.reset(seed=seed)
    table, states = env.lake.P, 25
    chosen = env.values.argmax(axis=1)
    rewards_SA = np.array([[sum(p * r for p, _, r, _ in table[s][a]) for a in range(4)] for s in range(states)])
    onward_SAS = np.zeros((states, 4, states))
    for s in range(states):
        for a in range(4):
            for p, to, _, over in table[s][a]:
                onward_SAS[s, a, to] += p * (not over)
    rows = np.arange(states)
    values_S = np.linalg.solve(np.eye(states) - 0.98 * onward_SAS[rows, chosen], rewards_SA[rows, chosen])
    one_step_SA = rewards_SA + 0.98 * onward_SAS @ values_S
    assert np.allclose(one_step_SA.max(axis=1), values_S, atol=1e-10)
    assert np.allclose(env.values, one_step_SA, atol=1e-10)


def test_it_arrives_as_often_as_is_possible_where_it_is_slippery() -> None:
    """The chance to cross the small map is 14/17 with time without end; ``within`` computes that of Gymnasium's 100 moves."""
    env = make(ID, map_name="4x4", is_slippery=True, max_episode_steps=-1)
    n = 250
    lengths = [moves_to_the_goal(env, seed) for seed in range(n)]
    for limit, chance in ((1999, 14 / 17), (100, within(100))):
        rate = np.mean([length <= limit for length in lengths])
        assert abs(rate - chance) < 3 * np.sqrt(chance * (1 - chance) / n)
    env = make(ID, map_name="4x4", is_slippery=True, discount=1 - 1e-7)
    assert env.reset(seed=0)[1]["privileged"]["value"] == pytest.approx(14 / 17, abs=1e-5)


def moves_to_the_goal(env: gymnasium.Env[str, str], seed: int) -> float:
    env.reset(seed=seed)
    for turn in range(1, 2000):
        _, _, over, _, info = env.step(expert_action(env))
        if over:
            return turn if info["success"] else np.inf
    raise AssertionError("endless")


def within(moves: int) -> float:
    """The chance that the expert crosses the small map in time, by following all ways at once."""
    env, table = lake(map_name="4x4", is_slippery=True), FrozenLakeEnv(desc=MAPS["4x4"]).P
    arrived, chances = 0.0, {0: 1.0}
    for _ in range(moves):
        after: dict[int, float] = {}
        for state, chance in chances.items():
            for p, to, reward, over in table[state][int(env.values[state].argmax())]:
                arrived += chance * p * reward
                after[to] = after.get(to, 0.0) + chance * p * (not over)
        chances = after
    return arrived


def test_a_hole_ends_it_without_reward() -> None:
    env = make(ID, map_name="4x4")
    env.reset(seed=0)
    env.step(call("move", direction="right"))
    said, reward, over, _, info = env.step(call("move", direction="down"))
    assert (said, reward, over, info["success"]) == ("You fell into a hole.", 0.0, True, False)


def test_only_directions_are_taken() -> None:
    env = make(ID, map_name="4x4")
    first, _ = env.reset(seed=0)
    for wrong in ("Down", "north", "", 1, None, ["down"]):
        _, reward, over, _, info = env.step(call("move", direction=wrong))
        assert info["errors"] == ["bad_arguments"]
        assert (reward, over) == (0.0, False)
    assert env.step(call("move", direction="up"))[0] == first.splitlines()[-1]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([*HOSTILE, *(call("move", direction=way) for way in ("left", "up"))]), max_size=6),
    st.integers(0, 1000),
)
def test_the_expert_goes_on_from_anywhere(actions: list[str], seed: int) -> None:
    env = make(ID)
    env.reset(seed=seed)
    for action in actions:
        if env.step(action)[2]:
            return
    for _ in range(20):
        _, _, over, _, info = env.step(expert_action(env))
        if over:
            break
    assert info["success"] is True


def test_maps_are_generated_from_the_seed_and_those_of_gymnasium_are_as_they_are() -> None:
    env = make(ID, size=4)
    maps = [env.reset(seed=seed)[0].splitlines()[:4] for seed in range(40)]
    assert maps == [make(ID).reset(seed=seed)[0].splitlines()[:4] for seed in range(40)]
    assert len({tuple(rows) for rows in maps}) > 30
    assert make(ID, map_name="8x8").reset(seed=3)[0].splitlines()[:8] == MAPS["8x8"]


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"map_name": "5x5"}, "map_name='5x5' is not known; there are: 4x4, 8x8"),
        ({"size": 1}, "size=1 must be 2 to 10"),
        ({"size": 11}, "size=11"),
        ({"p": 0.5}, "p=0.5 must be 0.7 to 1"),
        ({"success_rate": 0.0}, "success_rate=0.0"),
        ({"discount": 1.0}, "discount=1.0 must be 0.8 to 0.9999999"),
        ({"discount": 0.1}, "discount=0.1 must be 0.8 to 0.9999999"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)
