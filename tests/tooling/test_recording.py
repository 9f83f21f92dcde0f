"""Every call is recorded: name, outcome, seconds, and whether its answer was cut."""

import asyncio
import time

import gymnasium
import pytest

from agentopd.env import TextEnv
from agentopd.errors import ConfigError, ToolError
from agentopd.isolation.session import Session
from agentopd.tooling import Tool, ToolSet, cut, render_action, tool
from agentopd.tooling.cutting import MAX_CHARACTERS
from agentopd.tooling.recording import recording
from agentopd.types import CallOutcome, Task, ToolCall


@tool
def tell(times: int, refuse: bool = False) -> str:
    """Tell."""
    if refuse:
        raise ToolError("no" * times, kind="closed")
    return "ab" * times


@tool(max_characters=None)
def all_of_it(times: int) -> str:
    """Tell all."""
    return "ab" * times


@tool(max_characters=10, time_limit=5.0)
def little(times: int) -> str:
    """Tell little."""
    return "ab" * times


@tool(max_characters=10)
async def later(seconds: float) -> str:
    """Tell later."""
    await asyncio.sleep(seconds)
    return "a" * 20


@tool(time_limit=5.0)
def own(times: int) -> str:
    """Cut by itself, in a thread."""
    return cut("ab" * times, 4)


@tool(time_limit=0.05)
def slow() -> str:
    """Sleep."""
    time.sleep(0.5)
    return ""


@tool(time_limit=5.0)
def outer() -> str:
    """Call another, in a thread."""
    return TOOLS.call(ToolCall("tell", {"times": 1}))


TOOLS = ToolSet([tell, all_of_it, little, later, own, slow, outer])


def record(*calls: ToolCall) -> list[tuple[str, str, bool]]:
    with recording() as found:
        list(TOOLS.call_all(calls))
    return [(one.name, one.outcome, one.cut) for one in found.outcomes]


def test_calls_are_recorded_in_their_order_with_what_became_of_them() -> None:
    calls = [
        ToolCall("tell", {"times": 1}), ToolCall("tell", {"times": 6000}), ToolCall("tell", {"times": 6000, "refuse": True}),
        ToolCall("tell", {}), ToolCall("nobody", {}), ToolCall("later", {"seconds": 0.2}), ToolCall("later", {"seconds": 0.0}),
        ToolCall("little", {"times": 6}), ToolCall("own", {"times": 3}), ToolCall("slow", {}), ToolCall("all_of_it", {"times": 6000}),
        ToolCall("outer", {}),
    ]  # fmt: skip
    assert record(*calls) == [
        ("tell", "ok", False), ("tell", "ok", True), ("tell", "closed", True), ("tell", "bad_arguments", False),
        ("nobody", "unknown_tool", False), ("later", "ok", True), ("later", "ok", True), ("little", "ok", True), ("own", "ok", True),
        ("slow", "tool_timeout", False), ("all_of_it", "ok", False), ("outer", "ok", False), ("tell", "ok", False),
    ]  # fmt: skip


def test_seconds_are_those_of_each_call() -> None:
    with recording() as found:
        list(TOOLS.call_all([ToolCall("later", {"seconds": seconds}) for seconds in (0.4, 0.0)]))
    slow, quick = (one.seconds for one in found.outcomes)
    assert 0.4 <= slow < 2.0
    assert quick < 0.35


def test_nothing_is_recorded_where_nobody_asks_and_recordings_do_not_mix() -> None:
    with recording() as first, recording() as second:
        TOOLS.call(ToolCall("tell", {"times": 1}))
    TOOLS.call(ToolCall("tell", {"times": 1}))
    assert first.outcomes == ()
    assert len(second.outcomes) == 1


class Talker(TextEnv):
    extra_tools = (tell, later)

    def start(self) -> str:
        return "Talk."


def test_a_session_gives_the_outcomes_through_wrappers() -> None:
    gymnasium.register("tests/Talker-v0", entry_point=Talker, max_episode_steps=4)
    try:
        session = Session(Task("tests/Talker-v0", 0), advice=False, needs_expert=False)
        assert session.reset().outcomes == ()
        action = render_action("", [ToolCall("tell", {"times": 1}), ToolCall("later", {"seconds": 0.0})])
        seen = session.step(action)
        assert session.step("Nothing.").outcomes == ()
    finally:
        del gymnasium.registry["tests/Talker-v0"]
    assert [type(one) for one in seen.outcomes] == [CallOutcome] * 2
    assert [(one.name, one.outcome, one.cut) for one in seen.outcomes] == [("tell", "ok", False), ("later", "ok", True)]
    assert sum(one.seconds for one in seen.outcomes) <= seen.seconds


def test_answers_are_cut_with_one_marker() -> None:
    assert MAX_CHARACTERS == 10_000
    long = "ab" * 6000
    assert Tool.of(tell)(times=6000) == long[:10_000] + "… [cut: 10000 of 12000 characters]"
    assert Tool.of(tell)(times=5000) == long[:10_000]
    assert Tool.of(all_of_it)(times=6000) == long
    assert Tool.of(little)(times=6) == "ababababab… [cut: 10 of 12 characters]"
    with pytest.raises(ToolError, match=r"^(no){5000}… \[cut: 10000 of 12000 characters\]$"):
        Tool.of(tell)(times=6000, refuse=True)
    with pytest.raises(ConfigError, match="tool tell: max_characters=0 must be at least 1, or None for no limit"):
        tool(max_characters=0)(tell)


@pytest.mark.parametrize(
    ("text", "limit", "start", "tail", "left"),
    [
        ("abcdef", 6, 0, 0, "abcdef"),
        ("abcdef", 4, 2, 0, "cdef"),
        ("abcdef", 2, 2, 0, "cd… [cut: 4 of 6 characters]"),
        ("abcdef", 4, 0, 2, "ab… [cut: 4 of 6 characters]\nef"),
        ("abe\u0301d", 3, 0, 0, "ab… [cut: 2 of 5 characters]"),
        ("ab\U0001f44d\U0001f3fdcd", 3, 0, 0, "ab… [cut: 2 of 6 characters]"),
        ("a\U0001f468\u200d\U0001f469b", 2, 0, 0, "a… [cut: 1 of 5 characters]"),
        ("a\U0001f468\u200d\U0001f469b", 3, 0, 0, "a… [cut: 1 of 5 characters]"),
        ("a\ud83d\ude00b", 2, 0, 0, "a… [cut: 1 of 4 characters]"),
        ("abcde\u0301", 3, 0, 1, "a… [cut: 3 of 6 characters]\ne\u0301"),
        ("\u0301" * 40, 3, 0, 0, "\u0301\u0301\u0301… [cut: 3 of 40 characters]"),
        ("abe\u0301\u0301", 1, 2, 0, "e… [cut: 3 of 5 characters]"),
    ],
)
def test_where_text_is_cut(text: str, limit: int, start: int, tail: int, left: str) -> None:
    assert cut(text, limit, start, tail) == left
