"""Hints: privileged facts in a conversation."""

import pytest

from agentopd.chat import Hint
from agentopd.errors import ConfigError
from agentopd.types import Message

ASKED: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}]
FACTS = {"answer": 5, "steps": "add them"}


def test_a_hint_stands_behind_the_opening_and_changes_nothing_else() -> None:
    later: list[Message] = [{"role": "assistant", "content": "4"}, {"role": "user", "content": "No."}]
    shown = Hint("Do this: {steps}. It is {answer}.").shown([*ASKED, *later], FACTS)
    assert shown[1]["content"] == "What is 2 + 3?\n\nDo this: add them. It is 5."
    assert [shown[0], *shown[2:]] == [ASKED[0], *later]
    assert ASKED[1]["content"] == "What is 2 + 3?"


def test_all_facts_one_a_line_and_braces_as_text() -> None:
    assert Hint("{{known}}\n{facts}").filled(FACTS) == "{known}\nanswer: 5\nsteps: add them"


def test_text_of_a_fact_is_never_read_as_a_placeholder() -> None:
    assert Hint("{steps}").filled({"steps": "{answer} {0} {"}) == "{answer} {0} {"


@pytest.mark.parametrize("text", ["no fact", "{", "{}", "{0}", "{answer.real}", "{answer!r}", "{answer:>5}", ""])
def test_a_hint_that_cannot_be_filled_is_told_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match="hint="):
        Hint(text)


def test_what_is_wrong_is_said_as_it_was_written() -> None:
    for odd in ("{answer!r}", "{answer:>5}", "{answer.real}"):
        with pytest.raises(ConfigError) as told:
            Hint(odd)
        assert f": {odd} is more than a plain name; " in str(told.value)


@pytest.mark.parametrize("facts", [{}, {"price": 3}])
def test_a_fact_that_the_environment_does_not_tell(facts: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"the environment tells (price|nothing)"):
        Hint("{answer}").filled(facts)


def test_an_action_without_an_opening_takes_no_hint() -> None:
    with pytest.raises(ConfigError, match="an action comes first"):
        Hint("{answer}").shown([{"role": "assistant", "content": "5"}], FACTS)
