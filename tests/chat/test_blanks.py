"""Text with blanks: filled, or refused with what may stand there."""

import pytest

from agentopd.chat.blanks import Blanks
from agentopd.chat.hint import Hint
from agentopd.errors import ConfigError


def test_blanks_are_filled_and_braces_stay() -> None:
    form = Blanks.of("prompt", '{a}: {{"x": {b}}}', ("a", "b", "c"))
    assert form.names == {"a", "b"}
    assert form.filled({"a": "{b}", "b": "1", "c": ""}) == '{b}: {"x": 1}'
    assert Blanks.of("prompt", "none", ("a",)).filled({}) == "none"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{d}", r"^prompt='\{d\}': \{d\} stands for nothing; there are: \{a\}, \{b\}; write \{\{"),
        ("{a.b}", r"\{a\.b\} stands for nothing"),
        ("{a!r}", r"\{a\} stands for nothing"),
        ("{}", r"\{\} stands for nothing"),
        ("{a", r"expected '\}'.*; write \{\{ and \}\}"),
    ],
)
def test_what_is_no_blank_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Blanks.of("prompt", text, ("a", "b"))


@pytest.mark.parametrize("text", ["{a", "a}", "{a!}"])
def test_blanks_and_hints_tell_braces_that_do_not_close_alike(text: str) -> None:
    with pytest.raises(ConfigError) as first:
        Blanks.of("hint", text, ("a",))
    with pytest.raises(ConfigError) as second:
        Hint(text)
    assert str(first.value) == str(second.value)
    assert str(first.value).endswith("; write {{ and }} for braces that are text")
