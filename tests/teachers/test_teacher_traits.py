"""What a kind says of itself, and which marks are refused."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agentopd.errors import ConfigError
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, Few, Traits, TraitsBy, itself, require_read, reward_model, served, traits_of

SILENT_MODEL = Traits(model=True, corrects=False)
REWARDS: Mapping[str, Any] = {"corrects": False, "distributes": False, "statistics": ()}
MODEL = Traits(model=True, corrects=False, rewards=False, statistics=("coverage",))
SERVED = Traits(
    hint=True,
    corrects=False,
    rewards=False,
    statistics=("coverage", "best_surprisal"),
    examine=served._examine,
    adjustable=("in_flight", "timeout", "patience", "key_env"),
)


def unmarked(context: Any) -> Any:
    """A kind of one's own that says nothing of itself."""


@TraitsBy(lambda settings: Traits(corrects=False, rewards=settings["judges"]))
def sometimes(context: Any, *, judges: bool = True) -> Any:
    """What it may do depends on a setting."""


@Traits(needs_expert=True, corrects=False)
class Marked:
    """A class may be a kind."""

    def __init__(self, context: Any) -> None: ...


class Careless:
    """It has an attribute of that name for itself."""

    traits = ("lazy",)

    def __init__(self, context: Any) -> None: ...


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"kind": "local", "model": "here"}, MODEL),
        ({"kind": "privileged", "hint": "{answer}"}, replace(MODEL, initial=True, hint=True)),
        ("self", replace(MODEL, initial=True, hint=True, examine=itself._examine)),
        (
            {"kind": "ensemble", "members": ["a", "b"]},
            Traits(corrects=False, rewards=False, members=True, statistics=("coverage", "epistemic", "aleatoric")),
        ),
        ({"kind": "served", "url": "http://here"}, replace(SERVED, few=Few("teacher", 64, "ids", "top_k"))),
        ({"kind": "served", "url": "http://here", "top_k": -1}, SERVED),
        (
            {"kind": "served", "url": "http://here", "top_k": 8, "ids": "union"},
            replace(SERVED, few=Few("union", 8, "ids", "top_k")),
        ),
        (
            {"kind": "cross_tokenizer", "model": "here"},
            Traits(model=True, own_tokenizer=True, corrects=False, rewards=False, statistics=("coverage", "aligned")),
        ),
        ("reward", Traits(**REWARDS, metrics=())),
        (
            {"kind": "verifier", "check": "test_teacher_traits:plain"},
            Traits(**REWARDS, metrics=()),
        ),
        (
            {"kind": "reward_model", "model": "here"},
            Traits(**REWARDS, metrics=("skipped",), examine=reward_model._examine),
        ),
        (
            "discriminator",
            Traits(
                model=True, initial=True, compares=True, metrics=("pairs", "accuracy", "loss", "skipped"), **REWARDS
            ),
        ),
        ("expert", Traits(distributes=False, rewards=False, statistics=(), needs_expert=True)),
        ("test_teacher_traits:sometimes", Traits(corrects=False)),
        ({"kind": "test_teacher_traits:sometimes", "judges": False}, Traits(corrects=False, rewards=False)),
        ("test_teacher_traits:unmarked", Traits()),
        ("test_teacher_traits:Marked", Traits(needs_expert=True, corrects=False)),
        ("test_teacher_traits:Careless", Traits()),
    ],
)
def test_a_kind_says_what_it_is(kind: Any, said: Traits) -> None:
    assert replace(traits_of(OneOf("teacher", TEACHERS).validate(kind)), idle=None) == said


def plain(context: Any, *, temper: float = 1.0) -> Any:
    """A kind without a model."""


def hintless(context: Any, *, model: str) -> Any:
    """A kind without a hint."""


@pytest.mark.parametrize(
    ("marks", "function", "said"),
    [
        (SILENT_MODEL, plain, "plain is marked with model=True; give it a setting model, new or both"),
        (Traits(model=True, hint=True), hintless, "hintless is marked with hint=True; give it the setting hint"),
        (Traits(hint=True), hintless, "hintless is marked with hint=True; give it the setting hint"),
        (Traits(initial=True), plain, "plain: initial is the mark of a model; mark it with model=True too"),
        (Traits(compares=True), plain, "plain is marked with compares=True; give it the setting chosen"),
        (Traits(members=True), plain, "plain is marked with members=True; give it the setting members"),
    ],
)
def test_a_mark_without_its_setting_is_refused(marks: Traits, function: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}"):
        marks(function)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"kind": "served", "url": "http://here", "max_tokens": 5}, "max_tokens=5: with ids=teacher the student reads nothing"),
        ({"kind": "privileged", "hint": "{facts}", "dtype": "bfloat16"}, "dtype=bfloat16: without model and new it is the student"),
        ({"kind": "privileged", "hint": "{facts}", "attention": "eager"}, "attention=eager: without model and new it is the student"),
        ({"kind": "discriminator", "attention": "eager"}, "attention=eager: without model and new it is the student"),
    ],
)  # fmt: skip
def test_a_setting_that_another_leaves_unread_is_refused(given: Mapping[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"^teachers\.one\.{wrong}.*; leave it out$"):
        require_read("one", OneOf("teacher", TEACHERS).validate(given))
    read = {"ids": "student"} if given["kind"] == "served" else {"model": "here"}
    require_read("one", OneOf("teacher", TEACHERS).validate({**given, **read}))
