"""Questions over pages: each is answered by following them, and only by the right answer."""

import json
import re
import sys
from typing import Any

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import expert_action, make
from agentopd.envs.search_world import LINKS, SENTENCES, VALUES
from agentopd.errors import ConfigError
from agentopd.testing import check_text_env
from agentopd.tooling import call
from agentopd.tools.search import Library

ID = "agentopd/Search-v0"
KWARGS: list[dict[str, Any]] = [{}, {"hops": 1, "size": 4}, {"hops": 2, "results": 1}, {"hops": 3, "size": 30}]


def library_of(env: gymnasium.Env[str, str]) -> Library:
    library: Library = env.get_wrapper_attr("library")
    return library


def followed(question: str, pages: dict[str, str]) -> str:
    """The answer, read off the pages by the words of the question alone."""
    found = re.fullmatch(r"What is the (.+)\?", question)
    assert found
    *links, at = found[1].rsplit(" of ", found[1].count(" of "))
    words = " of ".join(links).replace("the ", "").split(" of ")
    merged: list[str] = []
    for word in words:  # "year of birth" is one of them
        merged = [*merged[:-1], f"{merged[-1]} of {word}"] if merged and merged[-1] == "year" else [*merged, word]
    for link in reversed(merged):
        pattern = re.escape(SENTENCES[link]).replace(r"\{\}", "([^.]+)")
        matches = [match for match in re.findall(pattern, pages[at]) if not match.startswith("the year")]
        (at,) = matches
    return at


@pytest.mark.parametrize("kwargs", KWARGS, ids=str)
def test_the_expert_always_wins_by_the_steps_that_are_privileged(kwargs: dict[str, Any]) -> None:
    env = make(ID, **kwargs)
    for seed in range(40):
        question, info = env.reset(seed=seed)
        assert followed(question, library_of(env).pages) == info["privileged"]["answer"]
        steps = [json.loads(step) for step in info["privileged"]["steps"].splitlines()]
        hops = (len(steps) - 1) // 2
        assert info["family"] == ("1 hop" if hops == 1 else f"{hops} hops")
        assert hops == kwargs.get("hops", hops)
        for number, step in enumerate(steps, start=1):
            action = expert_action(env)
            assert action == call(step["name"], **step["arguments"])
            said, reward, over, _, info = env.step(action)
            assert (reward, over, info["errors"]) == (float(number == len(steps)), number == len(steps), [])
            if step["name"] == "search":  # the page that is sought comes first
                assert said.startswith(f"{step['arguments']['query']}: ")


def test_it_keeps_the_contract() -> None:
    assert check_text_env(ID).expert_rate == 1.0


def test_each_family_is_asked() -> None:
    env = make(ID)
    families = [env.reset(seed=seed)[1]["family"] for seed in range(90)]
    assert {family: families.count(family) > 15 for family in families} == {
        "1 hop": True,
        "2 hops": True,
        "3 hops": True,
    }


def test_what_is_said_has_a_sentence_and_nothing_privileged_is_told() -> None:
    assert {*SENTENCES} == {name for kind in LINKS for name in (*LINKS[kind], *VALUES[kind])}
    env = make(ID, size=6)
    for seed in range(100):
        question, info = env.reset(seed=seed)
        assert info["privileged"]["answer"] not in question


def test_only_the_right_answer_is_paid() -> None:
    env = make(ID, hops=2)
    answer = env.reset(seed=1)[1]["privileged"]["answer"]
    for given_, reward in [
        (answer, 1.0),
        (f" The {answer.upper()}. ", 1.0),
        ("", 0.0),
        (f"{answer}x", 0.0),
        ("the", 0.0),
    ]:
        env.reset(seed=1)
        _, paid, over, _, info = env.step(call("answer", answer=given_))
        assert (paid, over, info["success"]) == (reward, True, reward == 1.0)


def test_worlds_share_nothing_between_episodes() -> None:
    env = make(ID)
    env.reset(seed=0)
    before = dict(library_of(env).pages)
    env.reset(seed=1)
    assert not before.items() & library_of(env).pages.items()
    assert library_of(env).asked == library_of(env).opened == set()
    env.reset(seed=0)
    assert library_of(env).pages == before


deeds = st.one_of(
    st.just("expert"),
    st.builds(lambda query: call("search", query=query), st.sampled_from(["", "town", "was born in", "river year"])),
    st.builds(lambda title: call("open", title=title), st.sampled_from(["", "town", "x"])),
    st.sampled_from(["", "x", "<tool_call>"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(deeds, max_size=8), st.integers(0, 10_000))
def test_expert_recovers_from_whatever_was_done(done: list[str], seed: int) -> None:
    env = make(ID, size=5, max_episode_steps=-1)
    env.reset(seed=seed)
    over = False
    for deed in [*done, *["expert"] * 7]:
        if not over:
            _, reward, over, _, _ = env.step(expert_action(env) if deed == "expert" else deed)
    assert (over, reward) == (True, 1.0)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"hops": 0}, "hops=0 must be from 1 to 3"),
        ({"hops": 4}, "hops=4 must be"),
        ({"size": 3}, "size=3 must be from 4 to 100"),
        ({"size": 101}, "size=101 must be"),
        ({"results": 0}, "results=0 must be from 1 to 20"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match="pip install bm25s"):
        make(ID)
