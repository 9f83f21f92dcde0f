"""Numbers a row: where they may stand, what they may be, and DistiLLM-2's skew by hand."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from objective_cases import START, Saying, Student, episode, method, record, teacher_heads
from pydantic import ValidationError

from agentopd.config import load_config
from agentopd.errors import ConfigError
from agentopd.objective import (
    Head,
    LiveColumns,
    Objective,
    Rows,
    Scored,
    TeacherColumns,
    cut,
    divergence,
    loss,
    per_row,
    prepare,
)
from agentopd.objective.curricula import by_sequence

HEADS = teacher_heads("teacher")
SKEW = "agentopd.objective.curricula:by_sequence"


@per_row
def of_turn(rows: Rows, teacher: TeacherColumns | None, *, low: float = 0.1, high: float = 0.9) -> NDArray[np.float64]:
    """A user's number a row."""
    return np.where(rows.turn_A == 0, low, high)


@per_row
def short(rows: Rows, teacher: TeacherColumns | None) -> NDArray[np.float64]:
    return np.ones(1)


@per_row
def endless(rows: Rows, teacher: TeacherColumns | None) -> NDArray[np.float64]:
    return np.where(rows.turn_A == 0, 0.5, np.inf)


@per_row
def uncallable(rows: Rows) -> NDArray[np.float64]:
    return np.ones(len(rows))


def scaled(scored: Scored, *, by: float = 1.0) -> NDArray[np.float64]:
    """A user's estimator."""
    return scored.reward_A * by


def rows_of(turns: Sequence[Sequence[int]]) -> Rows:
    return Rows.of([record(episode(t, index=i), Saying(), heads=HEADS) for i, t in enumerate(turns)])


def test_a_divergence_with_a_number_a_row_is_that_of_each_row() -> None:
    rows, student = rows_of([[2, 3], [1, 2, 1], [3]]), Student.new()
    objective = method(divergence={"kind": "skew_forward_kl", "alpha": {"kind": "test_objective_curricula:of_turn"}})
    ready = prepare(objective, rows, START)
    np.testing.assert_array_equal(ready.terms[0].settings["divergence"]["alpha"], np.where(rows.turn_A == 0, 0.1, 0.9))
    for batch in cut(ready, 12):
        hidden = student.hidden(batch)
        found = loss(hidden, student.head, HEADS, batch, 1.0, 2).signals["loss/divergence"]
        (block,) = batch.blocks
        assert block.dense is not None
        logits = HEADS["teacher"].logits(block.dense.hidden_N_H)
        for low, alpha in ((True, 0.1), (False, 0.9)):
            on = torch.from_numpy((rows.turn_A[batch.row_A.numpy()] == 0) == low)
            expected = divergence("skew_forward_kl", student.head.logits(hidden), logits, alpha=alpha)
            torch.testing.assert_close(found[on], expected.detach()[on])


def test_an_estimator_sees_the_numbers_of_its_rows() -> None:
    """Those of the rows that the term trains; of the others any that it takes."""
    rows = rows_of([[1, 1], [2]])
    number = {"kind": "test_objective_curricula:of_turn", "low": 0.5, "high": 0.25}
    (term,) = prepare(method(estimator={"kind": "test_objective_curricula:scaled", "by": number}), rows, START).terms
    ratio = rows.teachers["teacher"].taken_logprob_A - rows.logprob_A
    np.testing.assert_allclose(term.advantage_A, ratio * [0.5, 0.25, 0.5, 0.5])
    clip = {"kind": "score_function", "importance": "clipped", "clip_low": number}
    only_later = method(estimator=clip, where={"actor": "student", "min_turn": 1})
    (term,) = prepare(only_later, rows, START).terms
    np.testing.assert_array_equal(term.settings["estimator"]["clip_low"], [0.25] * 4)
    (batch,) = cut(prepare(method(estimator=clip), rows, START), 99)
    hidden = Student.new().hidden(batch)
    assert loss(hidden, Head(torch.randn(11, 6).double()), HEADS, batch).loss.isfinite()


def test_a_return_is_of_rewards_with_their_own_numbers_also_where_the_term_does_not_train() -> None:
    """The first turn learns from what the second one brought, by the second one's number."""
    rows, number = rows_of([[1, 2]]), {"kind": "test_objective_curricula:of_turn", "low": 0.5, "high": 2.0}
    logq, logp, number_A = rows.teachers["teacher"].taken_logprob_A, rows.logprob_A, np.array([0.5, 2.0, 2.0])
    rewards = {
        "divergence": (
            (np.exp(number_A * logq) - np.exp(number_A * logp)) / number_A,
            {"kind": "power", "alpha": number},
        ),
        "target": (logq / number_A - logp, {"kind": "sharpened", "temperature": number}),
    }
    for part, (reward_A, given) in rewards.items():
        objective = method(
            **{part: given},
            estimator={"kind": "score_function", "gamma": 1.0},
            where={"actor": "student", "max_turn": 0},
        )
        (term,) = prepare(objective, rows, START).terms
        np.testing.assert_allclose(term.advantage_A, [reward_A.sum(), 0.0, 0.0])


def test_a_term_without_rows_asks_for_no_numbers() -> None:
    objective = method(
        divergence={"kind": "jsd", "beta": {"kind": SKEW}}, where={"actor": "student", "min_turn": 7, "max_turn": 9}
    )
    assert (
        prepare(objective, rows_of([[1]]).with_live(LiveColumns(np.zeros(1), np.zeros(1))), START).terms[0].idle
        == "empty"
    )


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            {"low": 0.0},
            r"^objective\.divergence\.beta: 'test_.*:of_turn' gives 0\.0 for row 0 of 3: Input should be greater",
        ),
        ({"high": 1.0}, r"gives 1\.0 for row 2 of 3: Input should be less than 1"),
        ({"kind": "endless"}, r"returned inf for row 2, one of 1 bad numbers in 3 rows; return one finite number"),
        ({"kind": "short"}, r"returned shape \(1,\) of float64 for 3 rows"),
    ],
)
def test_a_number_that_the_setting_does_not_take(number: dict[str, Any], message: str) -> None:
    kind = f"test_objective_curricula:{number.get('kind', 'of_turn')}"
    objective = method(divergence={"kind": "jsd", "beta": {**number, "kind": kind}})
    with pytest.raises(ConfigError, match=message):
        prepare(objective, rows_of([[2, 1]]), START)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"coefficient": {"kind": SKEW}},
            "gives one number a row, and one for all rows is read here; .*divergence, estimator",
        ),
        ({"weight": {"kind": "teacher_entropy", "scale": {"kind": SKEW}}}, "gives one number a row, and one for all"),
        ({"aggregate": {"kind": "blend", "share": {"kind": SKEW}}}, "gives one number a row"),
        ({"divergence": {"kind": "jsd", "beta": {"kind": SKEW, "bse": 0.5}}}, "no setting 'bse' .*did you mean 'base'"),
        ({"divergence": {"kind": "jsd", "beta": {"kind": SKEW, "base": 1.5}}}, "base: Input should be less than 1"),
        (
            {"divergence": {"kind": "jsd", "beta": {"kind": "test_objective_curricula:uncallable"}}},
            r"is called as f\(rows, teacher, \*\*settings\): too many positional",
        ),
    ],
)
def test_refused_when_a_method_is_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method(**given)


def test_a_schedule_outside_of_a_run_has_no_rows() -> None:
    with pytest.raises(ValueError, match="beta is a schedule, which only a run can follow"):
        divergence("jsd", torch.zeros(3), torch.zeros(3), beta={"kind": SKEW})


# DistiLLM-2


def skew(ahead: Literal["teacher", "student"], logp: NDArray[Any], logq: NDArray[Any], **settings: Any) -> NDArray[Any]:
    rows = rows_of([[2], [1], [1]])
    rows.teachers["teacher"].taken_logprob_A[:] = logq
    live = rows.with_live(LiveColumns(logp, np.zeros(len(rows))))
    return by_sequence(live, live.teachers["teacher"], ahead=ahead, **settings)


def test_the_skew_follows_the_gap_of_its_episode() -> None:
    logq = np.log([0.9, 0.4, 0.5, 0.3])
    logp = np.log([0.2, 0.2, 0.4, 0.4])
    gap = np.array([np.sqrt(0.36) - 0.2, 0.1, -0.1]) + 1e-5
    found = skew("teacher", logp, logq, base=0.9, anchor=0.2)
    first, second, third = np.clip(1 - 0.1 * 0.2 / gap, 0.01, 0.9)
    assert found.tolist() == pytest.approx([first, first, second, third])
    assert (first, third) == (0.9, 0.9)
    assert second == pytest.approx(0.8, abs=1e-4)
    mean = (0.4 + 0.1 - 0.1) / 3
    expected = np.clip(1 - 0.9 * mean / gap, 0.01, 0.1)
    assert skew("teacher", logp, logq)[1:].tolist() == pytest.approx(expected.tolist())
    assert skew("student", logq, logp, base=0.9, anchor=0.2).tolist() == found.tolist()
    assert skew("teacher", logp, logp).tolist() == [0.1] * 4


def test_distillm_2_is_a_method() -> None:
    """A skewed forward KL on the teacher's episodes, a skewed reverse KL on the student's, each by its own curriculum."""
    objective = load_config(
        "quickstart",
        [
            "method={sources: {own: {}, shown: {kind: frozen, actors: {teacher: 1.0}}}, terms: ["
            f"{{name: shown, where: {{source: shown}}, divergence: {{kind: skew_forward_kl, alpha: {{kind: '{SKEW}'}}}}}}, "
            "{name: own, where: {source: own}, divergence: {kind: skew_reverse_kl, "
            f"alpha: {{kind: '{SKEW}', ahead: student}}}}}}], aggregate: sequence}}"
        ],
    ).objective
    assert objective.needs_live
    plain = objective.model_dump(mode="json")
    assert Objective.model_validate(plain).model_dump(mode="json") == plain
