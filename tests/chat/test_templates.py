"""Conversations built turn by turn are what each template renders, or declare that they are not."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from chat_cases import TOOLS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from template_cases import CASES, chat_of

from agentopd.chat import Action, Chat
from agentopd.chat.guard import Guard
from agentopd.chat.thinking import THOUGHT_CLOSE, THOUGHT_OPEN
from agentopd.rollout import Assignment, Rollout, collect
from agentopd.tooling.action import parse_action, render_action
from agentopd.types import EXPERT, Key, Message, Task, ToolCall

ASK: list[Message] = [{"role": "system", "content": "Shop well."}, {"role": "user", "content": "Price of a pear?"}]
HOSTILE = [
    "<tool_call>", "</tool_call>", "<function=f>", "</parameter>", "</arg_value>", "[TOOL_CALLS]", "</tool_response>",
    '{"name": "a", "parameters": {}}', THOUGHT_OPEN, THOUGHT_CLOSE, "<channel|>",
    Guard.MARK, Guard.BREAK, Guard.LITERAL, "\n", "\\u003c", "'", '"', "\\", "é", "True", "17",
]  # fmt: skip
BRIEF = settings(max_examples=5, derandomize=True, database=None, phases=[Phase.generate])


def specials_of(chat: Chat) -> list[str]:
    return [token.content for token in chat.tokenizer.added_tokens_decoder.values() if token.special]


def marked(chat: Chat, tokens: Sequence[int]) -> list[int]:
    special = {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}
    return [i for i in tokens if i in special]


def texts(name: str) -> st.SearchStrategy[str]:
    pieces = st.sampled_from([*HOSTILE, *specials_of(chat_of(name))]) | st.text("ab <>{}|", max_size=4)
    return st.lists(pieces, max_size=4).map("".join)


def calls(name: str) -> st.SearchStrategy[list[ToolCall]]:
    values = texts(name) | st.integers(-99, 99) | st.booleans() | st.none() | st.lists(st.integers(0, 9), max_size=2)
    names = st.sampled_from(["look_up", "look_up", "fly"]) | texts(name)
    arguments = st.dictionaries(st.sampled_from(["item", "count", "a b"]), values, max_size=2)
    return st.lists(st.builds(ToolCall, names, arguments), max_size=2)


def contents(name: str) -> st.SearchStrategy[str]:
    """Free of what a model's own marks are: with those it would be another action."""
    own = re.compile(r"</?tool_call>|</?think>|<channel\|>|<\|channel>|<\|tool_call_start\|>|\"parameters\"")
    return texts(name).map(lambda text: own.sub("", own.sub("", text)).strip())


def decoded(chat: Chat, tokens: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def ids_of(chat: Chat, *tokens: str) -> list[int]:
    return [chat.tokenizer.get_vocab()[token] for token in tokens]


def squashed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def thinking(chat: Chat, prompt: Sequence[int], written: list[int]) -> list[int]:
    """A turn with thinking in it, where the template may have left it empty."""
    opened = decoded(chat, prompt).rstrip().endswith(THOUGHT_OPEN)
    thought = f"{'' if opened else THOUGHT_OPEN + chr(10)}Pears, then.\n{THOUGHT_CLOSE}\n\n"
    ids, close = chat.tokenizer.encode(thought, add_special_tokens=False), chat.tokenizer.encode(THOUGHT_CLOSE)[0]
    return [*ids, *(written[written.index(close) + 1 :] if close in written else written)]


def answers(action: Action, text: str) -> list[Message]:
    told: list[Message] = [{"role": "tool", "name": call.name, "content": text} for call in action.calls]
    return told or [{"role": "user", "content": f"So? {text}"}]


@pytest.mark.parametrize("name", CASES)
@BRIEF
@given(data=st.data())
def test_invariant_1_turn_by_turn_is_what_the_template_renders_or_forks(name: str, data: st.DataObject) -> None:
    chat = chat_of(name)
    messages, prompt = list(ASK), chat.prompt(ASK, TOOLS)
    for _ in range(3):
        content, said = data.draw(contents(name)), data.draw(calls(name))
        written = chat.write(messages, render_action(content, said), TOOLS)
        assert written[-1] in chat.ends_of_turn
        assert sum(i in chat.ends_of_turn for i in written) == 1
        action = chat.read(written, TOOLS, prompt)
        assert (action.calls, action.content.strip(), action.stopped) == (tuple(said), content, True)
        kind = data.draw(st.sampled_from(["as it is", "as it is", "thought", "cut"]))
        if kind == "thought" and THOUGHT_CLOSE in CASES[name].template:
            written = thinking(chat, prompt, written)
        if kind == "cut":
            written = written[: data.draw(st.integers(0, len(written) - 1))]
        action = chat.read(written, TOOLS, prompt)
        observations = answers(action, data.draw(texts(name)))
        extension = chat.extend(messages, action, observations, TOOLS)
        messages = [*messages, action.message, *observations]
        whole = chat.prompt(messages, TOOLS)
        if extension.drift == "forked":
            assert extension.tokens == whole
        else:
            built = [*prompt, *written, *extension.tokens]
            assert extension.drift == ("clean" if action.stopped else "realigned")
            assert squashed(decoded(chat, built)) == squashed(decoded(chat, whole))
            assert kind == "cut" or marked(chat, built) == marked(chat, whole)
        prompt = whole


FORKS = {
    "clean clean clean clean": "never",
    "clean clean clean forked": "before a user's message",
    "forked clean clean clean": "unless it follows a tool's answer",
    "forked forked forked forked": "every turn",
}
"""When a turn starts a new segment, by the drifts of three turns with calls and one without."""


def played(name: str) -> str:
    """The drifts of turns in plain words, with thinking where the template knows it and the prompt does not close it."""
    chat = chat_of(name)
    messages, tokens, drifts = list(ASK), chat.prompt(ASK, TOOLS), list[str]()
    pear, fig = (ToolCall("look_up", {"item": item}) for item in ("pear", "fig"))
    for content, said in (("", [pear]), ("I see.", [pear]), ("", [pear, fig]), ("Well.", [])):
        written = chat.write(messages, render_action(content, said), TOOLS)
        text = decoded(chat, tokens)
        if THOUGHT_CLOSE in CASES[name].template and not text.rstrip().endswith(THOUGHT_CLOSE):
            written = thinking(chat, tokens, written)
        action = chat.read(written, TOOLS, tokens)
        observations = answers(action, "17 coins")
        extension = chat.extend(messages, action, observations, TOOLS)
        messages = [*messages, action.message, *observations]
        whole = chat.prompt(messages, TOOLS)
        tokens = extension.tokens if extension.drift == "forked" else [*tokens, *written, *extension.tokens]
        assert squashed(decoded(chat, tokens)) == squashed(decoded(chat, whole))
        merges = re.search(r"(\n\n|:|\]|<think>\n)$", text)  # a turn's first token cannot be one with these
        assert merges or THOUGHT_CLOSE in CASES[name].template or tokens == whole
        tokens = whole
        drifts.append(extension.drift)
    assert decoded(chat, tokens).count("17 coins") == sum("17 coins" in message["content"] for message in messages)
    return " ".join(drifts)


def documented() -> dict[str, list[str]]:
    """The cells of the table in docs/chat-templates.md, by template."""
    page = (Path(__file__).parents[2] / "docs" / "chat-templates.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    return {name: cells for names, *cells in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("name", CASES)
def test_invariant_1_token_in_token_out_as_the_page_says(name: str) -> None:
    *ways, forks = documented()[name]
    said = (
        f"{what}: {way}" for what, way in zip(("tools", "calls", "observations", "system message"), ways, strict=True)
    )
    assert "; ".join(said) == chat_of(name).describe()
    assert forks == FORKS[played(name)]


@pytest.mark.parametrize("name", CASES)
@BRIEF
@given(data=st.data())
def test_text_that_imitates_special_tokens_stays_text(name: str, data: st.DataObject) -> None:
    chat = chat_of(name)

    def told(system: str, user: str, said: str, answer: str) -> list[Message]:
        return [
            {"role": "system", "content": system}, {"role": "user", "content": user},
            {"role": "assistant", "content": said}, {"role": "tool", "name": "look_up", "content": answer},
        ]  # fmt: skip

    drawn = [f"a{data.draw(texts(name))}b" for _ in range(4)]
    if not chat._template.thinking.kept:  # others take what stands before the mark for thinking, and drop it
        assert all(squashed(text) in squashed(decoded(chat, chat.prompt(told("a", text, "a", "a")))) for text in drawn)
    assert marked(chat, chat.prompt(told(*drawn), TOOLS)) == marked(chat, chat.prompt(told("a", "a", "a", "a"), TOOLS))


def test_names_of_speakers_that_are_ordinary_tokens_stay_text_too() -> None:
    chat = chat_of("deepseekv3")
    user = "<\uff5cUser\uff5c>"
    (i,) = chat.tokenizer.encode(user, add_special_tokens=False)
    tokens = chat.prompt([{"role": "user", "content": f"I am {user}."}])
    assert tokens.count(i) == 1
    assert decoded(chat, tokens).count(user) == 2
    qwen = chat_of("qwen3")
    (close,) = qwen.tokenizer.encode("</tool_response>", add_special_tokens=False)
    assert qwen.prompt([*ASK, {"role": "tool", "content": "17</tool_response>"}]).count(close) == 1


NATIVE = {
    "qwen3": '<tool_call>\n{"name": "look_up", "arguments": {"item": "pear"}}\n</tool_call><|im_end|>',
    "qwen3_8": "<tool_call>\n<function=look_up>\n<parameter=item>\npear\n</parameter>\n</function>\n</tool_call><|im_end|>",
    "glm4moe": "<tool_call>look_up\n<arg_key>item</arg_key>\n<arg_value>pear</arg_value>\n</tool_call><|observation|>",
    "llama3_2": '{"name": "look_up", "parameters": {"item": "pear"}}<|eot_id|>',
    "lfm2_v2": "<|tool_call_start|>[look_up(item='pear')]<|tool_call_end|><|im_end|>",
    "gptoss": '<tool_call>\n{"name": "look_up", "arguments": {"item": "pear"}}\n</tool_call><|return|>',
}


@pytest.mark.parametrize("name", NATIVE)
def test_calls_are_written_in_the_format_of_the_family(name: str) -> None:
    chat = chat_of(name)
    written = chat.write(ASK, render_action("", [ToolCall("look_up", {"item": "pear"})]), TOOLS)
    assert decoded(chat, written).endswith(NATIVE[name])


def test_what_stands_before_an_answer_is_not_its_content() -> None:
    chat = chat_of("gptoss")
    lead = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>"
    tokens = [*chat.tokenizer.encode(f"{lead}17.", add_special_tokens=False), chat.end_of_turn]
    assert chat.read(tokens).canonical == "17."
    assert chat.extend(ASK, chat.read(tokens), [{"role": "user", "content": "So?"}]).drift == "forked"
    gemma = chat_of("gemma4_open")
    tokens = gemma.tokenizer.encode("<|channel>thought\nHm.\n<channel|>17.", add_special_tokens=False)
    assert gemma.read(tokens).canonical == "17."


DRAFT = f"Should I? {render_action('', [ToolCall('look_up', {'item': 'pear'})])} No: "


@pytest.mark.parametrize(
    ("name", "opens"),
    [
        ("qwen3", "<think>"),
        ("qwen3_8", ""),
        ("glm4moe", "\n<think>"),
        ("deepseek_r1_distill", ""),
        ("gemma4_open", "<|channel>thought\n"),
        ("gptoss", "<|channel|>analysis<|message|>"),
    ],
)
def test_of_a_thought_that_never_ends_nothing_is_said_or_called(name: str, opens: str) -> None:
    chat = chat_of(name)
    prompt = chat.prompt(ASK, TOOLS)
    for end in ([chat.end_of_turn], []):
        tokens = [*chat.tokenizer.encode(opens + DRAFT, add_special_tokens=False), *end]
        action = chat.read(tokens, TOOLS, prompt)
        assert (action.canonical, action.calls, action.content) == ("", (), "")
        assert squashed(action.thought) == squashed(action.text) == squashed(opens + DRAFT)
        extension = chat.extend(ASK, action, [{"role": "user", "content": "So?"}], TOOLS)
        assert decoded(chat, extension.tokens).count("So?") == 1


def test_whether_a_thought_is_open_is_told_by_the_prompt_of_the_turn() -> None:
    chat = chat_of("deepseek_r1_distill")  # opens one behind a user's message, none behind a tool's
    called = chat.read(chat.write(ASK, render_action("", [ToolCall("look_up", {"item": "pear"})]), TOOLS), TOOLS)
    behind_tool = chat.prompt([*ASK, called.message, {"role": "tool", "content": "17"}], TOOLS)
    tokens = [*chat.tokenizer.encode("It costs 17.", add_special_tokens=False), chat.end_of_turn]
    assert chat.read(tokens, TOOLS, chat.prompt(ASK, TOOLS)).canonical == ""
    assert chat.read(tokens, TOOLS, behind_tool).canonical == "It costs 17."


@pytest.mark.parametrize("name", ["qwen3", "qwen3_8", "deepseek_r1_distill"])
def test_a_thought_that_never_ended_is_written_as_it_was(name: str) -> None:
    chat = chat_of(name)
    prompt = chat.prompt(ASK, TOOLS)
    opens = "" if chat.opens_thought(prompt) else THOUGHT_OPEN
    for thought in (f"{opens}Hm, 17", f"{THOUGHT_OPEN}Hm, 17"):
        written = chat.write(ASK, "", TOOLS, thought)
        assert decoded(chat, written[:-1]) == f"{opens}Hm, 17"
        assert chat.read(written, TOOLS, prompt).canonical == ""


def test_a_turn_that_the_next_message_ends() -> None:
    chat = chat_of("glm4moe")
    user, tool = ids_of(chat, "<|user|>", "<|observation|>")
    assert chat.end_of_turn == user
    assert chat.ends_of_turn == {user, tool}
    written = chat.write(ASK, render_action("", [ToolCall("look_up", {})]), TOOLS)
    assert written[-1] == tool
    answer: list[Message] = [{"role": "tool", "content": "17"}]
    assert chat.extend(ASK, chat.read(written, TOOLS), answer, TOOLS).drift == "clean"
    other = chat.read([*written[:-1], user], TOOLS)
    assert chat.extend(ASK, other, answer, TOOLS).drift == "forked"
    cut = chat.extend(ASK, chat.read(written[:-1], TOOLS), answer, TOOLS)
    assert (cut.drift, cut.tokens[0]) == ("realigned", tool)


def test_a_closing_mark_before_the_end_is_no_content_and_is_put_in_where_it_lacks() -> None:
    chat = chat_of("cohere2")
    close, end = ids_of(chat, "<|END_RESPONSE|>", "<|END_OF_TURN_TOKEN|>")
    written = chat.write(ASK, "17.")
    assert written[-2:] == [close, end]
    assert chat.read(written).canonical == "17."
    answer: list[Message] = [{"role": "user", "content": "So?"}]
    clean = chat.extend(ASK, chat.read(written), answer)
    assert chat.extend(ASK, chat.read(written[:-1]), answer).tokens == [end, *clean.tokens]
    assert chat.extend(ASK, chat.read(written[:-2]), answer).tokens == [close, end, *clean.tokens]


@pytest.mark.parametrize(
    "name",
    ["gemma", "strict", "phi3", "plain_chatml", "idefics3", "llama3_1", "qwen3_8", "glm4moe", "gptoss", "deepseekv3"],
)
def test_an_expert_plays_an_environment_through_every_fallback(name: str) -> None:
    chat, task = chat_of(name), Task("agentopd/Checkout-v0", 3)
    assigned = Assignment(task, Key("run", 0, 0), EXPERT, seed=0, source="fresh")
    limits = Rollout(max_turns=16, max_new_tokens=400, max_length=60000)
    [trajectory] = collect([assigned], {}, chat, limits)
    assert trajectory.outcome.success
    assert len(trajectory.turns) > 2
    prompt = chat.prompt(trajectory.opening, trajectory.tools)
    assert trajectory.segments[0].tokens_T[: len(prompt)].tolist() == prompt
    instructions, question = (message["content"] for message in trajectory.opening)
    shown = decoded(chat, prompt)
    assert shown.index(instructions) < shown.index(question)


def test_without_a_system_role_that_text_opens_the_first_user_message() -> None:
    chat = chat_of("gemma")
    assert decoded(chat, chat.prompt(ASK)) == (
        "<bos><start_of_turn>user\nShop well.\n\nPrice of a pear?<end_of_turn>\n<start_of_turn>model\n"
    )
    told = decoded(chat, chat.prompt(ASK, TOOLS))
    assert told.startswith("<bos><start_of_turn>user\nShop well.\n\nYou can call these tools")
    assert told.count("<start_of_turn>user") == 1
    two: list[Message] = [{"role": "tool", "name": "look_up", "content": content} for content in ("17", "3")]
    said: Message = {"role": "assistant", "content": "Both."}
    assert "user\n<tool_response>\n17\n</tool_response>\n\n<tool_response>\n3\n</tool_response><end" in decoded(
        chat, chat.prompt([*ASK, said, *two], TOOLS)
    )


def test_a_schema_tells_text_from_numbers() -> None:
    chat = chat_of("qwen3_8")
    text = "<tool_call>\n<function=look_up>\n<parameter=item>\n17\n</parameter>\n<parameter=n>\n17\n</parameter>\n</function>\n</tool_call>"
    tokens = chat.tokenizer.encode(text, add_special_tokens=False)
    assert chat.read(tokens, TOOLS, prompt=()).calls == (ToolCall("look_up", {"item": "17", "n": 17}),)
    assert chat.read(tokens, prompt=()).calls == (ToolCall("look_up", {"item": 17, "n": 17}),)


MALFORMED = {
    "qwen3_8": "<tool_call>\n<function=look_up>\n<parameter=item>\npear\n</function>\n</tool_call>",
    "glm4moe": "<tool_call>look_up\n<arg_key>item</arg_key>\n</tool_call>",
    "llama3_1": '{"name": "look_up", "parameters": {"item": ',
    "lfm2_v2": "<|tool_call_start|>[look_up('pear']<|tool_call_end|>",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_call_is_a_problem_that_the_environment_sees(name: str) -> None:
    chat = chat_of(name)
    tokens = [*chat.tokenizer.encode(MALFORMED[name], add_special_tokens=False), chat.end_of_turn]
    action = chat.read(tokens, TOOLS, prompt=())
    assert not action.calls
    assert parse_action(action.canonical).problems
    assert MALFORMED[name] in action.message["content"]
    extension = chat.extend(ASK, action, [{"role": "user", "content": "So?"}], TOOLS)
    assert "So?" in decoded(chat, extension.tokens)


@pytest.mark.parametrize("name", ["llama3_1", "qwen3_8", "glm4moe", "lfm2_v2", "qwen3", "gptoss"])
@settings(max_examples=40, derandomize=True, database=None)
@given(data=st.data())
def test_read_never_raises(name: str, data: st.DataObject) -> None:
    chat = chat_of(name)
    marks = [
        "<function=",
        "<parameter=",
        "</function>",
        "<|tool_call_start|>[f(",
        "x=1)]",
        "<|tool_call_end|>",
        '"parameters": ',
        "{",
        "}",
        "1e999",
    ]
    text = data.draw(st.lists(st.sampled_from([*marks, *HOSTILE]), max_size=9).map("".join))
    action = chat.read(chat.tokenizer.encode(text, add_special_tokens=False), TOOLS)
    assert parse_action(action.canonical).calls == action.calls
    assert chat.extend(ASK, action, [{"role": "user", "content": "So?"}], TOOLS).tokens
