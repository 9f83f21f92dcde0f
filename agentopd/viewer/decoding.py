"""From token ids to text: the tokenizer of a run, and what each token adds to the text."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from agentopd.run_files import CHECKPOINTS, STUDENT

Decode = Callable[[Sequence[int]], str]
"""From token ids to text, special tokens included."""


def tokenizer_of(path: Path) -> Decode | None:
    """The tokenizer that lies in a run folder (``student/``, or the newest checkpoint) or is the folder itself; ``None`` without one.

    Raises:
        ValueError: It cannot be read.
    """
    checkpoints = sorted(
        path.glob(f"{CHECKPOINTS}/*/tokenizer.json"), key=lambda file: file.stat().st_mtime, reverse=True
    )
    for file in [path / STUDENT / "tokenizer.json", *checkpoints, path / "tokenizer.json"]:
        if file.exists():
            return _decoder(file)
    return None


def _decoder(file: Path) -> Decode:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file}: {error}") from error
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


UNKNOWN = "\ufffd"
"""What bytes that are no character are decoded to."""
PENDING = 16
"""Tokens after which those before the last character are no longer waited for."""


class Texts:
    """What tokens add to a text, and what each is alone; the latter is decoded once."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self.alone: Callable[[int], str] = lru_cache(maxsize=None)(lambda token: decode([token]))

    def of(self, ids: Sequence[int]) -> list[str]:
        """As :func:`pieces`; where tokens alone make up the text they are taken as they are."""
        texts = [self.alone(token) for token in ids]
        return texts if "".join(texts) == self._decode(ids) else pieces(ids, self._decode)


def pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token adds; a character of several tokens stands with the last of them.

    Each is decoded behind those right before it alone, so that long texts take time in proportion; so do those whose bytes are no
    characters.
    """
    texts: list[str] = []
    first, done, before = 0, 0, ""
    for stop in range(1, len(ids) + 1):
        whole = decode(ids[first:stop])
        open_end = whole.endswith(UNKNOWN) and stop < len(ids)  # more bytes may make a character of it
        if open_end and stop < done + PENDING:
            texts.append("")
            continue
        held = len(whole) - open_end
        texts.append(whole[len(before) : held] if whole.startswith(before) else "")
        first, done = done, stop
        before = decode(ids[first:done])
        before = before[: len(before) - open_end]
    return texts
