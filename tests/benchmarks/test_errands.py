"""The environment of the benchmark of uncertainty conforms, and its kinds of turns are what they are called."""

from collections import Counter

import pytest

import agentopd
from agentopd.env import expert_action
from agentopd.testing import check_text_env
from agentopd.tooling import call
from benchmarks.errands import ID, UNAVAILABLE


@pytest.mark.parametrize("failure_rate", [0.0, 0.3])
def test_conforms(failure_rate: float) -> None:
    assert check_text_env(ID, failure_rate=failure_rate).expert_rate == 1.0


def test_expert_takes_each_order_equally_often() -> None:
    env, firsts = agentopd.make(ID), Counter[int]()
    for seed in range(600):
        listed = env.reset(seed=seed)[0].removeprefix("Left: ").removesuffix(".").split(", ")
        firsts[next(i for i, place in enumerate(listed) if place in expert_action(env))] += 1
    assert all(150 < firsts[i] < 250 for i in range(3))


def test_choices_are_the_turns_with_several_places_left() -> None:
    env, choosing = agentopd.make(ID), []
    env.reset(seed=0)
    over = False
    while not over:
        choosing.append(env.get_wrapper_attr("choosing"))
        _, _, over, _, _ = env.step(expert_action(env))
    assert choosing == [True, False, True, False, False, False, False]


def test_any_place_is_right_at_a_choice_and_one_action_elsewhere() -> None:
    env = agentopd.make(ID)
    places = env.reset(seed=1)[0].removeprefix("Left: ").removesuffix(".").split(", ")
    for place in places:
        env.reset(seed=1)
        assert env.step(call("go", place=place))[4]["errors"] == []
        for other in places:
            assert env.step(call("go", place=other))[4]["errors"] == ["tool_error"]


def test_a_failure_asks_for_the_same_once_more() -> None:
    env, seen = agentopd.make(ID, failure_rate=0.5), 0
    for seed in range(20):
        env.reset(seed=seed)
        over = False
        while not over:
            action = expert_action(env)
            _, _, over, truncated, info = env.step(action)
            over = over or truncated
            if info["errors"]:
                seen += 1
                assert info["errors"] == [UNAVAILABLE]
                assert expert_action(env) == action
                assert not env.get_wrapper_attr("choosing")
    assert seen > 50
