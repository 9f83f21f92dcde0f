"""What each weight asks is known before there is a row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from weight_cases import Played, table, weigh

from agentopd.objective.weights import WEIGHTS, asks, reads_played
from agentopd.objective.weights.named import OF_STUDENT
from agentopd.settings.parts import OneOf

WEIGHT = OneOf("weight", WEIGHTS)
GIVEN: Mapping[str, Mapping[str, Any]] = {
    "decay": {"statistic": "disagreement"},
    "gate": {"statistic": "depth", "threshold": 1.0},
    "top_share": {"statistic": "teacher_entropy"},
    "without_tokens": {"ids": [1]},
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_marks_say_what_each_weight_asks_of_a_teacher(kind: str) -> None:
    """A weight that reads one fails without one, and no other does."""
    weight = WEIGHT.validate({"kind": kind, **GIVEN.get(kind, {})})
    rows = table([Played([[(-1.0, -0.5, -2.0), (-0.5, -0.25, -1.0)]])])
    if set(asks(weight)) - OF_STUDENT:
        with pytest.raises(ValueError, match="needs a term whose target is a teacher's distribution"):
            weight.function(rows, None, **weight.settings)
    else:
        assert np.isfinite(weight.function(rows, None, **weight.settings)).all()


def mine(rows: Any, teacher: Any, *, what: str = "drift") -> Any:
    """A weight of one's own."""
    return np.ones(len(rows))


@pytest.mark.parametrize(
    ("weight", "read"),
    [
        ("sod", True),
        ({"kind": "sod", "logprobs": "recomputed"}, False),
        ({"kind": "decay", "statistic": "drift"}, True),
        ({"kind": "decay", "statistic": "depth"}, False),
        ({"kind": "scope", "by": "student"}, True),
        ("scope", False),
        ("tip", False),
        ("importance", False),
        ({"kind": "test_objective_marks:mine"}, True),
        ({"kind": "test_objective_marks:mine", "what": "depth"}, False),
    ],
)
def test_whether_a_weight_takes_what_was_played_for_the_students(weight: Any, read: bool) -> None:
    assert reads_played(WEIGHT.validate(weight)) is read


def test_a_statistic_of_the_teachers_own_may_turn_out_to_be_below_0() -> None:
    rows = table([Played([[(-1.0, -0.5, -2.0), (-0.5, -0.25, -1.0)]], statistics={"doubt": [0.5, -0.5]})])
    with pytest.raises(ValueError, match=r"a statistic is -0\.5 at a row, .* for those of at least 0; use gate"):
        weigh("decay", rows, statistic="doubt")
