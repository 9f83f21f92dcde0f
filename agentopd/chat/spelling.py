"""The bytes that each id of a tokenizer stands for, which tokens of other programs can be held against."""

import json
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
"""What a byte-level vocabulary writes for each byte: itself where it is printed, else the next character from 256 on."""
SPACE = "▁"
"""What SentencePiece writes for a space."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def spelling(tokenizer: PreTrainedTokenizerBase) -> tuple[bytes | None, ...]:
    """The bytes of each id, by id; ``None`` where that is not known, as for ids without a token.

    Byte-level vocabularies are read, and those of SentencePiece; in others no id has known bytes, but for added tokens.
    """
    decoder = tokenizer.backend_tokenizer.decoder
    kinds = set(_kinds(json.loads(decoder.__getstate__()))) if decoder is not None else set()
    added = {i: token.content.encode() for i, token in tokenizer.added_tokens_decoder.items()}
    spelt: list[bytes | None] = [None] * len(tokenizer)
    for token, i in tokenizer.get_vocab().items():
        if i < len(spelt):
            spelt[i] = added[i] if i in added else _bytes(token, kinds)
    return tuple(spelt)


def _bytes(token: str, kinds: set[str]) -> bytes | None:
    if "ByteLevel" in kinds:
        return bytes(BYTE_OF[char] for char in token) if all(char in BYTE_OF for char in token) else None
    if kinds & {"ByteFallback", "Metaspace"}:
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()
    return None


def _kinds(decoder: Any) -> Iterator[str]:
    """The types of a decoder, and of those that it is made of."""
    if isinstance(decoder, dict):
        yield str(decoder.get("type"))
        for inner in decoder.get("decoders") or ():
            yield from _kinds(inner)
