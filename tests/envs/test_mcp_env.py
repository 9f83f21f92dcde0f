"""Tasks with the tools of MCP servers: shared and fresh, side by side, in every process alike."""

import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from mcp_cases import by_hand, children

from agentopd.chat import Chat
from agentopd.env import expert_action, make
from agentopd.envs.mcp import Episode
from agentopd.envs.mcp_warehouse import count, find
from agentopd.envs.warehouse import task
from agentopd.errors import ConfigError, EnvError
from agentopd.models import build_tokenizer
from agentopd.rollout import Assignment, Rollout, ScriptedPolicy, collect
from agentopd.testing import check_text_env
from agentopd.tooling import call
from agentopd.types import Key, Task

ID = "agentopd/Mcp-v0"
WAREHOUSE: dict[str, Any] = {
    "servers": {"warehouse": {"module": "agentopd.envs.mcp_warehouse", "fresh": False, "start_limit": 120.0}},
    "tasks": "agentopd.envs.warehouse:task",
}
NOTES: dict[str, Any] = {"servers": {"notes": by_hand()}}


def test_the_tasks_make_no_server_which_would_set_up_logging() -> None:
    code = "import agentopd.envs.warehouse, logging, sys; assert 'mcp' not in sys.modules; assert not logging.root.handlers"
    subprocess.run([sys.executable, "-c", code], check=True)


WRITE = {"name": "write", "arguments": {"name": "a", "text": "x"}}


def kept(episode: Episode) -> tuple[float, bool]:
    """Half for each note that was written as the task says; looked up on the server."""
    assert [each.name for each in episode.calls if each.error is None][:1] in ([], ["write"])
    right = episode.ask("read") == episode.task["notes"]
    return 0.5 + 0.5 * right, right


def text(episode: Episode) -> str:
    return "much"


def broken(episode: Episode) -> bool:
    raise KeyError("gone")


def draw(generator: np.random.Generator) -> dict[str, Any]:
    """A task whose note is drawn, for servers by hand."""
    word = f"w{generator.integers(10**6)}"
    return {
        "question": "Write the word of the task, then read.",
        "answer": word,
        "calls": [{"name": "write", "arguments": {"name": "a", "text": word}}, {"name": "read", "arguments": {}}],
    }


def test_the_shipped_server_keeps_the_contract() -> None:
    report = check_text_env(ID, time_limit=120.0, **WAREHOUSE)
    assert (report.expert_rate, report.expert_turns, report.tools) == (1.0, 3.0, ("find", "count", "answer"))


def test_so_does_one_of_which_each_episode_has_its_own() -> None:
    assert (
        check_text_env(
            ID, time_limit=60.0, servers={"notes": by_hand(tools=["write", "read"])}, tasks=f"{__name__}:draw"
        ).expert_rate
        == 1.0
    )


def test_tasks_of_the_warehouse_by_hand() -> None:
    for seed in range(20):
        asked = task(np.random.default_rng(seed))
        (_, first), (_, second) = (step.values() for step in asked["calls"])
        assert find(**first) == f"shelf {second['shelf']}"
        assert count(**second) == f"{asked['answer']} {first['item']}"
        assert asked["question"] == f"How many {first['item']} are in warehouse {first['warehouse']}?"


def test_what_reset_is_given_is_the_task() -> None:
    env = make(ID, **NOTES)
    options = {"question": "What?", "answer": ["3.50", "three and a half"], "calls": [WRITE]}
    observation, info = env.reset(seed=0, options=options)
    assert observation == "What?"
    assert info["privileged"]["steps"].splitlines() == [
        '{"name": "write", "arguments": {"name": "a", "text": "x"}}',
        '{"name": "answer", "arguments": {"answer": "3.50"}}',
    ]
    assert expert_action(env) == call("write", name="a", text="x")
    assert env.step(expert_action(env))[0] == '{"a": "x"}'
    assert expert_action(env) == call("answer", answer="3.50")
    for given, reward in [("3.5", 1.0), (" Three  and a HALF", 1.0), ("3.51", 0.0), ("snan", 0.0), ("", 0.0)]:
        env.reset(seed=0, options=options)
        _, paid, over, _, info = env.step(call("answer", answer=given))
        assert (paid, over, info["success"]) == (reward, True, reward == 1.0)
    env.close()


def test_an_expert_makes_a_call_as_often_as_the_task_says() -> None:
    env = make(ID, **NOTES, verifier=f"{__name__}:broken")
    read = {"name": "read", "arguments": {}}
    env.reset(seed=0, options={"question": "Twice.", "answer": "x", "calls": [read, WRITE, read]})
    made = []
    for _ in range(3):
        made.append(expert_action(env))
        env.step(made[-1])
    assert made == [call("read"), call("write", name="a", text="x"), call("read")]
    assert expert_action(env) == call("answer", answer="x")
    env.reset(seed=0, options={"question": "Twice.", "calls": [read], "answer": None})
    with pytest.raises(EnvError, match=r"the task 'Twice\.' has no answer: an expert"):
        expert_action(env)
    env.close()


def test_a_verifier_sees_calls_and_server() -> None:
    env = make(ID, **NOTES, verifier=f"{__name__}:kept")
    for calls, reward in [((), 0.5), ((call("write", name="a", text="x"),), 1.0)]:
        env.reset(seed=0, options={"question": "Write x.", "notes": '{"a": "x"}'})
        for action in calls:
            env.step(action)
        _, paid, over, _, info = env.step(call("answer", answer="done"))
        assert (paid, over, info["success"]) == (reward, True, reward == 1.0)
    env.close()


@pytest.mark.parametrize(
    ("options", "verifier", "told"),
    [
        ({}, None, "the task has no question"),
        ({"question": "a"}, None, "has no answer"),
        ({"question": "a", "answer": "b", "calls": ["x"]}, None, "calls: 'x' is none; the form is"),
        ({"question": "a", "answer": "b", "calls": 7}, None, "calls: 7 is no list of"),
        ({"question": "a"}, "text", "a reward must be a finite number"),
        ({"question": "a"}, "broken", "the verifier raised KeyError: 'gone'"),
    ],
)
def test_a_task_or_verifier_that_is_wrong_is_the_environments_fault(options: Any, verifier: Any, told: str) -> None:
    env = make(ID, **NOTES, verifier=verifier and f"{__name__}:{verifier}")

    def play() -> None:
        env.reset(seed=0, options=options)
        env.step(call("answer", answer="b"))

    with pytest.raises(EnvError, match=told):
        play()
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({"servers": {}}, "servers={}: give at least one"),
        ({"servers": {"a": "b"}}, "servers.a='b': give its settings"),
        ({"servers": {"a": {"ur": "b"}}}, r"servers.a: ur: unknown key \(did you mean 'url'\?\)"),
        ({**NOTES, "verifier": "json:nothing"}, "verifier: cannot import 'json:nothing'"),
        ({**NOTES, "tasks": "x"}, "tasks: cannot import 'x'.*rows of a file are given by env.data"),
    ],
)
def test_settings_are_checked(kwargs: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make(ID, **kwargs)


def test_names_that_clash_need_a_prefix() -> None:
    env = make(ID, servers={"a": by_hand(), "b": by_hand()})
    with pytest.raises(
        ConfigError, match=r"servers.b: its tool 'write' is called like one of servers.a; give servers.b.prefix"
    ):
        env.reset(seed=0, options={"question": "a", "answer": "b"})
    env.close()
    env = make(ID, servers={"a": by_hand(tools=["read"]), "b": by_hand(prefix="b_")})
    env.reset(seed=0, options={"question": "a", "answer": "b"})
    assert env.get_wrapper_attr("tools").names == ("read", "b_write", "b_read", "b_leave", "answer")
    env.step(call("b_write", name="n", text="t"))
    assert (env.step(call("read"))[0], env.step(call("b_read"))[0]) == ("{}", '{"n": "t"}')
    env.close()


def test_sixteen_side_by_side_share_nothing_and_leave_nothing() -> None:
    chat = Chat(build_tokenizer([WAREHOUSE["tasks"], call("write", name="a", text="w1")], vocab_size=600))
    before = children()  # of environments of other tests, which nobody closed
    tasks = [Task(ID, seed=i, kwargs=NOTES | {"tasks": f"{__name__}:draw"}) for i in range(16)]
    made = [Assignment(each, Key("run", 0, i), "expert", seed=i, source="fresh") for i, each in enumerate(tasks)]
    settings = Rollout(max_turns=8, time_limit=60.0, max_length=4000, max_new_tokens=200, concurrency=16)
    trajectories = collect(made, {}, chat, settings)
    assert [each.outcome.success for each in trajectories] == [True] * 16
    read = [each.turns[1].observations[0]["content"] for each in trajectories]
    assert len(set(read)) == 16
    leaving = Assignment(tasks[0], Key("run", 0, 99), "student", seed=0, source="fresh")
    said = [*chat.tokenizer.encode(call("leave"), add_special_tokens=False), chat.end_of_turn]
    [gone] = collect(
        [leaving], {"student": ScriptedPolicy([said])}, chat, settings.model_copy(update={"max_failures": 1.0})
    )
    assert gone.failure is not None
    assert (gone.failure.boundary, "notes: no disk" in gone.failure.message) == ("env", True)
    for _ in range(100):
        if not children() - before:
            return
        time.sleep(0.1)
    raise AssertionError(f"{len(children() - before)} servers are left")


SCRIPT = f"""
from agentopd.env import expert_action, make
env = make("{ID}", **{WAREHOUSE!r})
for seed in range(3):
    print(env.reset(seed=seed), env.step('<tool_call>{{"name": "find", "arguments": {{}}}}</tool_call>'))
    over = False
    while not over:
        action = expert_action(env)
        *said, over, _, info = env.step(action)
        print(action, said, info)
"""


def test_a_seed_is_an_episode_in_every_process() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": str(number)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in range(2)
    ]
    assert told[0] == told[1]
    assert told[0].count("'success': True") == 3
