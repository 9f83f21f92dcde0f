"""BFCL's multi-turn tasks: its ground truth is paid, by its own checker."""

import inspect
import json
import re
import sys
from typing import Any

import pytest
from bfcl_cases import ID, replay, started
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import expert_action, make, tools_of
from agentopd.env.splits import SEEDS_PER_SPLIT, SPLITS
from agentopd.errors import ConfigError
from agentopd.testing import check_text_env
from agentopd.tooling import call, parse_action, render_action

pytest.importorskip("bfcl_eval", reason="pip install --no-deps bfcl-eval")

from agentopd.envs.bfcl import DONE, LACKING
from agentopd.envs.bfcl_rows import CATEGORIES, functions_of, module_of, official, row_of, rows_in, rows_of

FEW = [0, 38, 49, 90, 102, 147, 167, 173]
"""Among them positional arguments, a truth that calls what is withheld, one that gives text for a number, and one with nothing to do."""
KINDS = sorted({kind for row in rows_of("base").values() for kind in row.classes})


@pytest.mark.parametrize("number", FEW)
@pytest.mark.parametrize("category", CATEGORIES)
def test_the_ground_truth_is_paid(category: str, number: int) -> None:
    replay(row_of(f"multi_turn_{category}_{number}"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("category", CATEGORIES)
def test_every_ground_truth_is_paid(category: str, parallel: bool) -> None:
    rows = rows_of(category)
    assert len(rows) == 200
    for row in rows.values():
        replay(row, parallel)


def test_it_keeps_the_contract() -> None:
    assert check_text_env(ID, time_limit=60.0, categories=CATEGORIES).expert_rate == 1.0


@pytest.mark.parametrize("dropped", range(4))
def test_a_turn_that_is_not_done_costs_the_reward(dropped: int) -> None:
    env = started("multi_turn_base_0")
    for turn in range(4):
        action = expert_action(env)
        if turn != dropped:
            env.step(action)
        _, reward, over, _, info = env.step("Done.")
        facts = info["privileged"]
        assert facts["on_track"] == (turn < dropped)
        assert ("problem" in facts) == (turn >= dropped)
    assert (reward, over, info["success"]) == (0.0, True, False)


def test_what_changes_more_than_was_asked_costs_the_reward_and_looking_does_not() -> None:
    for extra, reward in ((call("ls"), 1.0), (call("touch", file_name="mine.txt"), 0.0)):
        env = started("multi_turn_base_0")
        assert env.step(extra)[4]["errors"] == []
        over = False
        while not over:
            _, paid, over, _, _ = env.step(expert_action(env))
        assert paid == reward


def test_the_expert_goes_on_after_what_was_done() -> None:
    env = started("multi_turn_base_0")
    every = parse_action(expert_action(env)).calls
    assert [one.name for one in every] == ["cd", "mkdir", "mv"]
    env.step(render_action("", every[:1]))
    env.step(call("pwd"))
    assert parse_action(expert_action(env)).calls == every[1:]
    assert env.unwrapped.privileged()["calls"].count("\n") == 1  # type: ignore[attr-defined]
    env.step(render_action("", every[1:]))
    assert expert_action(env) == DONE
    assert parse_action(expert_action(started("multi_turn_base_0", parallel=False))).calls == every[:1]


def test_withheld_functions_are_told_late_and_run_always() -> None:
    env = started("multi_turn_miss_func_0")
    assert "sort" not in tools_of(env).names
    assert "mkdir" in tools_of(env).names
    for _ in range(2):
        env.step(expert_action(env))
        env.step(DONE)
    assert expert_action(env) == LACKING
    said, _, _, _, info = env.step(LACKING)
    schema = json.loads(said.partition("\n")[0])
    assert [one["name"] for one in schema] == ["sort"]
    assert schema[0]["parameters"]["required"] == ["file_name"]
    assert info["privileged"]["on_track"]
    assert "Sort" in schema[0]["description"]
    assert env.step(call("sort", file_name="final_report.pdf"))[4]["errors"] == []
    said, _, _, _, info = env.step(call("sorted"))
    assert info["errors"] == ["unknown_tool"]
    assert "sort" not in re.findall(r"\w+", said.partition("tools:")[2])  # those that were shown
    early = started("multi_turn_miss_func_0")
    early.step(call("cd", folder="document"))
    assert early.step(call("sort", file_name="final_report.pdf"))[4]["errors"] == []


@pytest.mark.parametrize(
    ("action", "error", "said"),
    [
        (call("teleport"), "unknown_tool", "unknown tool 'teleport'"),
        (call("__init__"), "unknown_tool", "unknown tool '__init__'"),
        (call("_load_scenario", scenario={}), "unknown_tool", "unknown tool"),
        (call("cd"), "bad_arguments", "cd: folder: missing"),
        (call("cd", folder="x", **{"x=print(1)": 1}), "bad_arguments", "unknown argument"),
        (call("cd", folder="nowhere"), "tool_error", '{"error": "cd: \'nowhere\': No such file or directory"}'),
        (call("cd", folder=3), "tool_error", "Error during execution: "),
        (call("mean", numbers=["x"]), "unknown_tool", "unknown tool 'mean'"),
    ],
)
def test_bad_calls_are_observations(action: str, error: str, said: str) -> None:
    found, reward, over, _, info = started("multi_turn_base_0").step(action)
    assert said in found
    assert (reward, over, info["errors"]) == (0.0, False, [error])


@pytest.mark.parametrize(("done", "over"), [(2, False), (3, True)])
def test_a_turn_takes_so_many_actions(done: int, over: bool) -> None:
    env = started("multi_turn_base_0", steps=2)
    for _ in range(done):
        *_, truncated, info = env.step(call("pwd"))
    assert not truncated
    assert env.unwrapped._over is over  # type: ignore[attr-defined]
    assert info.get("success") == (False if over else None)
    if not over:
        env.step(DONE)
        assert not env.step(call("pwd"))[2]  # counted anew


def test_actions_that_run_nothing_count_too() -> None:
    env = started("multi_turn_base_0", steps=2)
    for _ in range(3):
        assert not env.step(call("teleport"))[2]
    _, reward, over, _, info = env.step(DONE)
    assert (reward, over, info["success"]) == (0.0, True, False)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([["base"], ["long_context", "miss_param"]]))
def test_a_seed_draws_from_its_split(seed: int, categories: list[str]) -> None:
    env = make(ID, categories=categories)
    env.reset(seed=seed)
    split = next(name for name, place in SPLITS.items() if place == seed // SEEDS_PER_SPLIT)
    assert env.unwrapped._row in rows_in(categories, split)  # type: ignore[attr-defined]
    env.reset(seed=seed, options={"split": "evaluation"})
    assert env.unwrapped._row in rows_in(categories, "evaluation")  # type: ignore[attr-defined]


def test_training_and_panels_share_no_task() -> None:
    parts = [rows_in(CATEGORIES, split) for split in ("train", "validation", "evaluation")]
    assert [len(part) for part in parts] == [480, 80, 240]
    assert rows_in(CATEGORIES, "stages") == parts[0]
    for of in (
        lambda row: row.id.rpartition("_")[2],  # a row of each category tells of one task
        lambda row: str(row.questions[0]),
        lambda row: str([turn for turn in row.truth if turn]),
    ):
        tasks = [{of(row) for row in part} for part in parts]
        assert not tasks[0] & tasks[1]
        assert not tasks[0] & tasks[2]
        assert not tasks[1] & tasks[2]


def test_tools_are_those_of_the_simulators() -> None:
    types = set()
    for kind in KINDS:
        methods = getattr(official(module_of(kind)), kind)
        for function in functions_of(kind):
            method = inspect.signature(getattr(methods, function.name)).parameters
            assert list(method)[1:] == [*function.parameters["properties"]] or function.name == "purchase_insurance"
            assert set(method) - {"self"} == set(function.parameters["properties"])
            waiting = [dict(function.parameters)]
            while waiting:
                schema = waiting.pop()
                types.add(schema["type"])
                waiting += [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    assert types == {"object", "string", "number", "integer", "array", "boolean"}
    whole, brief = (tools_of(started("multi_turn_base_0", brief=brief))[0].description for brief in (False, True))
    assert whole.endswith(f"Tool description: {brief}")


@pytest.mark.parametrize(
    ("kwargs", "options", "match"),
    [
        ({"categories": "base"}, {}, r"categories='base' must be a list of texts, such as \[base\]"),
        ({"categories": []}, {}, "give a list"),
        ({"categories": ["mis_func"]}, {}, "'mis_func' is not known .did you mean 'miss_func'"),
        ({"steps": 0}, {}, "steps=0 must be at least 1"),
        ({}, {"id": "multi_turn_base_200"}, "no multi-turn row 'multi_turn_base_200'"),
        ({}, {"id": 7}, "no multi-turn row 7"),
        ({}, {"split": "test"}, "no split is called 'test'"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs).reset(seed=0, options=options)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "bfcl_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    with pytest.raises(ConfigError, match=r'pip install "agentopd\[bfcl\]", then pip install --no-deps bfcl-eval'):
        make(ID)
