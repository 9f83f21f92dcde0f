"""Many environments as one, against Gymnasium's own vector environment."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from vector_envs import ODD

from agentopd import make_vec
from agentopd.env import expert_action
from agentopd.envs.calculator import Calculator
from agentopd.errors import ConfigError, EnvError
from agentopd.isolation.fleet import fleet
from agentopd.isolation.vector import LaneError, LaneVectorEnv, merged

ISOLATIONS = ("thread", "process")


def plain(value: Any) -> Any:
    """Arrays as lists, at any depth."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple | np.ndarray) else value


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_comes_back_is_what_gymnasium_gives(isolation: Any, mode: AutoresetMode) -> None:
    ours: Any = make_vec("agentopd/Calculator-v0", 3, isolation=isolation, autoreset_mode=mode, depth=1)
    theirs = make_vec("agentopd/Calculator-v0", 3, isolation="none", autoreset_mode=mode, depth=1)
    assert isinstance(theirs, SyncVectorEnv)
    assert plain(ours.reset(seed=[5, 3, 9])) == plain(theirs.reset(seed=[5, 3, 9]))
    for turn in range(6):
        if mode == AutoresetMode.DISABLED and turn == 2:
            with pytest.raises(ResetNeeded, match="are over"):
                ours.step(("",) * 3)
            masks = [{"reset_mask": np.array([True, True, True])} for _ in range(2)]
            assert plain(ours.reset(seed=1, options=masks[0])) == plain(theirs.reset(seed=1, options=masks[1]))
        if mode == AutoresetMode.DISABLED and turn == 4:
            break
        actions = theirs.call("expert") if turn != 2 or mode != AutoresetMode.NEXT_STEP else ("",) * 3
        mine, other = ours.step(actions), theirs.step(actions)
        assert plain(mine) == plain(other)
        assert [each.dtype for each in mine[1:4]] == [each.dtype for each in other[1:4]]
    assert ours.get_attr("depth") == (1, 1, 1)
    ours.set_attr("depth", [1, 2, 3])
    assert ours.get_attr("depth") == (1, 2, 3)
    assert ours.action_space.contains(("a", "b", "c"))
    ours.close()


@pytest.mark.parametrize(
    ("isolation", "action", "message"),
    [
        (
            "thread",
            "sleep",
            r"environment 1 of 3 \(tests/Odd-v0\) did not answer: step took longer than time_limit=0.5 s; it is",
        ),
        ("process", "sleep", "step took longer than time_limit=0.5 s; its process was killed"),
        ("process", "exit", "step: its process died with exit code 4"),
        ("thread", "raise", "RuntimeError: no"),
    ],
)
def test_one_that_breaks_is_told_and_the_others_go_on(isolation: Any, action: str, message: str) -> None:
    clean = make_vec(ODD, 3, isolation="none")
    envs: Any = make_vec(ODD, 3, isolation=isolation, time_limit=0.5)
    envs.reset(seed=0)
    clean.reset(seed=0)
    with pytest.raises(LaneError, match=message) as caught:
        envs.step(("go", action, "go"))
    expected = clean.step(("go", "go", "go"))
    observations, _, terminated, truncated, _ = caught.value.given
    assert list(caught.value.failures) == [1]
    assert (observations[0], observations[1], observations[2]) == (expected[0][0], "", expected[0][2])
    assert (terminated.any(), truncated.tolist()) == (False, [False, True, False])
    observations, *_ = envs.step(("go", "go", "go"))
    assert observations[::2] == clean.step(("go", "go", "go"))[0][::2]
    assert observations[1] != expected[0][1]
    float(observations[1])  # it was reset
    envs.close()


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_what_becomes_of_one_that_answers_no_call_is_told(isolation: Any) -> None:
    envs: Any = make_vec(ODD, 2, isolation=isolation, time_limit=0.5)
    with pytest.raises(LaneError, match=r"no attribute 'taken', .*; it has no episode, and starts one by reset\(\)"):
        envs.call("taken")
    envs.reset(seed=0)
    with pytest.raises(LaneError, match=r"RuntimeError: no.*, and so did not 1; its episode goes on"):
        envs.call("respond", "raise")
    envs.step(("go", "go"))
    assert envs.call("taken") == (1, 1)
    with pytest.raises(LaneError, match="it is made anew, and starts an episode at the next step, whatever the action"):
        envs.step(("go", "sleep"))
    with pytest.raises(LaneError, match="it has no episode, and starts one at the next step") as caught:
        envs.call("taken")
    assert caught.value.given[0] == 2
    envs.step(("go", "go"))
    assert envs.call("taken") == (3, 0)
    envs.close()


def test_all_step_at_the_same_time() -> None:
    envs: Any = make_vec(ODD, 40, time_limit=10.0)
    envs.reset(seed=0)
    begin = time.monotonic()
    envs.step(("sleep",) * 40)
    assert time.monotonic() - begin < 4.0
    envs.close()


def test_values_of_several_types_stay_what_they_are() -> None:
    infos = merged({0: {"x": 1, "n": 2}, 2: {"x": 2.5, "n": 3}, 1: {"x": "a"}}, 3)
    assert infos["x"].tolist() == [1, "a", 2.5]
    assert (infos["n"].tolist(), infos["n"].dtype, infos["_n"].tolist()) == ([2, 0, 3], np.int64, [True, False, True])
    assert merged({0: {"big": 2**70}}, 1)["big"][0] == 2**70


def test_wrong_arguments_are_told_at_once() -> None:
    for isolation in ISOLATIONS:
        with pytest.raises(ConfigError, match="takes no colour='red'"):
            make_vec(ODD, 2, isolation=isolation, colour="red")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"isolation='fiber': choose thread, process or none"):
        make_vec(ODD, 2, isolation="fiber")  # type: ignore[arg-type]
    for n in (0, 2.0, "2"):
        with pytest.raises(ConfigError, match=f"n={n!r} must be a whole number of at least 1"):
            make_vec(ODD, n)  # type: ignore[arg-type]
    for time_limit in (0, float("nan"), float("inf"), "3"):
        with pytest.raises(ConfigError, match=f"time_limit={time_limit!r} seconds, more than 0"):
            make_vec(ODD, 2, time_limit=time_limit)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="autoreset_mode='later': choose one of NextStep, SameStep, Disabled"):
        make_vec(ODD, 2, autoreset_mode="later")
    envs: Any = make_vec(ODD, 2)
    assert isinstance(envs, LaneVectorEnv)
    with pytest.raises(ResetNeeded):
        envs.step(("a", "b"))
    with pytest.raises(ConfigError, match="1 seeds for 2 environments"):
        envs.reset(seed=[1])
    odd: Any
    for odd in (1.5, "ab", [1.0, 2]):
        with pytest.raises(ConfigError, match="give one whole number, or one for each environment"):
            envs.reset(seed=odd)
    odd = np.int64(7)
    assert envs.reset(seed=odd)[0] == envs.reset(seed=7)[0]
    envs.reset(seed=0)
    with pytest.raises(ConfigError, match="give 2 texts"):
        envs.step(("a",))
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": [True, False]})
    with pytest.raises(EnvError, match="nothing_such"):
        envs.call("nothing_such")


def test_privileged_answers_of_sql_are_put_together_by_gymnasium_too() -> None:
    """Its own vector environments keep values of one type for each key; these are names and numbers."""
    ours = make_vec("agentopd/Sql-v0", 3)
    theirs: Any = make_vec("agentopd/Sql-v0", 3, isolation="none")
    assert plain(ours.reset(seed=5)) == plain(theirs.reset(seed=5))
    for _ in range(12):
        actions = tuple(expert_action(env) for env in theirs.envs)
        assert plain(ours.step(actions)) == plain(theirs.step(actions))
    ours.close()
    theirs.close()


def test_several_threads_may_make_processes_at_once() -> None:
    def played(_: int) -> Any:
        envs = make_vec("agentopd/Checkout-v0", 3, isolation="process")
        first = envs.reset(seed=0)[0], envs.step(("x",) * 3)[0]
        envs.close()
        return first

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(played, range(8)))) == 1


def test_environments_outlive_what_their_processes_were_forked_from() -> None:
    envs: Any = make_vec("agentopd/Checkout-v0", 2, isolation="process")
    envs.reset(seed=0)
    workers = fleet()
    for number in workers.numbers:
        os.kill(number, signal.SIGKILL)
    workers._server.wait()
    for _ in range(2):  # whoever was left ends with the others
        with suppress(LaneError):
            envs.step(["x"] * 2)
    assert envs.step(["x"] * 2)[0] == ("Call a tool: price, calculate, submit.",) * 2
    envs.close()


def test_the_answer_to_a_call_that_nobody_waited_for_is_not_taken_for_anothers() -> None:
    envs: Any = make_vec("agentopd/Checkout-v0", 2, isolation="process")
    envs.reset(seed=0)
    envs._lanes[0].submit("step", "<tool_call>", False)  # and then an interrupt
    with pytest.raises(LaneError, match="nobody waited for the call before") as caught:
        envs.step(["x"] * 2)
    assert caught.value.given[0] == ("", "Call a tool: price, calculate, submit.")
    envs.step(["x"] * 2)
    assert envs.step(["x"] * 2)[0] == ("Call a tool: price, calculate, submit.",) * 2
    envs.close()


def test_of_what_cannot_be_closed_the_first_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    name, done = "tests/Unclosable-v0", threading.Semaphore(0)

    class Unclosable(Calculator):
        def close(self) -> None:
            done.release()
            raise OSError("gone")

    gymnasium.register(name, entry_point=lambda **kwargs: Unclosable(**kwargs))
    try:
        envs = make_vec(name, 8)
        envs.close()
        for _ in range(8):
            assert done.acquire(timeout=5.0)
        begin = time.monotonic()
        while "OSError: gone" not in caplog.text:
            assert time.monotonic() - begin < 5.0
            time.sleep(0.01)
        time.sleep(0.1)  # for those that should not be there
    finally:
        del gymnasium.registry[name]
    assert caplog.text.count(f"{name} raised in close(), after its episode") == 1


SLOW = """
import os, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import gymnasium
from agentopd.envs.calculator import Calculator


class Slow(Calculator):
    def close(self):
        time.sleep(0.3)
        ThreadPoolExecutor(1).submit(self.note).result()  # which no longer works once the interpreter has ended them

    def note(self):
        Path(os.environ["CLOSED"], f"{os.getpid()}-{id(self)}").touch()


gymnasium.register("tests/Slow-v0", entry_point=Slow)
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_still_closes_is_waited_for_when_the_program_ends(isolation: str, tmp_path: Path) -> None:
    (tmp_path / "slow_to_close.py").write_text(SLOW)
    (tmp_path / "closed").mkdir()
    program = (
        f"from agentopd import make_vec; make_vec('slow_to_close:tests/Slow-v0', 3, isolation={isolation!r}).close()"
    )
    paths = ":".join([str(tmp_path), *sys.path])
    environment = {"PYTHONPATH": paths, "CLOSED": str(tmp_path / "closed"), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert len(list((tmp_path / "closed").iterdir())) == 3
