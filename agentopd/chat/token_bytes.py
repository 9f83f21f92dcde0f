"""The bytes that each token of a tokenizer stands for, so that texts cut in different ways can be laid side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from agentopd.chat.tokenizer import special_ids
from agentopd.errors import ConfigError

SPACE = "\u2581"
"""What stands for a space in tokens of SentencePiece."""


class TokenBytes:
    """The exact bytes of a tokenizer's tokens.

    Known are byte-level BPE, whose tokens are written in an alphabet of bytes, and SentencePiece, with ``<0x..>`` for single bytes. What
    a normaliser changed before a text was cut shows: the bytes are those that the model reads.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Reads how the tokenizer decodes.

        Raises:
            ConfigError: Its tokens do not say which bytes they stand for, as those of WordPiece, which lose their spaces.
        """
        self.tokenizer = tokenizer
        described = json.loads(tokenizer.backend_tokenizer.to_str())
        steps = [step["type"] for step in _steps(described.get("decoder"))]
        spaced = "Metaspace" in steps or any(_spaces(step) for step in _steps(described.get("decoder")))
        if "ByteLevel" not in steps and not spaced:
            raise ConfigError(
                f"the tokens of {tokenizer.name_or_path!r} do not say which bytes they stand for: it decodes by {', '.join(steps) or 'nothing'}, and "
                "byte-level BPE and SentencePiece are known; choose a model with such a tokenizer"
            )
        self._byte_level = "ByteLevel" in steps

    @cached_property
    def of(self) -> tuple[bytes | None, ...]:
        """By id; ``None`` of special tokens, and of ids that are no token."""
        special = {*special_ids(self.tokenizer), self.tokenizer.unk_token_id}
        added = {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items()}
        found: list[bytes | None] = [None] * len(self.tokenizer)
        for token, i in self.tokenizer.get_vocab().items():
            if i not in special and i < len(found):
                found[i] = added[i].encode() if i in added else self._decoded(token)
        return tuple(found)

    def _decoded(self, token: str) -> bytes:
        if self._byte_level:
            return (
                bytes(_ALPHABET[char] for char in token) if all(char in _ALPHABET for char in token) else token.encode()
            )
        return bytes([int(token[3:5], 16)]) if is_byte(token) else token.replace(SPACE, " ").encode()

    def pieces(self, tokens: Sequence[int]) -> list[bytes | None]:
        """The bytes of each token of a turn; without the space in front that some tokenizers put there, and take away again."""
        pieces = [self.of[i] if 0 <= i < len(self.of) else None for i in tokens]
        first = next((n for n, piece in enumerate(pieces) if piece), None)
        if self._byte_level or first is None or None in pieces[:first]:
            return pieces
        head = pieces[first] or b""
        if head.startswith(b" ") and str(self.tokenizer.decode(list(tokens[: first + 1]))).encode() == head[1:]:
            pieces[first] = head[1:]
        return pieces

    def by_bytes(self) -> Mapping[bytes, int]:
        """The id that stands for some bytes; where several do, one that is written out is preferred to a single byte's, an added one to both."""
        names, added = (
            self.tokenizer.convert_ids_to_tokens(list(range(len(self.of)))),
            self.tokenizer.added_tokens_decoder,
        )
        found: dict[bytes, tuple[int, int]] = {}
        for i, piece in enumerate(self.of):
            rank = 2 if i in added else 0 if not self._byte_level and is_byte(str(names[i])) else 1
            if piece and rank > found.get(piece, (-1, 0))[0]:
                found[piece] = (rank, i)
        return {piece: i for piece, (_, i) in found.items()}


def is_byte(token: str) -> bool:
    """Whether SentencePiece writes a single byte so."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The single decoders that a tokenizer decodes by."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _spaces(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Replace" and step.get("pattern") == {"String": SPACE} and step.get("content") == " "


def _alphabet() -> dict[str, int]:
    """What byte-level BPE writes for each byte: itself where that can be seen, else the next character from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): byte for n, byte in enumerate(unseen)}


_ALPHABET = _alphabet()
