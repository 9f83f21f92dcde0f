"""What a right answer is, by hand."""

from fractions import Fraction

import pytest

from agentopd.envs.answers import Known, exactly, nearly, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Fraction(12)),
        (" -1,234.50 ", Fraction(-2469, 2)),
        ("1,00,000/+2,000", Fraction(50)),
        ("\u22127", Fraction(-7)),
        ("3/4", Fraction(3, 4)),
        ("$12", Fraction(12)),
        (0.1, Fraction(1, 10)),
        (2**60 + 1, Fraction(2**60 + 1)),
        ("1e3", Fraction(1000)),
    ],
)
def test_numbers_are_exact(text: Known, value: Fraction) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "nan",
        "snan",
        "-inf",
        "1/0",
        "1/snan",
        "1e999999999",
        "1e-999999999",
        "9" * 5000,
        "1/2/3",
        True,
        "3,5",
        "1.234,5",
        "0,125",
        "1,2345",
        "1,,000",
    ],
)
def test_what_is_no_number(text: Known) -> None:
    assert number(text) is None
    assert not nearly(str(text), [text], 0.5)


@pytest.mark.parametrize(
    ("answer", "known", "same"),
    [
        (" In  BO ", "in Bo", True),
        ("12.0", 12, True),
        ("12.0", "12", False),
        ("1000001", 1_000_000, False),
        (str(2**60), 2**60 + 1, False),
        ("true", True, True),
        ("1", True, False),
        ("snan", 3, False),
        ("NaN", "nan", True),
        ("3,5", 35, False),
        ("CAFE\u0301", "caf\u00e9", True),
    ],
)
def test_the_same_exactly(answer: str, known: Known, same: bool) -> None:
    assert exactly(answer, ["another", known]) == same


def test_nearly_the_same() -> None:
    assert nearly("3.5", ["three and a half", "3.50"])
    assert not nearly("1000001", [1_000_000])
    assert nearly("1000001", [1_000_000], 1e-6)
    assert not nearly("1000002", [1_000_000], 1e-6)
    assert not nearly("1e300/1e-300", [1.5, 2.5], 1e-6)  # larger than any float
