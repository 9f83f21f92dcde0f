"""Async tools run on one loop, side by side, and end at their limits."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path

import pytest

from agentopd.env import TextEnv
from agentopd.env.wrappers import ToolUse
from agentopd.errors import EnvError, ToolError
from agentopd.tooling import Tool, ToolSet, call, loop, render_action, tool
from agentopd.tooling.recording import recording
from agentopd.types import ToolCall

WHO: ContextVar[str] = ContextVar("who", default="nobody")


@tool
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return f"waited {seconds}"


@tool
async def where() -> str:
    """Tell where it runs."""
    return f"{threading.current_thread().name} for {WHO.get()}"


@tool
async def fail(how: str) -> str:
    """Fail."""
    await asyncio.sleep(0)
    if how == "exit":
        raise SystemExit(3)
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "env":
        raise EnvError("no disk")
    if how == "run":
        await asyncio.to_thread(asyncio.run, asyncio.sleep(0))  # in a thread of its own it may
        with closing(asyncio.sleep(0)) as nap:
            asyncio.run(nap)
    if how == "own":
        raise ToolError("not today", kind="closed")
    raise KeyError(how)


CLEANED: list[str] = []


@tool(time_limit=0.1)
async def hang(stubborn: bool = False, who: str = "") -> str:
    """Hang."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        if stubborn:
            await asyncio.sleep(3)
        CLEANED.append(who)
        raise
    return "never"


@tool
async def block(seconds: float) -> str:
    """Block the loop."""
    time.sleep(seconds)
    return "blocked"


ALL = ToolSet([wait, where, fail, hang, block])


def run(*calls: ToolCall) -> list[str]:
    return [str(told) for _, told in ALL.call_all(calls)]


def until(done: Callable[[], bool]) -> None:
    """Wait for what happens on the tools' loop."""
    for _ in range(100):
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("not within 5 s")


def kind_of(name: str, **arguments: object) -> tuple[str, str]:
    with pytest.raises(ToolError) as caught:
        ALL.call(ToolCall(name, arguments))
    return caught.value.kind, str(caught.value)


def test_an_async_tool_is_called_like_any_other() -> None:
    assert ALL.call(ToolCall("wait", {"seconds": 0})) == Tool.of(wait)(seconds=0) == "waited 0.0"
    assert asyncio.run(wait(0)) == "waited 0"
    assert kind_of("wait", seconds="a")[0] == "bad_arguments"


def test_all_run_on_one_loop_in_the_callers_context() -> None:
    token = WHO.set("me")
    told = run(ToolCall("where", {}), ToolCall("where", {}))
    WHO.reset(token)
    assert told == ["agentopd-tools for me"] * 2
    assert sum(thread.name == "agentopd-tools" for thread in threading.enumerate()) == 1


def test_calls_that_follow_each_other_run_at_the_same_time_and_are_answered_in_order() -> None:
    start = time.perf_counter()
    told = run(*(ToolCall("wait", {"seconds": seconds}) for seconds in (1.0, 0.5, 0.9)))
    assert told == ["waited 1.0", "waited 0.5", "waited 0.9"]
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("key", "tool_crash", "fail: KeyError: 'key'"),
        ("exit", "tool_crash", "fail: SystemExit: 3"),
        ("cancelled", "tool_crash", "fail: CancelledError: "),
        ("own", "closed", "not today"),
        ("run", "tool_crash", "fail: RuntimeError: asyncio.run() cannot be called from a running event loop"),
    ],
)
def test_what_goes_wrong_has_the_same_kinds(how: str, kind: str, said: str) -> None:
    assert kind_of("fail", how=how) == (kind, said.strip())
    assert run(ToolCall("wait", {"seconds": 0})) == ["waited 0.0"]


def test_an_environment_that_is_broken_is_no_bad_call_and_the_others_are_cancelled() -> None:
    with pytest.raises(EnvError, match="no disk"):
        list(ALL.call_all([ToolCall("hang", {"who": "beside"}), ToolCall("fail", {"how": "env"})]))
    until(lambda: "beside" in CLEANED)


def test_a_call_is_cancelled_at_its_limit_and_cleans_up_first() -> None:
    assert kind_of("hang", who="late") == ("tool_timeout", "hang: no answer within 0.1 s")
    assert "late" in CLEANED


def test_one_that_ignores_its_cancellation_holds_nobody_up() -> None:
    start = time.perf_counter()
    assert kind_of("hang", stubborn=True)[0] == "tool_timeout"
    assert time.perf_counter() - start < 2.5


def test_a_blocked_loop_lets_callers_with_a_limit_go_on() -> None:
    thread = threading.Thread(target=run, args=(ToolCall("block", {"seconds": 4.0}),))
    thread.start()
    time.sleep(0.2)
    start = time.perf_counter()
    with recording() as calls:
        assert run(ToolCall("hang", {})) == ["hang: no answer within 0.1 s"]
    assert time.perf_counter() - start < 3.5
    assert [(one.name, one.outcome) for one in calls.outcomes] == [("hang", "tool_timeout")]
    thread.join()


def test_a_tool_that_would_wait_for_itself_says_so() -> None:
    @tool
    async def nested() -> str:
        """Call another."""
        return ALL.call(ToolCall("where", {}))

    with pytest.raises(ToolError, match="an async tool cannot wait for a tool that is async; await the function"):
        Tool.of(nested)()


def test_the_loop_outlives_what_ends_programs_and_loops(caplog: pytest.LogCaptureFixture) -> None:
    @tool
    async def wreck() -> str:
        """Wreck."""

        async def leave() -> None:
            raise SystemExit

        asyncio.get_running_loop().stop()
        asyncio.ensure_future(leave())  # noqa: RUF006
        await asyncio.sleep(0.05)
        return "still here"

    with caplog.at_level(logging.WARNING, loop.__name__):
        assert Tool.of(wreck)() == "still here"
    assert "the loop goes on" in caplog.text
    assert run(ToolCall("wait", {"seconds": 0})) == ["waited 0.0"]


def test_a_tool_that_cancels_all_tasks_is_a_crash() -> None:
    @tool
    async def sweep() -> str:
        """Cancel everything."""
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(1)
        return "never"

    with pytest.raises(ToolError, match="sweep: the call was cancelled") as caught:
        Tool.of(sweep)()
    assert caught.value.kind == "tool_crash"


FORKED = """
import asyncio, multiprocessing, os
from agentopd.tooling import Tool, tool

@tool
async def pid() -> int:
    "The process."
    await asyncio.sleep(0)
    return os.getpid()

def check(queue):
    queue.put(Tool.of(pid)() == str(os.getpid()))

if __name__ == "__main__":
    check(queue := multiprocessing.SimpleQueue())
    assert queue.get()
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        child = context.Process(target=check, args=(queue,))
        child.start()
        child.join(60)
        assert child.exitcode == 0 and queue.get(), method
    print("all three")
"""


def test_a_child_process_has_a_loop_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "forked.py").write_text(FORKED)
    done = subprocess.run([sys.executable, tmp_path / "forked.py"], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("all three", 0), done.stderr


class Race(TextEnv):
    """Async methods beside plain ones; ``log`` says what was begun."""

    extra_tools = (wait,)

    def start(self) -> str:
        self.log: list[str] = []
        return "Run."

    @tool
    async def stroll(self, name: str) -> str:
        """Stroll."""
        self.log.append(name)
        await asyncio.sleep(0.05)
        self.add_reward(0.25)
        return f"{name} arrived"

    @tool
    async def sprint(self, name: str) -> str:
        """Sprint, which ends the race."""
        self.log.append(name)
        self.finish(reward=1.0)
        return f"{name} won"

    @tool
    def shout(self, name: str) -> str:
        """Shout."""
        self.log.append(name)
        return name.upper()


def calls(*named: tuple[str, str]) -> str:
    return render_action("", [ToolCall(tool, {"name": name}) for tool, name in named])


def test_what_runs_beside_the_one_that_finishes_is_answered_and_nothing_after_it_is_begun() -> None:
    env = Race()
    env.reset(seed=0)
    said, reward, over, _, info = env.step(
        calls(("shout", "a"), ("stroll", "b"), ("sprint", "c"), ("stroll", "d"), ("shout", "e"), ("stroll", "f"))
    )
    assert said.split("\n") == ["A", "b arrived", "c won", "d arrived"]
    assert (reward, over, info["success"], info["errors"]) == (1.5, True, True, [])
    assert env.log == ["a", "b", "c", "d"]


def test_async_tools_through_a_wrapper() -> None:
    class Bare(TextEnv):
        def start(self) -> str:
            return "Hello."

        @tool
        async def own(self) -> str:
            """The environment's own."""
            return "own"

    env = ToolUse(Bare(), [wait, hang])
    env.reset(seed=0)
    action = render_action("", [ToolCall("own", {}), ToolCall("wait", {"seconds": 0}), ToolCall("hang", {})])
    said, *_, info = env.step(action)
    assert said == "waited 0.0\nhang: no answer within 0.1 s\nown"
    assert info["errors"] == ["tool_timeout"]
    assert env.step(call("own"))[0] == "own"
