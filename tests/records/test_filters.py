"""Which records are meant, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from record_cases import plain_record

from agentopd.errors import RecordError
from agentopd.filters import Filter, annotation_of
from agentopd.types import CORRECTED, Failure, Outcome, Record, Sampled

RECORD = plain_record(0, 0, tokens=6)  # one turn with one bad action, tokens 2 to 5 the student's, reward 1


def changed(**fields: Any) -> Record:
    return replace(RECORD, trajectory=replace(RECORD.trajectory, **fields))


def keeps(record: Record = RECORD, **settings: Any) -> bool:
    return Filter.model_validate(settings).keeps(record)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"success": True}, True),
        ({"success": False}, False),
        ({"reward": {"least": 1.0}}, True),
        ({"reward": {"least": 1.5}}, False),
        ({"reward": {"most": 0.5}}, False),
        ({"reward": {"least": 0.5, "most": 1}}, True),
        ({"turns": {"least": 1, "most": 1}}, True),
        ({"turns": {"least": 2}}, False),
        ({"errors": {"most": 0}}, False),
        ({"errors": {"least": 1}}, True),
        ({"failed": True}, False),
        ({"failed": None}, True),
        ({"env": "toy/Sum-v0"}, True),
        ({"env": ["toy/A-v0", "toy/B-v0"]}, False),
        ({"family": "toy/Sum-v0"}, True),  # where none was told, the environment is the family
        ({"family": "sums"}, False),
        ({"tag": "hard"}, False),
        ({"actor": ["student", "expert"]}, True),
        ({"actor": "expert"}, False),
        ({"success": True, "reward": {"least": 2}}, False),  # every setting must hold
    ],
)
def test_a_setting_keeps_or_not(settings: dict[str, Any], kept: bool) -> None:
    assert keeps(**settings) is kept


def test_families_tags_and_failures_that_were_told() -> None:
    task = replace(RECORD.trajectory.task, tags=("hard", "long"))
    told = changed(family="sums", task=task)
    assert keeps(told, family="sums", tag=["hard", "easy"])
    assert not keeps(told, family="toy/Sum-v0")
    failed = changed(failure=Failure("env", "hung", ""), outcome=Outcome(0.0, False, "failed"))
    assert [keeps(failed, failed=which) for which in (False, True, None)] == [False, True, True]
    assert not keeps(failed)


def annotated(name: str, logprobs: list[float], rows: list[int] | None = None, **more: Any) -> Any:
    n = np.array(rows or [2, 3, 4, 5], np.int32)
    [template] = RECORD.annotations
    given: dict[str, Any] = {
        "teacher": name,
        "segment_N": np.zeros(len(n), np.int32),
        "index_N": n,
        "block": Sampled(),
        "taken_logprob_N": np.array(logprobs, np.float32),
        "entropy_N": np.array([1.0, 3.0, np.nan, 5.0][: len(n)], np.float32),
    }
    return replace(template, **(given | more))


def test_uncertainty_is_the_mean_over_tokens_of_the_episode() -> None:
    segment = replace(RECORD.trajectory.segments[0], source=CORRECTED)
    own = np.array([0, 0, 0, 1], np.int32)  # the last row is of what the teacher wrote itself
    said = annotated(
        "judge",
        [0.0] * 4,
        segment_N=own,
        segments=(segment,),
        statistics={"epistemic": np.array([2, 4, 6, 100], np.float32)},
    )
    record = replace(RECORD, annotations=(said,))
    assert keeps(
        record, uncertainty={"teacher": "judge", "least": 2.0, "most": 2.0}
    )  # of 1 and 3: nan and 5 are left out
    epistemic: dict[str, Any] = {"teacher": "judge", "statistic": "epistemic"}
    assert keeps(record, uncertainty={**epistemic, "least": 4, "most": 4})
    with pytest.raises(
        RecordError, match=r"uncertainty.statistic=aleatoric: record run/0/0/0 has of 'judge' only: entropy, epistemic"
    ):
        keeps(record, uncertainty={**epistemic, "statistic": "aleatoric", "least": 0})


def test_what_is_not_known_lies_in_no_range() -> None:
    said = annotated("judge", [0.0] * 4, entropy_N=np.full(4, np.nan, np.float32))
    assert not keeps(replace(RECORD, annotations=(said,)), uncertainty={"teacher": "judge", "most": 1e9})


def test_disagreement_is_over_tokens_that_both_read() -> None:
    one, two = annotated("a", [-1.0, -2.0, -3.0, -4.0]), annotated("b", [-2.0, -5.0], rows=[3, 5])
    record = replace(RECORD, annotations=(one, two))
    # |-2 - -2| and |-4 - -5|
    assert keeps(record, disagreement={"teachers": ["a", "b"], "least": 0.5, "most": 0.5})
    assert not keeps(record, disagreement={"teachers": ["a", "b"], "least": 0.6})
    apart = replace(record, annotations=(one, annotated("b", [0.0], rows=[1])))
    assert not keeps(apart, disagreement={"teachers": ["a", "b"], "least": 0})


def test_a_teacher_that_said_nothing_is_an_error_only_where_it_is_read() -> None:
    wanted: dict[str, Any] = {"uncertainty": {"teacher": "judge", "least": 0}}
    with pytest.raises(
        RecordError, match=r"record run/0/0/0 was annotated by teacher, not by 'judge'; add it: agentopd annotate"
    ):
        keeps(**wanted)
    assert not keeps(success=False, **wanted)
    with pytest.raises(RecordError, match="annotated by no teacher"):
        annotation_of(replace(RECORD, annotations=()), "judge")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reward": {}}, "give least, most or both"),
        ({"reward": {"least": 2, "most": 1}}, "least 2 is above most 1"),
        ({"turns": {"most": -1}}, "most -1: a count is 0 or more"),
        ({"disagreement": {"teachers": ["a"], "least": 0}}, "at least 2 items"),
        ({"sucess": True}, "Extra inputs"),
        ({"success": "yes"}, "valid boolean"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Filter.model_validate(settings)
