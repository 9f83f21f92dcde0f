import pytest
from foreign_cases import GLM, HERMES, foreign, own
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.errors import ConfigError

TOKENIZERS = {"own": own(), "byte level": foreign(), "sentencepiece": foreign(HERMES, 1200, sentencepiece=True)}
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("🙂🏳️‍🌈你好e\u0301ÿ \n\t<>{}\"'")), max_size=40
)


def text_of(pieces: list[bytes | None]) -> bytes:
    assert None not in pieces
    return b"".join(piece or b"" for piece in pieces)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(text=TEXT)
def test_the_bytes_of_the_tokens_are_those_of_the_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert text_of(TokenBytes(tokenizer).pieces(tokens)) == text.encode()


def test_special_tokens_are_no_text() -> None:
    known = TokenBytes(own())
    vocabulary = own().get_vocab()
    found = [known.of[vocabulary[token]] for token in ("<|end|>", "<|user|>", "<tool_call>")]
    assert found == [None, None, b"<tool_call>"]
    assert known.pieces([10**6]) == [None]
    other = TokenBytes(foreign())
    assert other.of[foreign().get_vocab()["</s>"]] is None


def test_an_emoji_is_cut_into_its_bytes() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    tokens = tokenizer("🙂", add_special_tokens=False)["input_ids"]
    assert TokenBytes(tokenizer).pieces(tokens) == [b"", b"\xf0", b"\x9f", b"\x99", b"\x82"]


def test_what_stands_for_bytes_is_a_word_rather_than_a_byte() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = TokenBytes(tokenizer).by_bytes()
    assert tokenizer.convert_ids_to_tokens([ids[b"e"], ids[b"\xf0"], ids[b" "]]) == ["e", "<0xF0>", "\u2581"]
    ours = TokenBytes(own()).by_bytes()
    assert own().convert_ids_to_tokens(ours[b"</tool_call>"]) == "</tool_call>"
    assert len(set(ours.values())) == len(ours)


def test_a_tokenizer_that_loses_bytes_is_refused() -> None:
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_object=made)  # type: ignore[no-untyped-call]
    with pytest.raises(ConfigError, match="decodes by WordPiece, and byte-level BPE and SentencePiece are known"):
        TokenBytes(tokenizer)


@pytest.mark.parametrize("template", [HERMES, GLM])
def test_the_templates_of_these_tests_need_nothing_to_stand_in(template: str) -> None:
    assert not Chat(foreign(template)).falls_back
