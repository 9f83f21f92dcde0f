"""Buying what meets all wishes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import expert_action, make
from agentopd.envs.shop import VALUES, WISHES
from agentopd.errors import ConfigError
from agentopd.testing import HOSTILE, check_text_env
from agentopd.tooling import call

ID = "agentopd/Shop-v0"
ALL = {"wishes": 4, "products": 40, "distractors": 20}


@pytest.mark.parametrize("kwargs", [{}, {"wishes": 1}, ALL, {"products": 1, "distractors": 0}])
def test_it_keeps_the_contract(kwargs: dict[str, Any]) -> None:
    assert check_text_env(ID, **kwargs).expert_rate == 1.0


def catalogue(env: Any) -> dict[int, dict[str, Any]]:
    """Everything there is, by `open`."""
    found: dict[int, dict[str, Any]] = {}
    while (step := env.step(call("open", number=len(found) + 1)))[4]["errors"] == []:
        words, size, price = step[0].split(", ")
        colour, material, kind = words.split()
        found[len(found) + 1] = {
            "kind": kind,
            "colour": colour,
            "material": material,
            "size": size.removeprefix("size "),
            "price": int(price.removeprefix("price ")),
        }
    return found


def wishes(question: str) -> dict[str, Any]:
    kind, *others = question.removeprefix("Buy: ").removesuffix(".").split(", ")
    told = dict(other.replace("at most ", "").split() for other in others)
    return {"kind": kind} | told | ({"price": int(told["price"])} if "price" in told else {})


def met(product: dict[str, Any], asked: dict[str, Any]) -> list[bool]:
    return [product[name] <= asked[name] if name == "price" else product[name] == asked[name] for name in asked]


@pytest.mark.parametrize("count", range(1, 5))
def test_rewards_are_the_share_of_wishes(count: int) -> None:
    env = make(ID, wishes=count, max_episode_steps=-1)
    shares = set()
    for seed in range(8):
        question, info = env.reset(seed=seed)
        asked, products = wishes(question), catalogue(env)
        assert len(asked) == count + 1
        fitting = [number for number, product in products.items() if all(met(product, asked))]
        assert fitting
        assert info["privileged"] == {"products": fitting}
        missed = [np.sum(np.logical_not(met(product, asked))) for product in products.values()]
        assert missed.count(1) >= 4  # the distractors
        for number, product in products.items():
            env.reset(seed=seed)
            said, reward, terminated, _, info = env.step(call("buy", number=number))
            expected = np.mean(met(product, asked)) if product["kind"] == asked["kind"] else 0.0
            assert reward == pytest.approx(expected)
            assert (terminated, info["success"]) == (True, number in fitting)
            assert (said == "It meets all wishes.") == (number in fitting)
            shares.add(float(reward))
    assert {0.0, 1.0, count / (count + 1)} <= shares


@pytest.mark.parametrize("kwargs", [{}, {"wishes": 1}, ALL, {"products": 200, "distractors": 0, "wishes": 2}])
def test_the_expert_always_wins_in_few_turns(kwargs: dict[str, Any]) -> None:
    env = make(ID, **kwargs)
    for seed in range(100):
        env.reset(seed=seed)
        steps = [env.step(expert_action(env))]
        while not steps[-1][2]:
            steps.append(env.step(expert_action(env)))
        assert steps[-1][1] == 1.0
        assert len(steps) <= kwargs.get("wishes", 3) + 2


word = st.sampled_from(
    [value for values in VALUES.values() for value in values] + ["pink", "", "9", "50", "-1", "\u0663", "9" * 20]
)
student = st.one_of(
    st.sampled_from(HOSTILE),
    st.builds(lambda a, b: call("search", words=f"{a} {b}"), word, word),
    st.builds(
        lambda name, value: call("filter", attribute=name, value=value), st.sampled_from([*WISHES, "kind"]), word
    ),
    st.builds(lambda number: call("open", number=number), st.integers(-3, 40)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(student, max_size=6), st.integers(0, 1000))
def test_the_expert_goes_on_from_any_state(actions: list[str], seed: int) -> None:
    env = make(ID, wishes=4, max_episode_steps=100)
    env.reset(seed=seed)
    for action in actions:
        assert not env.step(action)[2]
    steps = [env.step(expert_action(env))]
    while not steps[-1][2]:
        steps.append(env.step(expert_action(env)))
        assert len(steps) < 12
    assert steps[-1][1] == 1.0


def test_a_search_and_filters_by_hand() -> None:
    env = make(ID, max_episode_steps=-1)
    env.reset(seed=3)
    products = catalogue(env)
    red = [n for n, product in products.items() if product["colour"] == "red"]
    assert env.step(call("filter", attribute="size", value="m"))[0] == "nothing is found yet; search first"
    assert env.step(call("search", words="RED"))[0].startswith(f"{len(red)} found: {red[0]} {products[red[0]]['kind']}")
    cheap = [n for n in red if products[n]["price"] <= 60]
    assert env.step(call("filter", attribute="price", value="60"))[0].startswith(f"{len(cheap)} found")
    assert env.step(call("filter", attribute="price", value="cheap"))[4]["errors"] == ["tool_error"]
    assert env.step(call("filter", attribute="colour", value="blue"))[0] == "0 found"
    assert env.step(call("buy", number=31))[0] == "no such product; numbers: 1 to 30"


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"wishes": 0}, "wishes=0 must be from 1 to 4"),
        ({"wishes": 5}, "wishes=5"),
        ({"products": 0}, "products=0 must be from 1 to 200"),
        ({"products": 201}, "products=201"),
        ({"distractors": -1}, "distractors=-1 must be at least 0"),
        ({"products": 4, "distractors": 4}, "distractors=4 .* below products=4"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)
