"""Formats that are named by hand: the tools are told in them, and turns are written, read and answered in them."""

import re
from pathlib import Path
from typing import Any

import pytest
import template_cases
from chat_cases import ASK, NAMES, TOOLS, tokenizer_of

from agentopd.chat import Chat
from agentopd.tooling.action import call, parse_action
from agentopd.types import Message

WRITTEN = {
    "react": 'Thought: I look.\nAction: look_up\nAction Input: {"item": "17"}',
    "xml": 'I look.\n<invoke name="look_up">\n<parameter name="item">17</parameter>\n</invoke>',
}
TOLD = {
    "react": "Action Input: its arguments, as a JSON object",
    "xml": '<invoke name="...">\n<parameter name="...">...</parameter>',
}
ANSWERS: list[Message] = [
    {"role": "tool", "name": "look_up", "content": "2"},
    {"role": "tool", "name": "look_up", "content": "3"},
]
ACTION = f"I look.\n{call('look_up', item='17')}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call_format", WRITTEN)
def test_a_conversation_in_a_format_that_the_template_does_not_know(name: str, call_format: str) -> None:
    chat = Chat(tokenizer_of(name), call_format=call_format)
    text = chat.tokenizer.decode(chat.prompt(ASK, TOOLS))
    assert TOLD[call_format] in text
    assert '"name": "look_up"' in text
    tokens = chat.write(ASK, ACTION, TOOLS)
    action = chat.read(tokens, TOOLS)
    assert (action.text, action.canonical, action.stopped) == (WRITTEN[call_format], ACTION, True)
    following = chat.extend(ASK, action, ANSWERS, TOOLS)
    assert following.drift == "clean"
    shown = chat.tokenizer.decode(following.tokens)
    assert shown.count("Observation: ") == (2 if call_format == "react" else 0)
    assert "2" in shown
    assert "3" in shown
    assert f"calls: {call_format}, as text" in chat.describe()


@pytest.mark.parametrize("call_format", WRITTEN)
def test_several_calls_in_one_turn_and_words_alone(call_format: str) -> None:
    chat = Chat(tokenizer_of("ours"), call_format=call_format)
    both = "\n".join([call("look_up", item="a\nb"), call("look_up", item="</parameter>")])
    assert chat.read(chat.write(ASK, both, TOOLS), TOOLS).canonical == both
    words = chat.read(chat.write(ASK, "It costs 2.", TOOLS), TOOLS)
    assert (words.canonical, words.calls) == ("It costs 2.", ())
    assert words.text == ("Final Answer: It costs 2." if call_format == "react" else "It costs 2.")
    assert words.message["content"] == words.text


@pytest.mark.parametrize(
    ("call_format", "text", "told"),
    [
        ("react", "Action: look_up", "the Action look_up has no Action Input; expected Action: NAME"),
        ("xml", '<invoke name="look_up">', 'the invoke of look_up is not closed; expected <invoke name="NAME">'),
        ("llama", '{"name": "look_up", "parameters": {', 'expected {"name": ..., "parameters": {...}}'),
    ],
)
def test_the_environment_reads_what_is_wrong_in_words_of_the_format(call_format: str, text: str, told: str) -> None:
    chat = Chat(tokenizer_of("ours"), call_format=call_format)
    action = chat.read([*chat.tokenizer.encode(text, add_special_tokens=False), chat.end_of_turn], TOOLS)
    [problem] = parse_action(action.canonical).problems
    assert told in problem
    assert (action.text, action.message["content"]) == (text, text)


@pytest.mark.parametrize("call_format", WRITTEN)
def test_thinking_is_apart_from_calls_as_text(call_format: str) -> None:
    chat = Chat(tokenizer_of("chatml"), call_format=call_format)
    thought = "<think>\nAction: none\n</think>\n\n"
    given: Any = f"I look.\n{call('look_up', item='</think>')}"
    action = chat.read(chat.write(ASK, given, TOOLS, thought), TOOLS)
    assert (action.thought, action.canonical) == (thought, given)
    bare = chat.read(chat.write(ASK, given, TOOLS), TOOLS)
    assert (bare.thought, bare.canonical) == ("", given)


def test_the_page_s_examples_print_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "chat-templates.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/chat-templates.md", "exec"), {})
        told = re.findall(r"^# (.*)$", example, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == told


@pytest.mark.parametrize("call_format", [None, "react", "xml"])
@pytest.mark.parametrize("name", ["deepseek_r1_distill", "nemotron_3_nano", "nemotron_3_ultra", "qwen3_5_think"])
def test_a_thought_that_the_prompt_opens_is_closed_and_the_action_is_in_its_format(
    name: str, call_format: str | None
) -> None:
    known = template_cases.chat_of(name)
    chat = Chat(known.tokenizer, known.template_kwargs, call_format)
    assert chat.opens_thought(chat.prompt(ASK, TOOLS))
    tokens = chat.write(ASK, ACTION, TOOLS)
    thought, mark, said = str(chat.tokenizer.decode(tokens[: chat.before_end(tokens)])).partition("</think>")
    assert (thought.strip(), mark) == ("", "</think>")
    assert chat.read(tokens, TOOLS).calls == parse_action(ACTION).calls
    native = "<tool_call>\n{" if name.startswith("deepseek") else "<tool_call>\n<function=look_up>"
    assert (WRITTEN[call_format] if call_format else native) in said


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "nemotron_3_nano", "qwen3_5_think", "qwen3"])
def test_a_call_inside_a_thought_is_no_call_whoever_opened_the_thought(name: str) -> None:
    chat = template_cases.chat_of(name)
    written = str(chat.tokenizer.decode(chat.write(ASK, ACTION, TOOLS)[:-1])).partition("</think>")
    native = (written[2] if written[1] else written[0]).lstrip()
    mark = "" if chat.opens_thought(chat.prompt(ASK, TOOLS)) else "<think>\n"
    assert (mark == "") == (name != "qwen3")
    text = f"{mark}I could write {native} here.\n</think>\n\n{native}"
    action = chat.read(chat.tokenizer.encode(text, add_special_tokens=False), TOOLS)
    assert action.calls == parse_action(ACTION).calls
    assert action.thought.startswith(f"{mark}I could write {native} here.")
