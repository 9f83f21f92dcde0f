"""What goes wrong at a step names the key, the teacher that is to blame, and a remedy that is right."""

from typing import Any

import numpy as np
import pytest
from objective_cases import START, Saying, Student, episode, method, prepared, record, teacher_heads

from agentopd.errors import ConfigError
from agentopd.objective import Rows, prepare

NAMES = ("teacher", "reference")
HEADS = teacher_heads(*NAMES)
EXTRAPOLATE = {"kind": "extrapolate"}


def loss_of(term: dict[str, Any], sparse: str, terms: int = 1) -> None:
    kinds = dict.fromkeys(NAMES, "dense") | {sparse: "sparse"}
    made = [record(episode([2]), *(Saying(name, kind) for name, kind in kinds.items()), heads=HEADS)]
    given = {"terms": [{"name": f"t{n}", **term} for n in range(terms)]} if terms > 1 else term
    Student.new().loss(prepared(method(**given), made), HEADS)


@pytest.mark.parametrize(
    ("term", "sparse", "said"),
    [
        (
            {"temperature": 2.0},
            "teacher",
            r"^objective\.temperature=2: a temperature takes full distributions, and teacher 'teacher' gives only .*; set it to 1$",
        ),
        (
            {"target": EXTRAPOLATE},
            "teacher",
            r"^objective\.target\.kind=extrapolate: .* teacher 'teacher' gives only its top-k; set objective\.target\.kind: "
            "distribution, or name",
        ),
        (
            {"target": EXTRAPOLATE, "temperature": 2.0},
            "teacher",
            r"set objective\.target\.kind: distribution and objective.*\.temperature: 1, or name",
        ),
        (
            {"target": EXTRAPOLATE},
            "reference",
            r"^objective\.target\.reference=reference: .* teacher 'reference' gives only its top-k; name one that gives full",
        ),
        (
            {"estimator": {"kind": "score_function", "baseline": "value"}},
            "teacher",
            r"^objective\.estimator\.baseline=value: .* teacher 'teacher' gives only its top-k; set it to batch_mean or none$",
        ),
    ],
)
def test_a_teacher_that_gives_only_its_top_k(term: dict[str, Any], sparse: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loss_of(term, sparse)
    with pytest.raises(
        ConfigError, match=said.replace("^objective", r"^objective\.terms\.0").replace("set objective", "set .*")
    ):
        loss_of(term, sparse, terms=2)


@pytest.mark.parametrize("blamed", [*NAMES, "student"])
def test_who_gives_no_number_is_named(blamed: str) -> None:
    rows = Rows.of([record(episode([2]), *(Saying(name) for name in NAMES), heads=HEADS)])
    given_A = rows.logprob_A if blamed == "student" else rows.teachers[blamed].taken_logprob_A
    given_A[1] = -np.inf
    who = "the student" if blamed == "student" else f"teacher '{blamed}'"
    with pytest.raises(
        ConfigError, match=rf"^objective\.estimator\.kind=score_function: .* tokens from {who}; 1 of 2 rows have none"
    ):
        prepare(method(target=EXTRAPOLATE, estimator="score_function"), rows, START)


def test_an_estimator_by_token_names_its_teacher() -> None:
    rows = Rows.of([record(episode([2]), Saying())])
    rows.teachers["teacher"].taken_logprob_A[0] = np.nan
    with pytest.raises(
        ConfigError, match=r"^objective\.estimator\.kind=k3: .* from teacher 'teacher'; 1 of 2 rows have none"
    ):
        prepare(method(estimator="k3"), rows, START)
