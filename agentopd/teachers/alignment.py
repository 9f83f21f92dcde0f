"""Two ways to write one turn laid side by side: which tokens of the one cover the same bytes as which tokens of the other.

Where both texts are the same, all of it is. Where wrappers differ, as those of tool calls do, what both must say holds them
together: words, the names of tools and arguments, and values, each where it can stand in one place only. What lies between two
of these is aligned where it is the same, else as far as it begins and ends alike. What is left between two aligned pieces, on both
sides, is the same part of the turn in two forms. All else is left out, and counted.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from agentopd.types import ToolCall

OURS, THEIRS = "\u0100", "\u0101"
"""What stands for a special token, which is no text and equals nothing of the other side. Each byte is the character of its number."""
_WORD = "[0-9A-Za-z_\x80-\xff]"


class Common(NamedTuple):
    """A piece of text that stands on both sides."""

    ours: int
    theirs: int
    size: int


class Pair(NamedTuple):
    """Tokens ``[start, stop)`` of each side that write the same."""

    ours: tuple[int, int]
    theirs: tuple[int, int]
    size: int
    """Bytes of ours."""
    same: bool = True
    """Whether theirs are the same bytes."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text and how it is cut into tokens."""

    pieces: Sequence[str]

    @classmethod
    def of(cls, pieces: Sequence[bytes | None], special: str) -> "Cut":
        """From the bytes of each token; ``special`` stands for those that are no text."""
        return cls([special if piece is None else piece.decode("latin-1") for piece in pieces])

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)

    def bounds(self) -> Iterator[tuple[int, int, int]]:
        """Of each token that has text: its number, and where that starts and stops."""
        stops = accumulate(map(len, self.pieces))
        return (
            (n, stop - len(piece), stop)
            for n, (piece, stop) in enumerate(zip(self.pieces, stops, strict=True))
            if piece
        )


def align(ours: Cut, theirs: Cut, said: Sequence[Sequence[str]], forms: bool = True) -> list[Pair]:
    """The shortest runs of tokens that write the same, in order.

    Args:
        ours: The turn as the student wrote it.
        theirs: As the teacher would.
        said: What both must say, in order: groups of texts, first the words outside of calls, then what each call names.
        forms: Whether what lies between two runs of the same bytes is a pair too, where both sides say all of it in one order.
    """
    found = same_bytes(ours, theirs, said)
    if not (forms and say_the_same(ours.text, theirs.text, said)):
        return found
    return _with_forms(ours, theirs, found, [_pattern(text) for group in said[:1] for text in group])


def _with_forms(ours: Cut, theirs: Cut, same: Sequence[Pair], words: Sequence[re.Pattern[str]]) -> list[Pair]:
    """Also what both have between two pairs, before the first and behind the last, where each of ``words`` stands in both as often."""
    sizes = [len(piece) if piece != OURS else 0 for piece in ours.pieces]
    ends = Pair((0, 0), (0, 0), 0), Pair((len(ours.pieces),) * 2, (len(theirs.pieces),) * 2, 0)
    forms = []
    for before, after in pairwise([ends[0], *same, ends[1]]):
        here, there = (before.ours[1], after.ours[0]), (before.theirs[1], after.theirs[0])
        texts = "".join(ours.pieces[slice(*here)]), "".join(theirs.pieces[slice(*there)])
        both = here[0] < here[1] and there[0] < there[1]
        if both and all(len({len(word.findall(text)) for text in texts}) == 1 for word in words):
            forms.append(Pair(here, there, sum(sizes[slice(*here)]), same=False))
    return sorted([*same, *forms])


def same_bytes(ours: Cut, theirs: Cut, said: Sequence[Sequence[str]]) -> list[Pair]:
    """The shortest runs of tokens that cover the same bytes; see :func:`align`."""
    starts, stops = _bounds(ours)
    their_starts, their_stops = _bounds(theirs)
    found: list[Pair] = []
    for common in commons(ours.text, theirs.text, said):
        shift = common.theirs - common.ours
        inside = range(common.ours, common.ours + common.size + 1)
        begin: int | None = None
        for at in inside:
            if begin is not None and at in stops and at + shift in their_stops:
                pair = (starts[begin], stops[at] + 1), (their_starts[begin + shift], their_stops[at + shift] + 1)
                found.append(Pair(*pair, at - begin))
                begin = None
            if begin is None and at in starts and at + shift in their_starts:
                begin = at
    return found


def _bounds(cut: Cut) -> tuple[dict[int, int], dict[int, int]]:
    """The tokens by where they start, and by where they stop."""
    bounds = list(cut.bounds())
    return {start: n for n, start, _ in bounds}, {stop: n for n, _, stop in bounds}


def commons(ours: str, theirs: str, said: Sequence[Sequence[str]]) -> list[Common]:
    """The pieces of text that stand on both sides, in order, none next to another on both sides."""
    if ours == theirs:
        return [Common(0, 0, len(ours))] if ours else []
    found: list[Common] = []
    at = Common(0, 0, 0)
    for anchor in [*_anchors(ours, theirs, said), Common(len(ours), len(theirs), 0)]:
        gap = (at.ours + at.size, anchor.ours), (at.theirs + at.size, anchor.theirs)
        for one in [*_alike(ours, theirs, *gap), anchor]:
            _joined(found, one)
        at = anchor
    return found


def _joined(found: list[Common], one: Common) -> None:
    if not one.size:
        return
    if found and (found[-1].ours + found[-1].size, found[-1].theirs + found[-1].size) == one[:2]:
        one = Common(found[-1].ours, found[-1].theirs, found.pop().size + one.size)
    found.append(one)


def _alike(ours: str, theirs: str, here: tuple[int, int], there: tuple[int, int]) -> list[Common]:
    """How far two stretches begin alike, and end alike."""
    most = min(here[1] - here[0], there[1] - there[0])
    begin = 0
    while begin < most and ours[here[0] + begin] == theirs[there[0] + begin]:
        begin += 1
    end = 0
    while end < most - begin and ours[here[1] - 1 - end] == theirs[there[1] - 1 - end]:
        end += 1
    return [Common(here[0], there[0], begin), Common(here[1] - end, there[1] - end, end)]


def _anchors(ours: str, theirs: str, said: Sequence[Sequence[str]]) -> list[Common]:
    """What both say, where each stands in one place only: as far to the left as it can be, and as far to the right."""
    kept = [text for group in _kept(ours, theirs, said) for text in group]
    left, right = (
        (_leftmost(ours, kept) or [], _leftmost(theirs, kept) or []),
        (_rightmost(ours, kept), _rightmost(theirs, kept)),
    )
    places = zip(kept, *left, *right, strict=True)
    return [Common(a, b, len(text)) for text, a, b, last_a, last_b in places if (a, b) == (last_a, last_b)]


def say_the_same(ours: str, theirs: str, said: Sequence[Sequence[str]]) -> bool:
    """Whether all words outside of calls stand on both sides, and these and the calls in one order.

    A value may be written in two ways; a call of which nothing is written alike may stand anywhere.
    """
    kept = _kept(ours, theirs, said)
    held = len(kept) == len(said) and all(kept[1:])
    return ours == theirs or (held and [*map(list, kept[:1])] == [*map(list, said[:1])])


def _kept(ours: str, theirs: str, said: Sequence[Sequence[str]]) -> list[list[str]]:
    """The groups that stand on both sides, one behind the other, each without what only one side says; the others say nothing."""
    groups = [[text for text in group if _occurs(text, ours) and _occurs(text, theirs)] for group in said]
    kept: list[list[str]] = []
    for group in groups:
        whole = [text for one in [*kept, group] for text in one]
        if _leftmost(ours, whole) is not None and _leftmost(theirs, whole) is not None:
            kept.append(group)
    return kept


def _occurs(text: str, where: str) -> bool:
    return bool(text) and _pattern(text).search(where) is not None


def _leftmost(where: str, texts: Sequence[str]) -> list[int] | None:
    """Where each of ``texts`` stands, one behind the other, as early as it can; ``None`` where they do not."""
    found, at = [], 0
    for text in texts:
        place = _pattern(text).search(where, at)
        if place is None:
            return None
        found.append(place.start())
        at = place.end()
    return found


def _rightmost(where: str, texts: Sequence[str]) -> list[int]:
    """The same as late as it can; ``texts`` stand there."""
    found, limit = [], len(where)
    for text in reversed(texts):
        at = where.rfind(text, 0, limit)
        while _pattern(text).match(where, at) is None:
            at = where.rfind(text, 0, at + len(text) - 1)
        found.append(at)
        limit = at
    return found[::-1]


def _pattern(text: str) -> re.Pattern[str]:
    """``text`` that is no part of a longer word."""
    before, after = (re.match(_WORD, end) is not None for end in (text[0], text[-1]))
    return re.compile(f"{f'(?<!{_WORD})' if before else ''}{re.escape(text)}{f'(?!{_WORD})' if after else ''}")


def said_of(texts: Sequence[str], calls: Sequence[ToolCall], ours: str, theirs: str) -> list[list[str]]:
    """What a turn says, whatever it is written in: its texts, and of each call the name and what its arguments are called and hold.

    Args:
        texts: What stands outside of calls.
        calls: The calls.
        ours: The student's text: a text that stands on both sides as a whole is not taken apart into words.
        theirs: The teacher's.
    """
    plain = [_bytes(text.strip()) for text in texts]
    words = [[text] if text in ours and text in theirs else text.split() for text in plain if text]
    return [[word for group in words for word in group], *([_bytes(leaf) for leaf in _leaves(call)] for call in calls)]


def _bytes(text: str) -> str:
    return text.encode("utf-8", "replace").decode("latin-1")


def _leaves(call: ToolCall) -> Iterator[str]:
    yield call.name
    yield from _inside(call.arguments)


def _inside(value: Any) -> Iterator[str]:
    """The names and values within plain data; not those that formats write in different ways."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _inside(str(name))
            yield from _inside(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _inside(item)
    elif isinstance(value, str):
        yield from value.split()
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value)
