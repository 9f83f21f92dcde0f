"""Any data set of reasoning-gym: its questions can be asked, are the same for the same seed, and are scored by its own scorer."""

from collections import Counter
from typing import Any

import pytest

from agentopd.env import expert_action, has_expert, make, tools_of
from agentopd.errors import ConfigError
from agentopd.testing import check_text_env
from agentopd.tooling import call

pytest.importorskip("reasoning_gym", reason="pip install reasoning-gym, which needs a C compiler")
from reasoning_gym.factory import DATASETS

from agentopd.envs.reasoning_data import REFUSED, UNANSWERED

ID = "agentopd/Reasoning-v0"
DOZEN = (
    "acre basic_arithmetic boxnet caesar_cipher gcd graph_color gsm_symbolic lcm maze prime_factorization "
    "propositional_logic spell_backward"
)
ASKED = sorted({*DATASETS} - {*REFUSED})
SOME = [name if name in DOZEN.split() else pytest.param(name, marks=pytest.mark.slow) for name in ASKED]


@pytest.mark.parametrize("name", SOME)
def test_its_questions_are_asked_again_alike_and_its_known_answer_is_right(name: str) -> None:
    env, again = make(ID, families=[name], tools=[]), make(ID, families=[name], tools=[])
    assert tools_of(env).names == ("submit",)
    for seed in range(2):
        (question, info), same = env.reset(seed=seed), again.reset(seed=seed)
        assert (question, info) == same
        assert (len(question) > 5, info["family"]) == (True, name)
        assert has_expert(env) is (name not in UNANSWERED)
        if name in UNANSWERED:
            assert "privileged" not in info
        else:
            assert env.step(expert_action(env))[1:3] == (1.0, True)
            env.reset(seed=seed)
        for nonsense in ("", "nonsense xyz"):
            env.reset(seed=seed)
            said, reward, over, _, _ = env.step(call("submit", answer=nonsense))
            assert (over, 0.0 <= float(reward) <= 1.0) == (True, True)
            assert said == ("Right." if reward == 1 else "Partly right." if reward else "Wrong.")


def test_what_cannot_be_asked_says_why() -> None:
    for name, reason in REFUSED.items():
        with pytest.raises(ConfigError, match=f"families: {name} cannot be asked: {reason.split(';')[0]}"):
            make(ID, families=[name])


def test_families_are_drawn_by_weight() -> None:
    env = make(ID, families={"gcd": {"weight": 3}, "lcm": {}})
    drawn = Counter(env.reset(seed=seed)[1]["family"] for seed in range(400))
    assert drawn["gcd"] / 400 == pytest.approx(0.75, abs=0.07)


def test_a_part_of_the_answer_gets_a_part_of_the_reward_unless_it_is_not_graded() -> None:
    for kwargs, reward, success in (
        ({}, 0.75, False),
        ({"success": 0.7}, 0.75, True),
        ({"graded": False}, 0.0, False),
    ):
        env = make(ID, families={"chain_sum": {"min_digits": 3, "max_digits": 3}}, **kwargs)
        _, info = env.reset(seed=0)
        assert len(info["privileged"]["answer"]) == 3
        said, got, _, _, info = env.step(call("submit", answer=info["privileged"]["answer"] + "1"))
        assert (said, got, info["success"]) == ("Partly right.", reward, success)


def test_the_expert_uses_the_tools_that_there_are() -> None:
    steps: dict[int, list[str]] = {}
    for tools in (["calculator"], ["gcd", "calculator"], ["python"], []):
        env = make(ID, families=["lcm"], tools=tools)
        env.reset(seed=0)
        steps[len(steps)] = [step.split('"')[3] for step in env.reset(seed=0)[1]["privileged"]["steps"].splitlines()]
        assert tools_of(env).names[-1] == {"python": "python"}.get("".join(tools), "submit")
        while not env.step(expert_action(env))[2]:
            pass
    assert steps == {0: ["submit"], 1: ["gcd", "calculate", "submit"], 2: ["submit"], 3: ["submit"]}


def test_it_keeps_the_contract_with_tools_and_families_of_all_kinds() -> None:
    families = {"acre": {}, "basic_arithmetic": {"weight": 2}, "graph_color": {"num_colors": 4}}
    assert check_text_env(ID, families=families, tools=["calculator", "python"]).expert_rate == 1.0
    assert check_text_env(ID, families=["rush_hour"]).expert_rate is None


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (
            {"families": {"gcd": {"max_valeu": 3}}},
            r"families\.gcd\.max_valeu: .*did you mean 'max_value'.*, and weight$",
        ),
        ({"families": {"gcd": {"size": 3}}}, r"families\.gcd\.size: .*no such setting"),
        ({"families": {"gcd": {"weight": 0}}}, r"families\.gcd\.weight=0 must be a number above 0"),
        ({"families": ["soduku"]}, "families: 'soduku' is not known .did you mean 'sudoku'"),
        ({"tools": ["calculatr"]}, "tools: 'calculatr' is not known .did you mean 'calculator'"),
        ({"tools": "gcd"}, r"tools='gcd' must be a list of texts, such as \[gcd\]"),
        ({"success": 1.5}, "success=1.5 must be"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)
