import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from agentopd.chat.tokenizer import CALL_PARTS, SPECIAL, build_tokenizer, special_ids
from agentopd.errors import ConfigError
from agentopd.models import load_tokenizer
from agentopd.tooling.action import call

TEXTS = ["The price of a pear is 17 coins.", call("look_up", item="pear"), "Submit the total of all prices. "] * 3
TOKENIZER = build_tokenizer(TEXTS, 600)
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a price.",
        "parameters": {
            "type": "object",
            "properties": {
                "item": {"type": "string"},
                "count": {"type": ["integer", "null"]},
                "shop": {"enum": ["red", "blue"]},
                "extra": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["item"],
        },
    },
}


def rendered(messages: list[Any], **kwargs: Any) -> str:
    return str(TOKENIZER.apply_chat_template(messages, tokenize=False, **kwargs))


@settings(max_examples=200)
@given(
    st.text() | st.lists(st.sampled_from([*SPECIAL, *CALL_PARTS, " ", "\n", "7", "pear", "é", "\r\n  "])).map("".join)
)
def test_any_text_is_encoded_exactly(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_words_it_knows_and_digits_are_single_tokens() -> None:
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode("The price of 1234 look_up"))
    assert tokens == ["The", "Ġprice", "Ġof", "Ġ", "1", "2", "3", "4", "Ġ", "look_up"]


def test_a_call_is_little_more_than_its_words() -> None:
    compact = '<tool_call>{"name": "look_up", "arguments": {"item": "pear"}}</tool_call><|end|>'
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode(compact))
    assert tokens == [
        '<tool_call>{"name": "',
        "look_up",
        '", "arguments": {"',
        "item",
        '":Ġ"',
        "pear",
        '"}}</tool_call>',
        "<|end|>",
    ]


def test_same_texts_give_the_same_tokenizer() -> None:
    assert build_tokenizer(iter(TEXTS), 600).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_vocabulary_stays_within_its_size() -> None:
    many = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}{chr(97 + i % 7)}" for i in range(600)]
    assert len(build_tokenizer(many, 400)) == 400
    with pytest.raises(ConfigError, match="vocab_size=100 is too small"):
        build_tokenizer(many, 100)


def test_saved_and_loaded_it_is_the_same(tmp_path: object) -> None:
    TOKENIZER.save_pretrained(str(tmp_path))
    loaded = load_tokenizer(str(tmp_path))
    text = 'a <|end|> <tool_call>{"name": "x" é 3.5'
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.chat_template == TOKENIZER.chat_template
    assert loaded.all_special_tokens == TOKENIZER.all_special_tokens
    assert isinstance(loaded.backend_tokenizer, Tokenizer)


def test_template_is_compact() -> None:
    function = {"name": "look_up", "arguments": {"item": "<pear>"}}
    messages: list[Any] = [
        {"role": "system", "content": "Shop."},
        {"role": "user", "content": "Buy."},
        {"role": "assistant", "content": "I look.", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "3"},
    ]
    tool = 'look_up(item: string, count?: integer|null, shop?: "red"|"blue", extra?: any) Finds a price.'
    block = '<tool_call>{"name": "look_up", "arguments": {"item": "\\u003cpear>"}}</tool_call>'
    start = f"<|system|>Shop.\n{tool}<|user|>Buy."
    whole = f"{start}<|assistant|>I look.{block}<|end|><|tool|>3<|assistant|>"
    assert rendered(messages, tools=[TOOL], add_generation_prompt=True) == whole
    assert rendered(messages[:2], tools=[TOOL]) == start
    assert rendered(messages[1:2], tools=[TOOL, TOOL]) == f"<|system|>{tool}\n{tool}<|user|>Buy."
    assert rendered(messages[1:2]) == "<|user|>Buy."
    assert json.loads(block[len("<tool_call>") : -len("</tool_call>")])["arguments"] == {"item": "<pear>"}


def test_template_marks_what_the_assistant_wrote() -> None:
    messages = [{"role": "user", "content": "pear"}, {"role": "assistant", "content": "price"}]
    out: Any = TOKENIZER.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert TOKENIZER.decode(marked) == "price<|end|>"


def test_template_refuses_a_late_system_message() -> None:
    with pytest.raises(Exception, match="roles are system"):
        rendered([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}])


def test_special_ids_are_all_that_are_marked_so() -> None:
    tokenizer = build_tokenizer(["a b"], 300)
    assert tokenizer.convert_ids_to_tokens(special_ids(tokenizer)) == list(SPECIAL)
    tokenizer.add_tokens([AddedToken("<|extra|>", special=True), AddedToken("plain", special=False)])
    assert tokenizer.convert_ids_to_tokens(special_ids(tokenizer)) == [*SPECIAL, "<|extra|>"]
