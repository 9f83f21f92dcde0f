"""Blocks that tell what is wrong with a call."""

import json
import time

import pytest

from agentopd.chat.formats import read
from agentopd.env import make
from agentopd.tooling.action import DEEPEST, LONGEST_REASON, PIECE, call, malformed, parse_action


def test_a_block_tells_its_problem() -> None:
    text = f"{call('price', item='pear')}\n{malformed('close it with </tool_call>')}"
    parsed = parse_action(text)
    assert parsed.problems == ("close it with </tool_call>",)
    assert [one.name for one in parsed.calls] == ["price"]
    assert len(parse_action(malformed("a" * 9999)).problems[0]) == LONGEST_REASON


def test_arguments_nested_too_deep_are_told_and_never_come_out_of_a_step() -> None:
    """At some depth they can still be read where they are parsed, and no longer a few calls further down."""
    env = make("agentopd/Questions-v0")
    for depth in (DEEPEST - 1, DEEPEST, *range(900, 1000)):
        text = f'<tool_call>{{"name": "answer", "arguments": {{"answer": {"[" * depth}{"]" * depth}}}}}</tool_call>'
        env.reset(seed=0)
        observation, *_, info = env.step(text)
        assert info["errors"] == ["bad_arguments" if depth < DEEPEST else "malformed_call"]
    assert f"nested more than {DEEPEST} deep" in parse_action(text).problems[0] or "recursion" in observation
    deep: list[object] = []
    for _ in range(DEEPEST):
        deep = [deep]
    with pytest.raises(ValueError, match="the arguments of answer are nested more than"):
        call("answer", answer=deep)


@pytest.mark.parametrize(
    ("format", "piece"),
    [("hermes", "<tool_call>"), ("hermes", '<tool_call>{"name": "'), ("qwen-coder", "<tool_call>"), ("glm", "<tool_call></tool_call>"), ("xml", '<invoke name="f">')],
)  # fmt: skip
def test_blocks_that_are_all_malformed_take_time_that_grows_with_their_number(format: str, piece: str) -> None:
    """Of the reader and, since it has a sentence for each, of whoever reads what that wrote."""

    def seconds(count: int) -> float:
        begin = time.thread_time()
        assert len(parse_action(read(format, piece * count)[0]).problems) >= count - 1
        return time.thread_time() - begin

    seconds(100)
    assert seconds(16_000) < 10 * max(seconds(4_000), 0.02)


@pytest.mark.parametrize("size", [PIECE - 20, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE, 5 * PIECE])
@pytest.mark.parametrize("filler", ["x", "\\u00e9", "\\ud83d\\ude00", "\\n", "1"])
def test_a_call_is_read_whatever_its_length(size: int, filler: str) -> None:
    """The decoder is given pieces, whose ends fall into words, escapes and numbers."""
    for more in range(14):
        body = filler * (size // len(filler)) + "x" * more
        value = f"[0.{'1' * (size % 300)}5e-3, true, null, {json.dumps('y' * more)}]"
        text = f'<tool_call>\n{{"name": "f", "arguments": {{"a": "{body}", "b": {value}}}}}\n</tool_call>'
        found, _ = parse_action(f"So.\n{text}\n{call('g')}").calls
        assert found.arguments == json.loads(text[12:-13])["arguments"]
    assert parse_action(f'<tool_call>{{"name": "{filler * size}').problems == ("the block is not closed",)
    assert parse_action(f'<tool_call>{{"a": "{filler * size}" "b"}}</tool_call>').problems[0].startswith("invalid JSON")
