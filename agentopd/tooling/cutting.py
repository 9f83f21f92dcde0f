"""Long answers are cut, and say so in one way wherever it happens: ``… [cut: 10000 of 53211 characters]``."""

from unicodedata import category

from agentopd.tooling.recording import note_cut

MAX_CHARACTERS = 10_000
"""What a tool may answer where nothing else is said."""
_JOINER = "\u200d"
_BACK = 16
"""How far a cut moves back to spare a character that is made of several: no more, since text may hold nothing but accents."""


def cut(text: str, limit: int, start: int = 0, tail: int = 0) -> str:
    """``text`` from ``start`` on, or ``limit`` characters of that and the marker, where it is longer. The call that runs then counts as cut.

    A cut never stands before an accent, a variation selector or a skin tone, beside a joiner, or between the halves of a surrogate pair,
    for which fewer characters may be left. Flags, which are two letters, may be divided.

    Args:
        text: Any text.
        limit: Characters that are left, without the marker.
        start: How many to leave out at the beginning. The marker counts them: it says where to go on.
        tail: How many of ``limit`` to take from the end; the marker then stands in between.
    """
    if len(text) - start <= limit:
        return text[start:]
    end = _back(text, len(text) - tail, start)
    head = _back(text, start + limit - (len(text) - end), start)
    return f"{text[start:head]}{cut_mark(head + len(text) - end, len(text))}" + (f"\n{text[end:]}" if tail else "")


def cut_mark(shown: int, whole: int | None, what: str = "characters") -> str:
    """The marker behind what was cut. The call that runs counts as cut.

    Args:
        shown: How much is left, or how far one has got.
        whole: How much there is; ``None`` where nobody counted.
        what: Of which it is so much.
    """
    note_cut()
    return f"… [cut: {shown} of {'more' if whole is None else whole} {what}]"


def _back(text: str, place: int, start: int) -> int:
    """The nearest place at or before ``place``, and behind ``start``, at which ``text`` can be divided; ``place`` where none is near."""
    for earlier in range(place, max(place - _BACK, start), -1):
        if earlier == len(text) or not _joined(text[earlier - 1], text[earlier]):
            return earlier
    return max(place, start)


def _joined(one: str, other: str) -> bool:
    """Whether two characters that follow each other are parts of one that is seen."""
    if "\ud800" <= one <= "\udbff" and "\udc00" <= other <= "\udfff":
        return True
    return one == _JOINER or other == _JOINER or category(other)[0] == "M" or "\U0001f3fb" <= other <= "\U0001f3ff"
