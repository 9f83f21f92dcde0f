"""Blocks that tell what is wrong with a call."""

from agentopd.tooling.action import LONGEST_REASON, call, malformed, parse_action


def test_a_block_tells_its_problem() -> None:
    text = f"{call('price', item='pear')}\n{malformed('close it with </tool_call>')}"
    parsed = parse_action(text)
    assert parsed.problems == ("close it with </tool_call>",)
    assert [one.name for one in parsed.calls] == ["price"]
    assert len(parse_action(malformed("a" * 9999)).problems[0]) == LONGEST_REASON
