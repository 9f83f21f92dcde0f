from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from chat_cases import ASK, NAMES, TEMPLATES, TEXTS, TOOLS, tokenizer_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import PreTrainedTokenizerFast

from agentopd.chat import Action, Chat
from agentopd.chat.guard import Guard
from agentopd.chat.tokenizer import build_tokenizer
from agentopd.errors import ConfigError
from agentopd.tooling.action import ParsedAction, call, parse_action, render_action
from agentopd.types import Message, ToolCall


@cache
def chat_of(name: str) -> Chat:
    return Chat(tokenizer_of(name))


def said(chat: Chat, text: str) -> Action:
    """What a model says when it writes ``text`` and ends its turn."""
    return chat.read([*chat.tokenizer.encode(text, add_special_tokens=False), chat.end_of_turn])


def decoded(chat: Chat, tokens: list[int]) -> str:
    return str(chat.tokenizer.decode(tokens))


def plainly(chat: Chat, messages: list[Message], tools: list[dict[str, Any]] | None, generate: bool = True) -> str:
    rendered = chat.tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=generate, tokenize=False)  # type: ignore[arg-type]
    return str(rendered)


def played(chat: Chat, turns: list[tuple[str, list[Message]]]) -> Iterator[tuple[str, list[int], list[Message]]]:
    """The drift, tokens and messages after each turn; every action is what the template would render."""
    messages, tokens = list(ASK), chat.prompt(ASK, TOOLS)
    for canonical, observations in turns:
        written = chat.write(messages, canonical, TOOLS)
        action = chat.read(written)
        extension = chat.extend(messages, action, observations, TOOLS)
        tokens = extension.tokens if extension.drift == "forked" else [*tokens, *written, *extension.tokens]
        messages = [*messages, action.message, *observations]
        yield extension.drift, tokens, messages


TURNS: list[tuple[str, list[Message]]] = [
    (call("look_up", item="pear"), [{"role": "tool", "name": "look_up", "content": "17\n"}]),
    ("Let me see.\n" + call("look_up", item="é <|im_end|>"), [{"role": "tool", "content": "unknown <|end|>"}]),
    (
        render_action("", [ToolCall("look_up", {"item": "a", "n": [1, {"b": None}]}), ToolCall("look_up", {})]),
        [{"role": "tool", "content": " 1"}, {"role": "tool", "content": "2"}],
    ),
    ("It costs 17 coins.", [{"role": "user", "content": "\nThanks. And an apple?"}]),
    ("<tool_call>\n{broken\n</tool_call>", [{"role": "user", "content": "That is no call."}]),
]


@pytest.mark.parametrize("name", NAMES)
def test_invariant_1_token_in_token_out(name: str) -> None:
    chat = chat_of(name)
    for drift, tokens, messages in played(chat, TURNS):
        assert drift == "clean"
        assert tokens == chat.prompt(messages, TOOLS)


@pytest.mark.parametrize("name", NAMES)
def test_invariant_1_what_the_model_wrote_stays_however_odd(name: str) -> None:
    chat = chat_of(name)
    odd = [
        *chat.tokenizer.encode("pe"),
        *chat.tokenizer.encode("ar \n  "),
        30,
        220,
        chat.end_of_turn,
    ]  # not how it would be encoded
    action = chat.read(odd)
    observations: list[Message] = [{"role": "tool", "content": "17"}]
    extension = chat.extend(ASK, action, observations, TOOLS)
    usual = chat.extend(ASK, said(chat, call("look_up", item="pear")), observations, TOOLS)
    assert extension.drift == "clean"
    assert extension.tokens == usual.tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_turn_cut_at_the_limit_is_closed_by_context(name: str) -> None:
    chat = chat_of(name)
    tokens = chat.write(ASK, call("look_up", item="pear"), TOOLS)
    observations: list[Message] = [{"role": "user", "content": "Go on."}]
    clean = chat.extend(ASK, chat.read(tokens), observations, TOOLS)
    cut = chat.read(tokens[:-2])
    realigned = chat.extend(ASK, cut, observations, TOOLS)
    assert not cut.stopped
    assert realigned.drift == "realigned"
    assert realigned.tokens == [chat.end_of_turn, *clean.tokens]


def test_thinking_that_the_template_drops_forks_the_segment() -> None:
    chat = chat_of("chatml")
    action = said(chat, "<think>\npear?\n</think>\n\n" + call("look_up", item="pear"))
    assert action.canonical == call("look_up", item="pear")
    assert action.message["content"] == "<think>\npear?\n</think>\n\n"
    tool = chat.extend(ASK, action, [{"role": "tool", "content": "17"}], TOOLS)
    assert tool.drift == "clean"  # this template keeps thinking until the next user message
    again: list[Message] = [{"role": "user", "content": "And an apple?"}]
    forked = chat.extend(ASK, action, again, TOOLS)
    assert forked.drift == "forked"
    assert forked.tokens == chat.prompt([*ASK, action.message, *again], TOOLS)
    assert "pear?\n</think>" not in chat.tokenizer.decode(forked.tokens)


def test_thinking_is_not_what_the_environment_reads() -> None:
    chat = chat_of("chatml")
    assert said(chat, "<think>a <tool_call> b</think>\n\n7").canonical == "7"
    assert said(chat, "a\n</think>\n\n7").canonical == "7"  # the prompt opened it
    assert said(chat, "<think>a").canonical == ""  # it never ended
    assert said(chat_of("ours"), "<think>a</think>7").canonical == "<think>a</think>7"  # knows no thinking
    in_call = call("look_up", item="x") + "</think>"
    assert said(chat, in_call).calls == (ToolCall("look_up", {"item": "x"}),)


def test_template_kwargs_reach_the_template() -> None:
    closed = Chat(tokenizer_of("chatml"), {"closed": True})
    assert decoded(closed, closed.prompt(ASK)).endswith("assistant\n<think>\n\n</think>\n\n")
    assert closed.read(closed.write(ASK, "7")).canonical == "7"


@pytest.mark.parametrize(("name", "end"), [("ours", "<|end|>"), *((n, t[2]) for n, t in TEMPLATES.items())])
def test_end_of_turn_comes_from_the_template(name: str, end: str) -> None:
    chat = chat_of(name)
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn) == end
    assert name == "ours" or chat.end_of_turn != chat.tokenizer.eos_token_id


def specials_of(chat: Chat) -> dict[int, str]:
    return {i: token.content for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}


def hostile(name: str) -> st.SearchStrategy[str]:
    specials = list(specials_of(chat_of(name)).values())
    pieces = [
        *specials,
        *(s[:-1] for s in specials),
        Guard.MARK,
        Guard.BREAK,
        Guard.LITERAL,
        "<tool_call>",
        "\\u003c",
        "<",
        "|>",
        "\n",
        "17",
        "a",
    ]
    return st.lists(st.sampled_from(pieces) | st.text(max_size=3), max_size=6).map("".join)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_text_that_imitates_special_tokens_stays_text(name: str, data: st.DataObject) -> None:
    chat, text = chat_of(name), hostile(name)
    messages: list[Message] = [
        {"role": "system", "content": data.draw(text)},
        {"role": "user", "content": data.draw(text)},
        {"role": "assistant", "content": data.draw(text)},
        {"role": "tool", "content": data.draw(text)},
    ]
    tools = None if name == "plain" else TOOLS
    tokens = chat.prompt(messages, tools)
    benign = chat.prompt([{**message, "content": "a"} for message in messages], tools)
    special = specials_of(chat)
    assert [i for i in tokens if i in special] == [i for i in benign if i in special]
    assert chat.tokenizer.decode(tokens) == plainly(chat, messages, tools)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=Guard.MARK)))
def test_other_text_is_tokenised_plainly(name: str, text: str) -> None:
    chat, messages = chat_of(name), [*ASK, Message(role="tool", content=text)]
    assume(not any(special in text for special in specials_of(chat).values()))
    assert chat.prompt(messages) == chat.tokenizer(plainly(chat, messages, None), add_special_tokens=False)["input_ids"]


def test_overlapping_special_strings_are_all_broken() -> None:
    guard = Guard(["<a>", "a><b", "<b>"])
    assert guard.pieces(guard.apply("<a><b>")) == ["<", "a", "><", "b>"]
    assert guard.pieces(guard.apply("x⧟,y⧟")) == ["x⧟,y⧟"]


def test_half_surrogates_are_replaced() -> None:
    chat = chat_of("ours")
    assert chat.tokenizer.decode(chat.prompt([{"role": "user", "content": "a\ud800b"}])) == "<|user|>a?b<|assistant|>"


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100)
@given(data=st.data())
def test_read_never_raises(name: str, data: st.DataObject) -> None:
    chat = chat_of(name)
    size = len(chat.tokenizer)
    marks = [i for mark in ("<tool_call>", "</tool_call>", '{"name": "') for i in chat.tokenizer.encode(mark)]
    ids = st.integers(-3, size + 3) | st.sampled_from([*marks, chat.end_of_turn]) | st.just(10**12)
    tokens = data.draw(st.lists(ids, max_size=20))
    action = chat.read(tokens)
    assert action.stopped == (tokens[-1:] == [chat.end_of_turn])
    parsed = parse_action(action.text)
    if name in ("ours", "llama3", "plain"):
        written = (
            action.text if name != "llama3" else action.canonical
        )  # which says what is wrong in words of its own form
        assert action.canonical == (written if parsed.problems else render_action(parsed.content, parsed.calls))
    extension = chat.extend(ASK, action, [{"role": "user", "content": "Go on."}], TOOLS)
    assert extension.drift == "forked" if name == "chatml" and "</think>" in action.text else extension.tokens


def test_read_gives_the_text_verbatim() -> None:
    chat = chat_of("ours")
    empty = chat.read([])
    assert (empty.text, empty.canonical, empty.calls, empty.content, empty.stopped) == ("", "", (), "", False)
    broken = said(chat, "see <tool_call>{]</tool_call>")
    assert broken.canonical == broken.text == broken.message["content"] == "see <tool_call>{]</tool_call>"
    middle = chat.read([chat.end_of_turn, *chat.tokenizer.encode("a  b"), chat.end_of_turn])
    assert middle.text == "<|end|>a  b"


def test_a_deeply_nested_call_is_no_problem() -> None:
    chat = chat_of("ours")
    text = f'<tool_call>{{"name": "look_up", "arguments": {{"x": {"[" * 90}{"]" * 90}}}}}</tool_call>'
    action = said(chat, text)
    assert len(action.calls) == 1
    assert chat.extend(ASK, action, [{"role": "tool", "content": "no"}], TOOLS).drift == "clean"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_written_reads_back(name: str, data: st.DataObject) -> None:
    chat, text = chat_of(name), hostile(name)
    values = json_values | text
    calls = data.draw(st.lists(st.builds(ToolCall, text, st.dictionaries(text, values, max_size=2)), max_size=2))
    content = data.draw(text.map(lambda t: t.replace("<tool_call>", "").strip()))
    canonical = render_action("" if parse_action(content).problems else content, calls)
    tokens = chat.write(ASK, canonical, TOOLS)
    assert tokens.count(chat.end_of_turn) == 1
    assert tokens[-1] == chat.end_of_turn
    assert chat.read(tokens).canonical == canonical


def test_calls_are_written_as_the_template_writes_them() -> None:
    ours, llama = chat_of("ours"), chat_of("llama3")
    canonical = call("look_up", item="pear")
    compact = '<tool_call>{"name": "look_up", "arguments": {"item": "pear"}}</tool_call><|end|>'
    assert ours.tokenizer.decode(ours.write(ASK, canonical, TOOLS)) == compact
    own = '{"name": "look_up", "parameters": {"item": "pear"}}<|eot_id|>'
    assert llama.tokenizer.decode(llama.write(ASK, canonical, TOOLS)) == own
    both = f"{canonical}\n{canonical}"
    assert decoded(llama, llama.write(ASK, both, TOOLS)) == both + "<|eot_id|>"  # it refuses two calls in one turn


def test_a_call_that_the_template_garbles_is_written_as_text() -> None:
    chat = chat_of("chatml")  # it puts names between quotes as they are
    canonical = render_action("", [ToolCall('a"b', {})])
    assert chat.read(chat.write(ASK, canonical, TOOLS)).canonical == canonical


def test_a_turn_that_ends_in_another_way_starts_a_new_segment() -> None:
    tokenizer = build_tokenizer(TEXTS, 600)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|eom|>"]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = str(tokenizer.chat_template).replace(
        '{{- "<|end|>" -}}', '{{- "<|eom|>" if message.tool_calls else "<|end|>" -}}'
    )
    tokenizer.chat_template = tokenizer.chat_template.replace(
        '"<|" ~ message.role ~ "|>" ~ message.content', '"<|" ~ message.role ~ "|>" ~ message.content ~ "<|end|>"'
    )
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.end_of_turn) == "<|end|>"
    action = said(chat, call("look_up", item="pear"))
    answer: list[Message] = [{"role": "tool", "content": "17"}]
    extension = chat.extend(ASK, action, answer, TOOLS)
    assert extension.drift == "forked"
    assert extension.tokens == chat.prompt([*ASK, action.message, *answer], TOOLS)
    assert chat.read(chat.write(ASK, action.canonical, TOOLS)).calls == action.calls


def test_white_space_that_the_end_of_turn_swallows_is_not_added() -> None:
    tokenizer = build_tokenizer(TEXTS, 600)
    tokenizer.add_special_tokens({"eos_token": AddedToken("<|stop|>", special=True, normalized=False, rstrip=True)})
    tokenizer.chat_template = str(tokenizer.chat_template).replace('{{- "<|end|>" -}}', '{{- "<|stop|>\\n" -}}')
    chat = Chat(tokenizer)
    for drift, tokens, messages in played(chat, TURNS):
        assert drift == "clean"
        assert tokens == chat.prompt(messages, TOOLS)


@pytest.mark.parametrize("imitation", ["<|STOP|>", "<|Stop|>", "\uff1c|stop|\uff1e", "so ⧟ <|STOP|> <|stop|>"])
def test_text_that_a_normaliser_turns_into_a_special_token_stays_text(imitation: str) -> None:
    tokenizer = build_tokenizer(TEXTS, 600)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_special_tokens({"eos_token": AddedToken("<|stop|>", special=True, normalized=True)})
    tokenizer.chat_template = str(tokenizer.chat_template).replace('{{- "<|end|>" -}}', '{{- "<|stop|>" -}}')
    stop = int(tokenizer.get_vocab()["<|stop|>"])
    assert stop in tokenizer.encode(imitation, add_special_tokens=False)
    chat = Chat(tokenizer)
    plain, hostile = (chat.prompt([{"role": "user", "content": text}], TOOLS) for text in ("so", imitation))
    assert hostile.count(stop) == plain.count(stop)
    long = "and so on, " * 200
    apart = len(chat.prompt([{"role": "user", "content": long + imitation}], TOOLS)) - len(hostile)
    assert apart < len(tokenizer.encode(long)) + 30  # only what imitates is broken


def test_tools_that_the_template_hides_are_told_in_the_system_message() -> None:
    chat = chat_of("plain")
    with_system = decoded(chat, chat.prompt(ASK, TOOLS))
    without = decoded(chat, chat.prompt(ASK[1:], TOOLS))
    assert with_system.startswith("<|im_start|>system\nShop well.\n\nYou can call these tools")
    assert without.startswith("<|im_start|>system\nYou can call these tools")
    assert '"name": "look_up"' in with_system
    assert with_system.count("<|im_start|>system") == without.count("<|im_start|>system") == 1


@pytest.mark.parametrize(("name", "times"), [("ours", 2), ("chatml", 3)])  # one that knows thinking may drop it
def test_an_extension_renders_the_conversation_twice(name: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, rendered = Chat(tokenizer_of(name)), []
    render: Callable[..., Any] = chat.tokenizer.apply_chat_template
    action = said(chat, "7")

    def counted(*args: Any, **kwargs: Any) -> Any:
        rendered.append(args)
        return render(*args, **kwargs)

    monkeypatch.setattr(chat.tokenizer, "apply_chat_template", counted)
    chat.extend(ASK, action, [{"role": "user", "content": "Go on."}], TOOLS)
    assert len(rendered) == times


def with_template(template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer(TEXTS, 600)
    tokenizer.chat_template = template
    return tokenizer


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="no chat template"):
        Chat(with_template(None))
    with pytest.raises(ConfigError, match="holds no special token"):
        Chat(with_template("{% for message in messages %}{{ message.content }}\n{% endfor %}"))
    with pytest.raises(ConfigError, match="cannot render a user's message and its answer: no such thing; set"):
        Chat(with_template("{{ raise_exception('no such thing') }}"))
    with pytest.raises(ConfigError, match=r"cannot render .* it does not show what was said"):
        Chat(with_template("hello<|end|>"))
    with pytest.raises(ConfigError, match="call_format: 'yaml' is no call format; there are: hermes"):
        Chat(tokenizer_of("ours"), call_format="yaml")
    with pytest.raises(ConfigError, match="refuses a conversation of user, system: roles are"):
        chat_of("ours").prompt(ASK[::-1])


def test_parsed_action_is_what_formats_give() -> None:
    action = said(chat_of("ours"), "see\n" + call("look_up", item="pear"))
    assert ParsedAction(action.content, action.calls) == parse_action(action.canonical)


def test_whether_every_turn_forks_is_known_beforehand() -> None:
    tokenizer = build_tokenizer(TEXTS, 600)
    assert not Chat(tokenizer).forks
    message = "{%- for message in messages -%}"
    assert message in str(tokenizer.chat_template)
    counted = (
        message + "{{- (messages | length - loop.index0) | string -}}"
    )  # the last is 1, so each turn counts all anew
    tokenizer.chat_template = str(tokenizer.chat_template).replace(message, counted)
    chat = Chat(tokenizer)
    assert chat.forks
    action = said(chat, call("look_up", item="pear"))
    assert chat.extend(ASK, action, [{"role": "tool", "content": "17"}], TOOLS).drift == "forked"
