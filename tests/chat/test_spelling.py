"""The bytes of each id: joined, they are the text."""

import pytest
from chat_cases import tokenizer_of
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from agentopd.chat.spelling import BYTE_OF, spelling


@pytest.mark.parametrize(
    "text",
    ["Two pears cost 17, naïve café €€ 日本 \U0001f600\n\tx", "<tool_call>{}<|end|>", bytes(range(128)).decode()],
)
def test_the_spelling_of_a_texts_ids_is_the_text(text: str) -> None:
    tokenizer = tokenizer_of("ours")
    spelt = spelling(tokenizer)
    assert len(spelt) == len(tokenizer)
    assert b"".join(spelt[i] or b"" for i in tokenizer.encode(text, add_special_tokens=False)) == text.encode()


def test_every_byte_has_a_character() -> None:
    assert sorted(BYTE_OF.values()) == [*range(256)]


def test_pieces_of_sentencepiece_are_spelt_with_spaces_and_bytes() -> None:
    made = Tokenizer(models.BPE({"<unk>": 0, "<0xE2>": 1, "\u2581two": 2, "x": 3}, [], unk_token="<unk>"))
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)  # type: ignore[no-untyped-call]
    assert spelling(tokenizer)[1:] == (b"\xe2", b" two", b"x", b"</s>")


def test_what_is_not_known_is_none() -> None:
    made = Tokenizer(models.WordLevel({"two": 0, "##o": 1}, unk_token="two"))
    assert spelling(PreTrainedTokenizerFast(tokenizer_object=made)) == (None, None)  # type: ignore[no-untyped-call]
