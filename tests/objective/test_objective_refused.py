"""Settings of parts that cannot go together are refused with the method, not at a step."""

from typing import Any

import numpy as np
import pytest
from objective_cases import method
from pydantic import ValidationError

from agentopd.objective import Rows, TeacherColumns, Term, per_row
from agentopd.objective.columns import Reals

EXPERTS = {"per_task": 2, "actors": {"expert": 1.0, "previous": 1.0}}
PAIRS = {"kind": "pair_logit", "chosen": "expert"}
RISING = {"kind": "linear", "start": 0.5, "end": 2.5}


@per_row
def numbers(rows: Rows, teacher: TeacherColumns | None) -> Reals:
    """A number a row of one's own."""
    return np.ones(len(rows))


OWN = {"kind": "test_objective_refused:numbers"}


@pytest.mark.parametrize(
    ("term", "said"),
    [
        (
            {"weight": {"kind": "importance", "rule": "masked", "low": 3.0, "high": 2.0}},
            "low=3 is above high=2, so no ratio",
        ),
        (
            {"weight": {"kind": "importance", "rule": "masked", "cap": 5.0}},
            r"cap=5\.0: rule=masked does not read it; leave it out, or set rule: truncated",
        ),
        (
            {"weight": {"kind": "importance", "high": 3.0}},
            r"high=3\.0: rule=truncated does not read it; .* rule: masked",
        ),
        ({"weight": {"kind": "importance", "low": RISING}}, r"low=\{'kind': 'linear', .*: rule=truncated does not"),
        (
            {"estimator": {"kind": "score_function", "clip_high": 0.28}},
            r"clip_high=0\.28: importance=none does not read it; leave it out, or set importance: clipped",
        ),
        ({"weight": {"kind": "decay", "statistic": "log_ratio"}}, "statistic=log_ratio: it may be below 0, .*use gate"),
        (
            {"target": {"kind": "extrapolate", "reference": "teacher"}},
            r"target\.reference=teacher is target\.name, so extrapolate is that teacher itself; name another",
        ),
        (
            {"target": {"kind": "aligned", "reference": "teacher"}},
            r"target\.reference=teacher is target\.name, so aligned",
        ),
    ],
)
def test_settings_that_do_not_go_together(term: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Term(**term)


def test_settings_that_do() -> None:
    Term(weight={"kind": "importance", "rule": "masked", "low": RISING, "high": {**RISING, "start": 1.5, "end": 3.5}})
    Term(weight={"kind": "importance", "cap": RISING})
    Term(weight={"kind": "gate", "statistic": "log_ratio", "threshold": 0.0})
    Term(estimator={"kind": "score_function", "importance": "clipped", "clip_high": 0.28})
    Term(estimator={"kind": "score_function", "clip": OWN})


@pytest.mark.parametrize(
    ("estimator", "setting"),
    [
        ("score_function", "gamma"),
        ("score_function", "turn_gamma"),
        ("score_function", "reward_clip"),
        ("pair_logit", "beta"),
    ],
)
def test_what_returns_and_pairs_are_made_of_takes_one_number_for_all_rows(estimator: str, setting: str) -> None:
    pairs = {"chosen": "expert"} if estimator == "pair_logit" else {}
    with pytest.raises(ValidationError, match=rf"'{estimator}': {setting}: .* gives one number a row, and one for all"):
        Term(estimator={"kind": estimator, setting: OWN, **pairs})
    Term(estimator={"kind": estimator, setting: {"kind": "linear", "start": 0.5, "end": 1.0}, **pairs})


@pytest.mark.parametrize(
    ("where", "sources", "said"),
    [
        (
            {"actor": "expert"},
            {"fresh": EXPERTS},
            r"objective\.where selects chosen=expert alone, .*; select another actor",
        ),
        (
            {"actor": "previous"},
            {"fresh": EXPERTS},
            r"objective\.where leaves chosen=expert out, .*; set .*where\.actor",
        ),
        ({"source": "own"}, {"own": {}, "shown": EXPERTS}, r"objective\.where leaves chosen=expert out"),
        (
            {},
            {"fresh": {**EXPERTS, "per_task": 1}},
            "pairs are of episodes of one task, and the source has per_task: 1",
        ),
    ],
)
def test_pairs_of_which_one_side_is_never_there(where: dict[str, Any], sources: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        method(estimator=PAIRS, where=where, sources=sources)
    method(estimator=PAIRS, where={"actor": ["expert", "previous"]}, sources={"fresh": EXPERTS})
