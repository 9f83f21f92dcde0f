"""What a right answer is, for environments that ask what is known."""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import TypeAlias
from unicodedata import normalize

Known: TypeAlias = str | float
"""A known answer: text, a number, or a truth value, which is the word for it."""

LARGEST = 300
"""Powers of ten of a number; larger ones, and smaller, are none."""


_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{2,3})*,\d{3}(\.\d*)?")
"""A number with commas between its thousands, or as in India its hundreds too; in ``3,5`` the comma may be a point, or part two numbers."""


def words(text: str) -> str:
    """A text without what capitals, white space and the way accents are encoded (NFC or not) add to it."""
    return normalize("NFC", " ".join(text.split()).casefold())


def number(text: Known) -> Fraction | None:
    """The exact value of ``1,234.5``, ``-7``, ``3/4`` or ``$12``; nothing of what is no finite number."""
    above, line, below = str(text).replace("\u2212", "-").strip().removeprefix("$").partition("/")
    try:
        parts = [Decimal(_ungrouped(part.strip())) for part in ((above, below) if line else (above,))]
    except InvalidOperation:
        return None
    if not all(part.is_finite() and abs(part.adjusted()) <= LARGEST for part in parts) or (line and not parts[1]):
        return None
    return Fraction(parts[0]) / Fraction(parts[1]) if line else Fraction(parts[0])


def _ungrouped(digits: str) -> str:
    return digits.replace(",", "") if _GROUPED.fullmatch(digits) else digits


def exactly(answer: str, known: Iterable[Known]) -> bool:
    """Whether an answer is one of those that are known: a text by its words, in any case, a number by its exact value."""
    given, value = words(answer), number(answer)
    return any(
        given == words(str(one)) if isinstance(one, str | bool) else value is not None and value == number(one)
        for one in known
    )


def nearly(answer: str, known: Iterable[Known], tolerance: float = 0.0) -> bool:
    """Whether an answer is one of the numbers that are known, texts of numbers among them, as far as ``tolerance``.

    Args:
        answer: What was answered.
        known: Of which any is right.
        tolerance: How far apart numbers may be, relative to the larger one. Without it they are the same exactly.
    """
    value = number(answer)
    others = [other for one in known if (other := number(one)) is not None]
    if value is None:
        return False
    return any(abs(value - other) <= Fraction(tolerance) * max(abs(value), abs(other)) for other in others)
