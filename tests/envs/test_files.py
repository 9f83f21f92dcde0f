"""Tasks on files: what is asked is what is rewarded, and nothing is left behind."""

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentopd.env import expert_action, make
from agentopd.envs.file_tasks import FAMILIES
from agentopd.errors import ConfigError
from agentopd.testing import check_text_env
from agentopd.tooling import call

ID = "agentopd/Files-v0"
KWARGS: list[dict[str, Any]] = [
    {},
    {"files": 2, "lines": 1, "folders": 0},
    {"files": 12, "lines": 8, "folders": 3},
    *({"families": [family], "folders": 2} for family in FAMILIES),
]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environments put their directories."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def directory(env: gymnasium.Env[str, str]) -> Path:
    root: Path = env.get_wrapper_attr("folder").root
    return root


def on_disk(env: gymnasium.Env[str, str]) -> dict[str, str]:
    """The files, read without the tools."""
    root = directory(env)
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def finish(env: gymnasium.Env[str, str]) -> tuple[int, float]:
    """Lets the expert play on: its turns, and the reward of the last."""
    for turn in range(1, 300):
        _, reward, terminated, truncated, info = env.step(expert_action(env))
        assert not info["errors"]
        if terminated or truncated:
            return turn, float(reward)
    raise AssertionError("endless")


@pytest.mark.parametrize("kwargs", KWARGS, ids=str)
def test_the_expert_always_wins_in_time_by_the_steps_that_are_privileged(kwargs: dict[str, Any]) -> None:
    env = make(ID, **kwargs)
    for seed in range(40):
        _, info = env.reset(seed=seed)
        steps = [json.loads(step) for step in info["privileged"]["steps"].splitlines()]
        for step in steps[:-1]:
            assert expert_action(env) == call(step["name"], **step["arguments"])
            _, reward, *over, _ = env.step(expert_action(env))
            assert (reward, *over) == (0.0, False, False)
        assert finish(env) == (1, 1.0)


def test_it_keeps_the_contract() -> None:
    assert check_text_env(ID).expert_rate == 1.0


def asked(family: str, seed: int, **kwargs: Any) -> tuple[gymnasium.Env[str, str], str, dict[str, str]]:
    env = make(ID, families=[family], **kwargs)
    text, info = env.reset(seed=seed)
    assert info["family"] == family
    return env, text, on_disk(env)


def submitted(env: gymnasium.Env[str, str], **answer: str) -> float:
    _, reward, terminated, _, info = env.step(call("submit", **answer))
    assert terminated
    assert info["success"] is (reward == 1.0)
    return float(reward)


@pytest.mark.parametrize("seed", range(12))
def test_a_value_and_a_sum_are_those_of_the_files(seed: int) -> None:
    for family, count in (("find", {1}), ("sum", {2, 3})):
        env, text, files = asked(family, seed, files=5)
        (word,) = re.findall(r"of (\w+)\?", text)
        values = [int(n) for content in files.values() for n in re.findall(rf"^{word}: (\d+)$", content, re.M)]
        assert len(values) in count
        assert submitted(env, answer=f" {sum(values)} ") == 1.0
        env.reset(seed=seed)
        assert submitted(env, answer=str(sum(values) + 1)) == 0.0
        env.reset(seed=seed)
        assert submitted(env) == 0.0


@pytest.mark.parametrize("seed", range(12))
def test_files_are_moved_renamed_and_deleted_by_hand(seed: int) -> None:
    for family in ("move", "rename", "delete"):
        env, text, files = asked(family, seed, files=5, folders=2)
        logs = [path for path in files if path.endswith(".log")]
        assert logs
        assert len(logs) < 5
        (place,) = re.findall(r"folder (\w+)", text) or [""]
        for path in logs:
            to = f"{place}/{Path(path).name}" if family == "move" else path.replace(".log", ".csv")
            assert (
                env.step(call("delete", path=path) if family == "delete" else call("move", path=path, to=to))[0] == "ok"
            )
        assert submitted(env) == 1.0
        env.reset(seed=seed)
        assert submitted(env) == 0.0  # nothing was done


@pytest.mark.parametrize("seed", range(12))
def test_a_word_is_replaced_and_a_line_appended_by_hand(seed: int) -> None:
    env, text, files = asked("replace", seed)
    old, new, path = re.findall(r"Replace (\w+) by (\w+) in (.+)\.$", text)[0]
    assert files[path].count(old) == 1
    assert new not in files[path]
    env.step(call("write", path=path, text=files[path].replace(old, new).rstrip("\n")))
    assert submitted(env) == 1.0
    env, text, files = asked("append", seed)
    path, line = re.findall(r"line to (.+?): (.+)$", text)[0]
    env.step(call("write", path=path, text=files[path] + line))
    assert on_disk(env)[path] == files[path] + line
    assert submitted(env) == 1.0


@pytest.mark.parametrize(
    ("name", "path", "more"), [("write", "mine", {"text": "x"}), ("append", "", {"text": "x"}), ("delete", "", {})]
)
def test_other_files_must_stay_as_they_were(name: str, path: str, more: dict[str, str]) -> None:
    env, _, files = asked("sum", 3)
    answer = env.reset(seed=3)[1]["privileged"]["answer"]
    assert env.step(call(name, path=path or min(files), **more))[0] == "ok"
    assert submitted(env, answer=answer) == 0.0


paths = st.sampled_from(
    ["old", "old/x", "a", "figs", "figs/a", "pears", "work/old/x", "work", "shared", "x/y/z/a", "x/y"]
)
deeds = st.one_of(
    st.sampled_from(["expert", "every write"]),
    st.builds(lambda path: ("delete", path), st.integers(0, 5)),
    st.builds(lambda path, to: ("move", path, to), st.integers(0, 5), paths),
    st.builds(
        lambda path, text: ("write", path, text),
        st.one_of(paths, st.integers(0, 5)),
        st.sampled_from(["", "x", "\n\n"]),
    ),
    st.builds(lambda path, text: ("append", path, text), st.integers(0, 5), st.sampled_from(["", "x: 1"])),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(deeds, max_size=10), st.integers(0, 10_000))
def test_expert_recovers_from_whatever_was_done(done: list[Any], seed: int) -> None:
    env = make(ID, folders=2, max_episode_steps=-1)
    env.reset(seed=seed)
    for deed in done:
        if deed == "expert":
            if env.step(expert_action(env))[2]:
                return
            continue
        if deed == "every write":
            for number in range(40):
                env.step(call("write", path=f"many/{number}/x", text=""))
            continue
        name, path, *rest = deed
        there = list(on_disk(env)) or ["a"]
        path = there[path % len(there)] if isinstance(path, int) else path
        names = {"move": ["to"], "delete": []}.get(name, ["text"])
        env.step(call(name, path=path, **dict(zip(names, rest, strict=True))))
    assert finish(env)[1] == 1.0
    env.close()


def test_expert_clears_what_stands_in_the_way() -> None:
    """A file where a folder belongs, and folders where a file belongs."""
    env, text, files = asked("move", 0)
    place = text.removesuffix(".").rpartition(" ")[2]
    path = next(path for path in files if path.endswith(".log"))
    env.step(call("move", path=path, to=place))
    assert finish(env)[1] == 1.0
    env, text, files = asked("rename", 0)
    path = next(path for path in files if path.endswith(".log"))
    env.step(call("move", path=path, to=f"{path[:-4]}.csv/x/y"))
    env.step(call("write", path=f"{path[:-4]}.csv/z/y", text="mine"))
    assert finish(env)[1] == 1.0
    for clear in (True, False):
        env, _, files = asked("append", 0)
        path = next(iter(files))
        env.step(call("delete", path=path))
        env.step(call("write", path=f"{path}/x/y", text="mine"))
        if clear:
            env.step(call("delete", path=f"{path}/x/y"))
        assert finish(env)[1] == 1.0


def test_nothing_is_left_after_an_episode_close_or_collection(scratch: Path) -> None:
    env = make(ID)
    env.reset(seed=0)
    first = directory(env)
    env.step(call("write", path="mine.txt", text="kept?"))
    env.reset(seed=1)
    assert not first.exists()
    assert "mine.txt" not in on_disk(env)
    assert len(list(scratch.iterdir())) == 1
    env.close()
    env.close()
    assert list(scratch.iterdir()) == []
    env.reset(seed=0)
    assert len(list(scratch.iterdir())) == 1
    del env
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_a_forked_process_leaves_the_directory_to_its_owner() -> None:
    env = make(ID)
    env.reset(seed=0)
    if (child := os.fork()) == 0:
        env.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert on_disk(env)


SCRIPT = """
import sys
from agentopd.env import expert_action, make
env = make("agentopd/Files-v0", files=6, folders=3)
for seed in range(8):
    print(env.reset(seed=seed))
    for action in ("list_files", "read"):
        print(env.step('<tool_call>{"name": "%s", "arguments": {"path": "../x"}}</tool_call>' % action))
    over = False
    while not over:
        action = expert_action(env)
        *said, over, _, info = env.step(action)
        print(action, said, info)
"""


def test_a_seed_is_an_episode_in_every_process_and_place(tmp_path: Path) -> None:
    told = []
    for number in range(2):
        (place := tmp_path / f"place{number}").mkdir()
        added = {"TMPDIR": str(place), "PYTHONHASHSEED": str(number)}
        run = [sys.executable, "-c", SCRIPT]
        told.append(subprocess.run(run, env=os.environ | added, capture_output=True, text=True, check=True).stdout)
        assert list(place.iterdir()) == []
    assert told[0] == told[1]
    assert "Right." in told[0]
    assert str(tmp_path) not in told[0]


def test_an_error_tells_no_absolute_path() -> None:
    env = make(ID)
    env.reset(seed=0)
    for path in ("../x", "/etc/passwd", "none", "a/../../x", "\0", "x" * 3000):
        for action in (call("read", path=path), call("write", path=path, text="x"), call("move", path=path, to="../y")):
            said, _, _, _, info = env.step(action)
            assert str(directory(env)) not in said
            assert len(said) < 300
            assert "tool_crash" not in info["errors"]
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"files": 1}, "files=1 must be from 2 to 12"),
        ({"files": 13}, "files=13 must be"),
        ({"lines": 0}, "lines=0 must be from 1 to 8"),
        ({"folders": 4}, "folders=4 must be from 0 to 3"),
        ({"families": []}, r"families=\[\]: give a list"),
        ({"families": "sum"}, r"families='sum' must be a list of texts or null, such as \[sum\]"),
        ({"families": ["summ"]}, "families: 'summ' is not known.*sum"),
    ],
)
def test_settings_are_checked(kwargs: dict[str, Any], match: str, scratch: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        make(ID, **kwargs)
    assert list(scratch.iterdir()) == []
