"""Questions of reasoning-gym with tools."""

import json
import re
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from agentopd.env import expert_action, make
from agentopd.errors import ConfigError
from agentopd.testing import check_text_env
from agentopd.tooling import call

pytest.importorskip("reasoning_gym", reason="pip install reasoning-gym, which needs a C compiler")
from agentopd.envs.reasoning import FAMILIES

ID = "agentopd/Reasoning-v0"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_worked_steps_lead_to_the_right_answer(family: str) -> None:
    env = make(ID, families=[family])
    for seed in range(60):
        _, info = env.reset(seed=seed)
        steps = info["privileged"]["steps"].splitlines()
        for number, step in enumerate(steps):
            said, reward, terminated, _, _ = env.step(expert_action(env))
            assert (reward, terminated) == ((1.0, True) if number == len(steps) - 1 else (0.0, False))
            assert terminated or step.endswith(f"}} -> {said}")
        assert json.loads(steps[-1]) == {"name": "submit", "arguments": {"answer": info["privileged"]["answer"]}}
        assert 2 <= len(steps) <= 3


def test_the_expert_makes_no_use_of_tools_that_are_only_called_alike() -> None:
    env = make(ID, families=["chain_sum"], tools=["agentopd.tools.calculator:calculate"])
    for seed in range(3):
        _, info = env.reset(seed=seed)
        assert len(info["privileged"]["steps"].splitlines()) == 1
        assert env.step(expert_action(env))[1:3] == (1.0, True)


WHILE_IMPORTED = """
import sys, threading
from agentopd.env import make

importing = threading.Thread(target=__import__, args=("reasoning_gym",))
importing.start()
while "reasoning_gym.factory" not in sys.modules:
    assert importing.is_alive()
assert importing.is_alive()
make("agentopd/Reasoning-v0", families=["zebra_puzzles", "chain_sum"])
"""


def test_it_can_be_made_while_another_thread_still_imports_the_data_sets() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WHILE_IMPORTED],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_it_keeps_the_contract() -> None:
    assert check_text_env(ID).expert_rate == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ID).unwrapped)


def test_a_wrong_answer_ends_it_without_reward() -> None:
    env = make(ID, families=["lcm"])
    env.reset(seed=0)
    said, reward, terminated, _, info = env.step(call("submit", answer="-1"))
    assert (said, reward, terminated, info["success"]) == ("Wrong.", 0.0, True, False)


def test_the_expert_goes_on_after_steps_of_ones_own() -> None:
    env = make(ID, families=["simple_equations"])
    _, info = env.reset(seed=1)
    env.step(call("calculate", expression="1+1"))
    env.step(call("calculate", expression="(1"))
    while not env.step(expert_action(env))[2]:
        pass
    assert "submit" in info["privileged"]["steps"]


def test_questions_differ_between_neighbouring_seeds() -> None:
    env = make(ID)
    questions = [env.reset(seed=seed)[0] for seed in range(300)]
    assert len(set(questions)) >= 299


def test_settings_of_a_family_reach_its_dataset() -> None:
    env = make(ID, families={"chain_sum": {"min_terms": 5, "max_terms": 5}})
    question, _ = env.reset(seed=0)
    assert len(re.findall(r"\d+", question)) == 5


@pytest.mark.parametrize(
    ("families", "match"),
    [
        (["chain_sums"], "'chain_sums' is not known.*chain_sum"),
        ([], "families is empty"),
        ("lcm", r"families='lcm' must be a list .*, such as \[lcm\]"),
        ({"lcm": None}, "families.lcm=None: give settings of its data set, or {} for none"),
        ({"lcm": {"max_valeu": 3}}, r"families\.lcm\.max_valeu: reasoning-gym refuses it"),
        ({"lcm": {"min_value": 0}}, "families.lcm: reasoning-gym refuses"),
    ],
)
def test_wrong_families_are_told(families: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, families=families)
