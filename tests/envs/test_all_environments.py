"""What holds for every shipped environment and each of its settings: the same in every process, no action breaks it, nothing is left behind.

Each environment's rules, its expert among them, are checked beside it, in a file of its own.
"""

import gc
import hashlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator

from agentopd.env import expert_action, make, tools_of
from agentopd.envs import ENVS
from agentopd.envs.mcp import Episode
from agentopd.testing import HOSTILE
from agentopd.tooling import call, render_action
from agentopd.types import ToolCall

VARIED: Mapping[str, tuple[dict[str, Any], ...]] = {
    "agentopd/Bfcl-v0": ({}, {"categories": ["miss_func", "miss_param"], "steps": 8, "brief": True, "parallel": False}),
    "agentopd/Calculator-v0": ({}, {"depth": 5, "distractors": 3, "failure_rate": 0.2}),
    "agentopd/Checkout-v0": ({}, {"items": 5, "failure_rate": 0.0}),
    "agentopd/Files-v0": ({}, {"files": 9, "lines": 6, "folders": 3}, {"families": ["move", "rename"]}),
    "agentopd/FrozenLake-v0": (
        {},
        {"map_name": "8x8", "is_slippery": True, "success_rate": 0.8, "discount": 0.99},
        {"size": 6, "p": 0.9},
    ),
    "agentopd/Mcp-v0": (
        {
            "servers": {"warehouse": {"module": "agentopd.envs.mcp_warehouse", "fresh": False}},
            "tasks": "agentopd.envs.warehouse:task",
            "verifier": "tests.envs.test_all_environments:verifier",
            "instructions": "Answer.",
        },
    ),
    "agentopd/Questions-v0": (
        {},
        {"tools": ["calculator"], "verifier": "numeric", "tolerance": 0.01, "success": 0.5, "instructions": "Answer."},
    ),
    "agentopd/Reasoning-v0": (
        {},
        {
            "families": {"lcm": {}, "chain_sum": {"max_terms": 6}},
            "tools": ["python"],
            "success": 0.5,
            "graded": False,
        },
    ),
    "agentopd/Search-v0": ({}, {"hops": 2, "size": 30, "results": 5}),
    "agentopd/Shop-v0": ({}, {"wishes": 4, "products": 60, "distractors": 8}),
    "agentopd/Sokoban-v0": ({}, {"size": 6, "boxes": 1, "walls": 1, "pushes": 4}),
    "agentopd/Sql-v0": ({}, {"tables": 3, "rows": 12, "kinds": ["join", "group"]}),
    "agentopd/TextWorld-v0": (
        {
            "rooms": 2,
            "objects": 3,
            "quest_length": 2,
            "games": 2,
            "admissible": False,
            "progress": 0.1,
            "cache": str(Path(tempfile.gettempdir()) / "agentopd-games-of-tests"),
        },
    ),
}
"""For each environment settings that, taken together, give every one of them."""
NEEDS = {
    "agentopd/Bfcl-v0": "bfcl_eval",
    "agentopd/Mcp-v0": "mcp",
    "agentopd/Reasoning-v0": "reasoning_gym",
    "agentopd/Search-v0": "bm25s",
    "agentopd/TextWorld-v0": "textworld",
}
CASES = [(id, kwargs) for id, all_kwargs in VARIED.items() for kwargs in all_kwargs]
TEXTS = ("", "..", "a", "0", "/etc/passwd", "x' OR 1=1 --", "\u202e\u0000", "9" * 400, "SELECT 1", "[]", "nan", "-1")
ODD: Mapping[str, tuple[Any, ...]] = {
    "integer": (0, -1, 7, 10**30),
    "number": (0.5, -1e308, 3),
    "boolean": (True, False),
    "array": ([], ["a"], [[]]),
    "object": ({}, {"a": 1}),
}
"""What an argument of a type may be given; texts for all other types."""
SEEDS = range(2)
FUZZED = 1_000
RESETS = 20

cases = pytest.mark.parametrize(("id", "kwargs"), CASES, ids=lambda value: value if isinstance(value, str) else None)


def test_every_environment_and_setting_is_varied_here() -> None:
    assert VARIED.keys() == ENVS.keys()
    for id, all_kwargs in VARIED.items():
        entry = str(ENVS[id]["entry_point"])
        if NEEDS.get(id) is None or _installed(NEEDS[id]):
            assert inspect.signature(load_env_creator(entry)).parameters.keys() == set().union(*all_kwargs), id


def verifier(episode: Episode) -> bool:
    """Of ``Mcp-v0``."""
    return bool(episode.answer == episode.task["answer"])


def _installed(module: str) -> bool:
    return find_spec(module) is not None


def _made(id: str, kwargs: Mapping[str, Any]) -> gymnasium.Env[str, str]:
    if id in NEEDS:
        pytest.importorskip(NEEDS[id], reason=f"{id} needs it")
    return make(id, **kwargs)


def wild(env: gymnasium.Env[str, str], rng: np.random.Generator) -> str:
    """Something that a model may write: noise, calls of real tools with odd arguments, several at once, or the right action."""
    kind = int(rng.integers(6))
    if kind == 0:
        return str(rng.choice(np.array(HOSTILE, dtype=object)))
    if kind == 1:
        return "".join(map(chr, rng.integers(0, 0xD7FF, int(rng.integers(40)))))
    if kind == 2:
        return expert_action(env)
    calls = [_odd_call(env, rng) for _ in range(int(rng.integers(1, 4)))]
    return render_action("", calls)


def _odd_call(env: gymnasium.Env[str, str], rng: np.random.Generator) -> ToolCall:
    tools = tools_of(env)
    tool = tools[int(rng.integers(len(tools)))]
    return ToolCall(
        tool.name, {name: _odd(schema, rng) for name, schema in tool.parameters.get("properties", {}).items()}
    )


def _odd(schema: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """A value, of the right type mostly, seldom a sensible one."""
    choices = schema.get("enum") or ODD.get(str(schema.get("type")), TEXTS)
    if rng.random() < 0.1:
        choices = (None, 1, "a", [], {})
    return choices[int(rng.integers(len(choices)))]


def _told(env: gymnasium.Env[str, str], seed: int) -> Iterator[str]:
    """Everything that an episode of wild actions tells, as JSON."""
    rng = np.random.default_rng(seed)
    yield json.dumps(env.reset(seed=seed))
    for _ in range(30):
        step = env.step(wild(env, rng))
        yield json.dumps(step)
        if step[2] or step[3]:
            return


def fingerprints() -> dict[str, str]:
    """A digest of the episodes of every case that can be made here."""
    found = {}
    for number, (id, kwargs) in enumerate(CASES):
        if id not in NEEDS or _installed(NEEDS[id]):
            env, digest = make(id, **kwargs), hashlib.sha256()
            for seed in SEEDS:
                for told in _told(env, seed):
                    digest.update(told.encode())
            found[f"{id}/{number}"] = digest.hexdigest()
            env.close()
    return found


def test_seeds_mean_the_same_in_every_process() -> None:
    """Hashes of texts differ between processes, and so would whatever depended on the order of a set."""
    program = (
        "import json; from tests.envs.test_all_environments import fingerprints; print(json.dumps(fingerprints()))"
    )
    here = fingerprints()
    assert len(here) == len(set(here.values())) > 0
    environment = os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(run.stdout) == here


@pytest.mark.slow
@cases
def test_a_thousand_actions_break_nothing(id: str, kwargs: dict[str, Any]) -> None:
    env, rng = _made(id, kwargs), np.random.default_rng(7)
    env.reset(seed=0)
    episodes = 1
    for _ in range(FUZZED):
        observation, reward, terminated, truncated, info = env.step(wild(env, rng))
        assert isinstance(observation, str)
        assert np.isfinite(float(reward))
        assert not {"tool_crash", "tool_timeout"} & set(info["errors"]), observation
        observation.encode()  # no half of a surrogate pair
        assert not terminated or isinstance(info["success"], bool)
        if terminated or truncated:
            env.reset(seed=episodes)
            episodes += 1
    assert episodes > 1
    env.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists what a process holds in /proc")
@cases
def test_closing_frees_everything(
    id: str, kwargs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # other tests run beside this one
    _played(id, kwargs)  # what is loaded once, and kept on purpose, is there now
    files, children, threads = _open_files(), _children(), set(threading.enumerate())
    for _ in range(RESETS):
        _played(id, kwargs)
    assert _open_files() <= files
    assert _children() <= children
    assert set(threading.enumerate()) <= threads
    assert not list(tmp_path.iterdir())


def _played(id: str, kwargs: Mapping[str, Any]) -> None:
    env = _made(id, kwargs)
    for seed in range(2):
        env.reset(seed=seed)
        env.step(call("no_such_tool"))
        env.step(expert_action(env))
    env.close()


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def _children() -> set[str]:
    """The processes that this one started and that live."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text("ascii").split()}
