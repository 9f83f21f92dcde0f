"""Weights whose settings cannot be, and rows on which they cannot be worked out."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from objective_cases import START, method
from pydantic import ValidationError
from weight_cases import Played, table, taught, weigh, with_teacher

from agentopd.errors import ConfigError
from agentopd.objective import prepare

LN2 = math.log(2)
TWO = [Played([[(-1.0, -2.0, -1.5)], [(-1.0, -0.5, -3.0), (-2.0, -2.0, -2.0)]]), Played([[(-0.5, -1.0, -0.5)]])]
"""Two episodes, of turns with 1 and 2 tokens, and with 1: behaviour, current and teacher's log-probabilities."""


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({"kind": "student_entropy", "scale": 0.0}, "scale"),
        ({"kind": "scope", "tau": -1.0}, "tau"),
        ({"kind": "reward_softmax", "beta": 0.0}, "beta"),
        ({"kind": "pass_rate", "a": -1.0}, "'pass_rate': a"),
        ({"kind": "tip", "share": 0.0}, "share"),
        ({"kind": "tip", "share": 1.5}, "share"),
        ({"kind": "gate", "threshold": 1.0}, "statistic"),
        ({"kind": "gate", "statistic": "depth"}, "threshold"),
        ({"kind": "gate", "statistic": "depth", "op": "==", "threshold": 1.0}, "op"),
        ({"kind": "importance", "cap": 0.0}, "cap"),
        ({"kind": "shape", "gamma": {"kind": "linear", "start": 0.1, "end": 0.0}}, "gamma"),
        ({"kind": "reliability", "threshold": 1.5}, "threshold"),
        ({"kind": "disagreement", "direction": "both"}, "direction"),
        ({"kind": "without_tokens"}, "ids"),
        ({"kind": "without_tokens", "ids": "all"}, "ids"),
    ],
)
def test_settings_that_cannot_be_are_refused_when_read(weight: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method(weight=weight, sampler={"per_task": 2})


@pytest.mark.parametrize("weight", ["pass_rate", "reward_softmax", "scope"])
def test_a_weight_among_siblings_needs_some(weight: str) -> None:
    with pytest.raises(
        ValidationError, match=rf"weight '{weight}' compares episodes of one task, .*per_task to 2 or more"
    ):
        method(weight=weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "epistemic"},
            r"'epistemic' is no statistic that this teacher gives; an ensemble gives it: .*members",
        ),
        ({"kind": "gate", "statistic": "aleatoric", "threshold": 1.0}, r"an ensemble gives it"),
        (
            {"kind": "gate", "statistic": "entropie", "threshold": 1.0},
            r"'entropie' is no statistic .*there are: .*depth",
        ),
        (
            {"kind": "importance", "rule": "masked", "low": {"kind": "linear", "start": 6.0, "end": 1.0}},
            r"low=6.0 is above high=5.0",
        ),
    ],
)
def test_what_cannot_be_worked_on_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"objective\.weight\.kind={settings['kind']}: .*{message}"):
        prepare(method(weight=settings), table(TWO), START)


def test_a_statistic_that_is_unknown_on_some_rows_is_told() -> None:
    rows = table(TWO)
    holes = with_teacher(rows, statistics={"epistemic": np.array([0.1, np.nan, np.nan, 0.2])})
    with pytest.raises(ConfigError, match="'epistemic' needs epistemic on every row; it is unknown on 2 of 4"):
        prepare(method(weight="epistemic"), holes, START)
    with pytest.raises(ConfigError, match=r"rows\.live was not computed"):
        prepare(method(weight="student_entropy"), replace(rows, recomputed=None), START)


def test_a_token_that_the_teacher_excludes_breaks_no_weight() -> None:
    rows = table([taught([-np.inf, -1.0], [-1.0], [-np.inf]), taught([-np.inf])])
    for kind in ("disagreement", "teacher_confidence", "sod", "t_dur", "iw_opd", "reliability", "tip", "scope"):
        weight = weigh(kind, rows)
        assert np.isfinite(weight).all()
        assert (weight >= 0).all()
    assert weigh("teacher_confidence", rows)[0] == 0.0
