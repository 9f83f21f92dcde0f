"""Text in messages that imitates special tokens stays text."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any


class Guard:
    """Keeps text that imitates special tokens text.

    Templates paste the contents of messages into one string, where an observation's ``<|im_end|>`` would end the turn. So every
    special string in a content is broken by a mark before rendering; rendered text is tokenised in pieces, cut at the marks.
    The mark is printable, for templates that print a ``repr``. A mark in the content itself is escaped.

    Some tokenizers look for special tokens in normalised text, where ``<|IM_END|>`` may be one. Content that holds such a string is
    halved until no part does.

    A template may also put text between marks of its own, so that ``|im_end|`` becomes ``<|im_end|>``: what it puts ``around`` is known,
    and text that would complete a special string there is kept apart from it.
    """

    MARK, LITERAL, BREAK = "⧟", "⧟.", "⧟,"

    def __init__(
        self,
        specials: Sequence[str],
        normalise: Callable[[str], str] = str,
        normalised: Sequence[str] = (),
        around: Iterable[tuple[str, str]] = (),
    ) -> None:
        """Special strings of one character cannot be broken and are left out.

        Args:
            specials: The strings of special tokens.
            normalise: What the tokenizer does to text before it looks for some of them.
            normalised: Those that it looks for only then.
            around: What stands before and behind text that is rendered.
        """
        tails: dict[str, list[str]] = {}
        for special in specials:
            if len(special) > 1:
                tails.setdefault(special[0], []).append(re.escape(special[1:]))
        heads = (f"{re.escape(head)}(?={'|'.join(tail)})" for head, tail in tails.items())
        self._first = re.compile("|".join(heads) or r"(?!)")
        self._normalise = normalise
        self._normalised = [normal for special in normalised if len(normal := normalise(special)) > 1]
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")
        self._around = [pair for pair in dict.fromkeys(around) if self._begins_or_ends(specials, *pair)]
        self._text = lru_cache(maxsize=8192)(self._guard)

    def apply(self, value: Any) -> Any:
        """A copy of plain data with every string guarded, keys included."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self.apply(key): self.apply(item) for key, item in value.items()}
        return [self.apply(item) for item in value] if isinstance(value, list | tuple) else value

    def _guard(self, text: str) -> str:
        text = text.encode("utf-8", "replace").decode()  # half surrogates, which no tokenizer takes
        guarded = self._first.sub(lambda match: match[0] + self.BREAK, text.replace(self.MARK, self.LITERAL))
        parts = [part for piece in self.pieces(guarded) for part in self._apart(piece)]
        apart = self.BREAK.join(part.replace(self.MARK, self.LITERAL) for part in parts)
        return (
            f"{self.BREAK}{apart}{self.BREAK}" if any(self._completes(apart, *pair) for pair in self._around) else apart
        )

    def _begins_or_ends(self, specials: Sequence[str], left: str, right: str) -> bool:
        """Whether a special string may begin in ``left``, or end in ``right``, and go on in what stands between."""
        cuts = (
            (self._normalise(text)[:i], self._normalise(text)[i:]) for text in specials for i in range(1, len(text))
        )
        left, right = self._normalise(left), self._normalise(right)
        return any(left.endswith(head) or right.startswith(tail) for head, tail in cuts if head and tail)

    def _completes(self, text: str, left: str, right: str) -> bool:
        """Whether guarded text makes a special string with what stands around it."""
        found = self._special.finditer(left + text + right)
        if any(one.start() < len(left) + len(text) and one.end() > len(left) for one in found):
            return True
        alone = self._imitations(left) + self._imitations(right)
        return any(self._imitations(left + part + right) > alone for part in self.pieces(text))

    def _apart(self, text: str) -> list[str]:
        if len(text) < 2 or not self._imitates(text):
            return [text]
        half = len(text) // 2
        return self._apart(text[:half]) + self._apart(text[half:])

    def _imitates(self, text: str) -> bool:
        """Whether the tokenizer would find a special token in text that does not hold its string."""
        return bool(self._imitations(text))

    def _imitations(self, text: str) -> int:
        if not self._normalised:
            return 0
        normal_text = self._normalise(text)
        return sum(normal_text.count(normal) for normal in self._normalised)

    def pieces(self, text: str) -> list[str]:
        """Guarded text, cut where special strings were broken, as it was before."""
        return [piece.replace(self.LITERAL, self.MARK) for piece in text.split(self.BREAK)]
