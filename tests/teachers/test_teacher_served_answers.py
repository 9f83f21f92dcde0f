"""Answers of a server that scores tokens, each of which holds something that cannot be."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from serving_cases import Handler, Served, running
from teacher_cases import context, episode, tiny_llama

from agentopd.errors import TeacherError
from agentopd.serving.scorer import LEAST
from agentopd.settings.parts import OneOf
from agentopd.teachers import TEACHERS, annotate
from agentopd.teachers.served import served
from agentopd.types import Annotation

Rows = list[dict[str, dict[str, Any]]]


def halved(rows: Rows) -> None:
    """Leaves out the less likely half of the vocabulary, but for the token itself."""
    for row in rows:
        for name in sorted(list(row)[1:], key=lambda name: row[name]["logprob"])[: len(row) // 2]:
            del row[name]


def far(rows: Rows) -> None:
    rows[-1][str(10**12)] = {"logprob": -5.0}


def endless(rows: Rows) -> None:
    for one in rows[-1].values():
        one["logprob"] = -(10**400)


def impossible(rows: Rows) -> None:
    rows[-1][next(iter(rows[-1]))]["logprob"] = float("-inf")


def undefined(rows: Rows) -> None:
    rows[-1][next(iter(rows[-1]))]["logprob"] = float("nan")


def repeating(rows: Rows) -> None:
    rows[-1]["s3cret"] = {"logprob": -1.0}


class _Odd(Handler):
    odd: Callable[[Rows], None]

    def answered(self, status: int, body: bytes, **headers: str) -> None:
        tokens = self.server.served.asked[-1]["prompt"] if self.server.served.asked else []
        if tokens != [*range(len(tokens))]:  # not who it is
            told = json.loads(body)
            self.odd(told["choices"][0]["prompt_logprobs"][1:])
            body, headers = json.dumps(told).encode(), {}
        super().answered(status, body, **headers)


def said(odd: Callable[[Rows], None], top_k: int, key_env: str | None = None) -> Annotation:
    server = Served(tiny_llama(0))
    with running(server, type("Odd", (_Odd,), {"odd": staticmethod(odd)})):
        teacher = served(context(), url=server.url, top_k=top_k, patience=0.0, key_env=key_env)
        return annotate({"teacher": teacher}, [episode("..00.11")])[0].annotations[0]


@pytest.mark.parametrize(
    ("odd", "top_k", "wrong"),
    [
        (
            halved,
            -1,
            r"probabilities of the whole vocabulary that sum to 0\.\d+; start the server with --max-logprobs -1",
        ),
        (far, 4, "OverflowError"),
        (endless, 4, "OverflowError"),
        (undefined, 4, "a log-probability of nan; look at the server's log"),
        (repeating, 4, r"ValueError: .*'\*\*\*'; look at"),
    ],
)
def test_it_is_refused_by_the_servers_name(
    odd: Callable[[Rows], None], top_k: int, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    with pytest.raises(
        TeacherError, match=rf"^teacher 'teacher': http://127.* gave no log-probabilities that can be used: .*{wrong}"
    ):
        said(odd, top_k, "A_KEY")


def test_a_token_of_no_probability_has_a_number() -> None:
    assert np.asarray(said(impossible, 0).taken_logprob_N)[-1] == LEAST


def test_one_that_points_elsewhere_is_not_taken_for_one_that_gives_fewer() -> None:
    server = Served(tiny_llama(0))
    server.faults.append(302)
    with (
        running(server, Handler),
        pytest.raises(TeacherError, match=r"^teacher 'teacher': http://127.* refused with 302"),
    ):
        served(context(), url=server.url)


@pytest.mark.parametrize("setting", ["key_env", "url"])
def test_what_may_hold_a_key_is_not_repeated_where_it_is_of_another_type(setting: str) -> None:
    given = {"kind": "served", "url": "http://here", setting: ["s3cret"]}
    with pytest.raises(ValueError, match=rf"{setting}: .*\(got a list\)") as error:
        OneOf("teacher", TEACHERS).validate(given)
    assert "s3cret" not in str(error.value)
