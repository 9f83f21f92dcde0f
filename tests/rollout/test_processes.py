"""Episodes whose environments live in processes of their own."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from frail_envs import FRAIL, GO, Frail
from rollout_ladder import assignments, chat, student

from agentopd.acting import Takeover
from agentopd.env import has_expert
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.fleet import close_workers, fleet
from agentopd.rollout import Assignment, EnvConfig, Rollout, check_first_prompts, collect
from agentopd.rollout.looking import look_at
from agentopd.types import Key, Task, Trajectory, timeless

APART = Rollout(
    max_turns=10, time_limit=20.0, max_length=4000, max_new_tokens=100, isolation="process", max_failures=1.0
)
BESIDE = APART.model_copy(update={"isolation": "thread"})
HASTY = APART.model_copy(update={"time_limit": 1.5})


@pytest.fixture(scope="module", autouse=True)
def _none_left() -> Iterator[None]:
    """Workers that one test has are there for the next, and none after the last."""
    yield
    numbers = fleet().numbers
    close_workers()
    _wait_until(lambda: not any(map(_lives, numbers)))


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def played(
    settings: Rollout, troubles: Sequence[str] = ("",), texts: Sequence[str] = (GO,) * 9, **changes: Any
) -> list[Trajectory]:
    """An episode a trouble; seconds, which no two runs share, left out."""
    made = [
        Assignment(Task(FRAIL, i, {"trouble": trouble}), Key("run", 0, i), "student", 100 + i, "fresh", **changes)
        for i, trouble in enumerate(troubles)
    ]
    trajectories = collect(made, student(*texts), chat(), settings, advice=True)
    return [replace(one, turns=tuple(map(timeless, one.turns))) for one in trajectories]


def test_trajectories_are_those_of_threads() -> None:
    apart = played(APART, [""] * 5)
    assert apart == played(BESIDE, [""] * 5)
    assert repr(apart) == repr(played(BESIDE, [""] * 5))  # types as well: a list is no tuple
    assert len({len(one.turns) for one in apart}) > 2
    assert apart[0].privileged["by"] == {1: 0.1, "two": [None, True]}


def test_turns_that_are_taken_back_are_those_of_threads() -> None:
    texts, acting = [GO, GO, "Hello.", *[GO] * 9], Takeover(by="expert")
    apart, beside = (played(how, [""] * 3, texts, acting=acting) for how in (APART, BESIDE))
    assert apart == beside
    assert [turn.actor for turn in apart[0].turns][:4] == ["student", "student", "expert", "student"]


@pytest.mark.parametrize(
    ("trouble", "kind", "message"),
    [
        ("segfault", "died", "step: its process died of SIGSEGV (signal 11)"),
        ("exit", "died", "step: its process died with exit code 3"),
        ("killed", "died", "step: its process died of SIGKILL (signal 9), as where the system has no memory left"),
        ("start exit", "died", "reset: its process died with exit code 3"),
        ("loop", "timeout", "step took longer than time_limit=1.5 s; its process was killed"),
        ("regex", "timeout", "step took longer than time_limit=1.5 s; its process was killed"),
    ],
)
def test_invariant_9_what_no_thread_survives_fails_its_episode(trouble: str, kind: str, message: str) -> None:
    [one] = played(HASTY, [trouble])
    assert one.failure is not None
    assert (one.failure.boundary, one.failure.kind, one.failure.message) == ("env", kind, message)
    assert len(one.turns) == (0 if trouble.startswith("start") else 2)


def test_invariant_9_those_beside_one_that_dies_are_as_without_it() -> None:
    clean = played(APART, [""] * 8)
    broken = played(HASTY, ["", "segfault", "", "", "", "loop", "", ""])
    assert [i for i, one in enumerate(broken) if one.failure] == [1, 5]
    assert [one for i, one in enumerate(broken) if i not in (1, 5)] == [
        one for i, one in enumerate(clean) if i not in (1, 5)
    ]


def test_what_raises_is_told_as_in_threads() -> None:
    assert [one.failure for one in played(APART, ["raise", "start raise"])] == [
        one.failure for one in played(BESIDE, ["raise", "start raise"])
    ]


def test_workers_are_used_again_and_those_that_died_replaced() -> None:
    played(APART, [""] * 3)
    before = set(fleet().numbers)
    played(APART, [""] * 3)
    assert set(fleet().numbers) == before
    played(APART, ["exit", ""])
    assert len(before - set(fleet().numbers)) == 1
    assert all(map(_lives, fleet().numbers))


def test_a_close_that_hangs_is_waited_for_by_nobody() -> None:
    begin = time.monotonic()
    [one] = played(HASTY, ["close loop"])
    assert one.failure is None
    assert time.monotonic() - begin < 1.2
    busy = set(fleet().numbers)
    time.sleep(1.6)
    played(HASTY, [""])
    assert len(busy - set(fleet().numbers)) == 1


def test_what_an_environment_started_goes_with_it() -> None:
    played(APART, ["child"])
    _wait_until(lambda: not subprocess.run(["pgrep", "-f", "sleep 97531"], capture_output=True).stdout)


def test_checks_before_a_run_survive_it_too() -> None:
    crashing = EnvConfig(id=FRAIL, kwargs={"trouble": "start segfault"})
    assert look_at(crashing, has_expert, 20.0, "process")
    task = Task(FRAIL, 0, {"trouble": "start segfault"})
    with pytest.raises(EnvError, match=r"cannot be started: .* reset: its process died of SIGSEGV"):
        check_first_prompts([task], chat(), APART)
    with pytest.raises(ConfigError, match="no environment is registered as 'tests/Fail-v0'"):
        look_at(EnvConfig(id="tests/Fail-v0"), has_expert, 20.0, "process")


def test_what_only_this_process_knows_is_refused() -> None:
    gymnasium.register("tests/Here-v0", entry_point=lambda **kwargs: Frail(**kwargs))
    with pytest.raises(
        ConfigError, match=r'code of this process alone .*"module:tests/Here-v0", or say isolation=thread'
    ):
        collect(assignments(env="tests/Here-v0"), student(GO), chat(), APART)
    lock: Any = open(os.devnull)  # noqa: SIM115 - what cannot be sent
    with lock, pytest.raises(ConfigError, match="the kwargs of environment 'tests/Frail-v0' cannot be sent"):
        collect(assignments(env=FRAIL, note=lock), student(GO), chat(), APART)


MAIN = textwrap.dedent("""
    import signal, sys, time, gymnasium
    import agentopd
    from agentopd.isolation.fleet import fleet
    sys.path.insert(0, {folder!r})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell runs in the background lacks

    class Mine(agentopd.TextEnv):
        pass

    gymnasium.register("me/Mine-v0", entry_point=Mine)
    try:
        agentopd.make_vec("me/Mine-v0", 2, isolation="process")
    except agentopd.ConfigError as error:
        assert "register it in a module" in str(error), error
    envs = agentopd.make_vec("frail_envs:tests/Frail-v0", 2, isolation="process", time_limit=60.0)
    envs.reset(seed=0)
    assert not any(torch for _, torch in envs.call("here"))
    print(*fleet().numbers, flush=True)
    envs.call("wait", 50.0)
""")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_however_this_one_ends(how: signal.Signals, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MAIN.format(folder=str(Path(__file__).parent)))
    with subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        numbers = [int(number) for number in parent.stdout.readline().split()]
        assert len(numbers) >= 3
        assert all(map(_lives, numbers))
        parent.send_signal(how)
        parent.wait(timeout=30)
    _wait_until(lambda: not any(map(_lives, numbers)))
