"""Every shipped environment conforms, and its expert recovers from whatever a student did."""

import importlib
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd import envs
from agentopd.env import expert_action, make, tools_of
from agentopd.envs import ENVS
from agentopd.errors import ConfigError
from agentopd.testing import HOSTILE, check_text_env
from agentopd.tooling import call
from agentopd.types import Message

HERE = ["agentopd/Calculator-v0", "agentopd/Checkout-v0"]
"""Those that are tested here; each of the others has a file of its own."""

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((id, {}) for id in HERE),
    ("agentopd/Checkout-v0", {"items": 1, "failure_rate": 0.0}),
    ("agentopd/Checkout-v0", {"items": 5}),
    ("agentopd/Checkout-v0", {"items": 12, "failure_rate": 0.0}),
    ("agentopd/Calculator-v0", {"depth": 1}),
    ("agentopd/Calculator-v0", {"depth": 16, "distractors": 40}),
    ("agentopd/Calculator-v0", {"depth": 5, "distractors": 3, "failure_rate": 0.2}),
]


@pytest.mark.parametrize(("id", "kwargs"), SETTINGS)
def test_conforms(id: str, kwargs: dict[str, Any]) -> None:
    assert (check_text_env(id, **kwargs).expert_rate or 0) >= 0.95


@pytest.mark.parametrize("id", HERE)
def test_gymnasium_finds_nothing_to_warn_of(id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(id).unwrapped)


@pytest.mark.parametrize("id", HERE)
def test_expert_needs_at_least_four_turns_and_always_wins(id: str) -> None:
    env = make(id)
    for seed in range(100):
        turns, info = finish(env, seed)
        assert turns >= 4
        assert info["success"] is True


def finish(env: gymnasium.Env[str, str], seed: int | None) -> tuple[int, dict[str, Any]]:
    """Lets the expert play on (from ``reset`` where a seed is given)."""
    if seed is not None:
        env.reset(seed=seed)
    for turn in range(1, 100):
        _, _, terminated, truncated, info = env.step(expert_action(env))
        if terminated or truncated:
            return turn, info
    raise AssertionError("endless")


numbers = st.integers(-200, 2000)
student = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=20),
    st.builds(lambda item: call("price", item=item), st.sampled_from(["pears", "plums", "apples", "stones"])),
    st.builds(lambda a, b, op: call("calculate", expression=f"{a}{op}{b}"), numbers, numbers, st.sampled_from("+-*/")),
    st.builds(lambda text: call("calculate", expression=text), st.text(max_size=9)),
    st.just("expert"),
)


@settings(max_examples=60)
@given(st.sampled_from(HERE), st.lists(student, max_size=6), st.integers(0, 10_000))
def test_expert_recovers_from_any_state(id: str, actions: list[str], seed: int) -> None:
    env = make(id, failure_rate=0.3, max_episode_steps=200)
    env.reset(seed=seed)
    for action in actions:
        assert not env.step(expert_action(env) if action == "expert" else action)[2] or action == "expert"
        if env.unwrapped._over:  # type: ignore[attr-defined]
            return
    assert finish(env, None)[1]["success"] is True


@pytest.mark.parametrize(
    ("id", "action"),
    [
        ("agentopd/Checkout-v0", call("price", item="pears")),
        ("agentopd/Checkout-v0", call("calculate", expression="1+1")),
        ("agentopd/Calculator-v0", call("calculate", expression="1+1")),
    ],
)
def test_tools_fail_as_often_as_asked(id: str, action: str) -> None:
    def rate(failure_rate: float) -> float:
        env = make(id, failure_rate=failure_rate, max_episode_steps=-1)
        env.reset(seed=0)
        steps = [env.step(action) for _ in range(500)]
        failed = [step[0] == "unavailable, try again" for step in steps]
        assert failed == [step[4]["errors"] == ["tool_error"] for step in steps]
        return float(np.mean(failed))

    assert rate(0.0) == 0.0
    assert rate(0.25) == pytest.approx(0.25, abs=0.06)  # three standard errors


def test_checkout_by_hand() -> None:
    env = make("agentopd/Checkout-v0", failure_rate=0.0)
    observation, info = env.reset(seed=5)
    prices = info["privileged"]["prices"]
    (first, one), (second, two) = prices.items()
    words = observation.removeprefix("What do ").removesuffix(" cost?").split(" and ")
    quantities = [int(word.split()[0]) for word in words]
    assert [word.split()[1] for word in words] == [first, second]
    assert all(11 <= price <= 54 for price in prices.values())
    assert all(2 <= quantity <= 9 for quantity in quantities)
    assert env.step(call("price", item=second))[0] in {f"{two}", f"it costs {two}"}
    assert expert_action(env) == call("price", item=first)
    env.step(call("price", item=first))
    expression = f"{quantities[0]}*{one}+{quantities[1]}*{two}"
    assert expert_action(env) == call("calculate", expression=expression)
    total = quantities[0] * one + quantities[1] * two
    assert env.step(call("calculate", expression=expression))[0] in {f"{total}", f"it is {total}"}
    assert expert_action(env) == call("submit", total=total)
    assert env.step(call("submit", total=total))[1:3] == (1.0, True)


def test_checkout_words_its_answers_in_turn() -> None:
    env = make("agentopd/Checkout-v0", failure_rate=0.0)
    env.reset(seed=0)
    answers = {env.step(call("calculate", expression="1+1"))[0] for _ in range(40)}
    assert answers == {"2", "it is 2"}


def test_checkout_pays_for_the_total_only() -> None:
    env = make("agentopd/Checkout-v0")
    _, info = env.reset(seed=0)
    answer = info["privileged"]["answer"]
    assert env.step(call("submit", total=answer + 1))[1] == 0.0
    env.reset(seed=0)
    assert env.step(call("submit", total=answer))[1] == 1.0


def test_checkout_prices_cannot_be_learnt_by_heart() -> None:
    env = make("agentopd/Checkout-v0", items=12)
    seen = np.array([list(sorted_prices(env.reset(seed=seed)[1])) for seed in range(200)])
    assert (seen.std(axis=0) > 10).all()


def sorted_prices(info: dict[str, Any]) -> list[int]:
    prices = info["privileged"]["prices"]
    return [prices[name] for name in sorted(prices)]


def test_calculator_does_one_operation_at_a_time() -> None:
    env = make("agentopd/Calculator-v0", depth=2)
    env.reset(seed=0)
    observation, _, _, _, info = env.step(call("calculate", expression="1+2*3"))
    assert observation == "one operation at a time: two numbers with +, - or * between"
    assert info["errors"] == ["tool_error"]
    assert env.step(call("calculate", expression=" -3 * -4 "))[0] == "12"


def test_calculator_chain_is_what_it_says() -> None:
    words = {"Add": lambda a, b: a + b, "Subtract": lambda a, b: a - b, "Multiply": lambda a, b: a * b}
    for seed in range(20):
        observation, info = make("agentopd/Calculator-v0", depth=4, distractors=3).reset(seed=seed)
        value, steps = 0, []
        for sentence in observation.removesuffix(".").split(". "):
            first, *_, last = sentence.split()
            if first == "Start":
                value = int(last)
            elif first in words:
                value = words[first](value, int(last))
                steps.append(value)
        assert info["privileged"] == {"steps": steps, "answer": value}
        assert len(steps) == 4
        assert len(observation.split(". ")) == 8


@pytest.mark.parametrize(
    ("id", "kwargs"),
    [
        ("agentopd/Checkout-v0", {"items": 13}),
        ("agentopd/Checkout-v0", {"failure_rate": 1.0}),
        ("agentopd/Calculator-v0", {"depth": 0}),
        ("agentopd/Calculator-v0", {"distractors": -1}),
        ("agentopd/Calculator-v0", {"failure_rate": -0.1}),
    ],
)
def test_settings_are_checked(id: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        make(id, **kwargs)


def test_registration_can_run_twice(recwarn: pytest.WarningsRecorder) -> None:
    importlib.reload(envs)
    assert not recwarn.list
    assert set(ENVS) <= set(gymnasium.registry)


@pytest.mark.parametrize("id", HERE)
def test_the_conversation_is_short(id: str) -> None:
    """A tiny model reads it all: the tokens of every turn are paid for in training time."""
    env = make(id)
    _, info = env.reset(seed=0)
    messages: list[Message] = info["messages"]
    assert len(str(tools_of(env).schemas)) < 1000
    assert all(len(message["content"]) < 100 for message in messages)
