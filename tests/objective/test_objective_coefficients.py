"""Coefficients: what prepare selects, how it averages, weighs and rescales."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from objective_cases import START, Saying, episode, method, prepared, record
from pydantic import ValidationError

from agentopd.errors import ConfigError, TeacherError
from agentopd.objective import Rows, prepare
from agentopd.settings.clock import Clock
from agentopd.types import ToolCall

SFT: dict[str, Any] = {"target": {"kind": "taken"}}


def coefficients(records: list[Any], clock: Clock = START, **settings: Any) -> NDArray[Any]:
    return prepared(method(**settings), records, clock).terms[0].coef_A


def two_episodes() -> list[Any]:
    """Turns of 1 and 3 tokens, and one of 2."""
    return [record(episode([1, 3]), Saying()), record(episode([2], index=1), Saying())]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("token", [1 / 6] * 6),
        ("turn", [1 / 4] + [1 / 12] * 3 + [1 / 4] * 2),
        ("sequence", [1 / 8] * 4 + [1 / 4] * 2),
        ("sum", [1 / 2] * 6),
        ({"kind": "blend", "share": 0.25}, [0.1875] + [0.125 + 1 / 48] * 3 + [0.1875] * 2),
        ("objective_cases:first_token", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_aggregates_by_hand(aggregate: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(coefficients(two_episodes(), aggregate=aggregate), expected)


def test_turn_mean_counts_a_forked_turn_once_per_turn_not_per_segment() -> None:
    found = coefficients([record(episode([1, 2, 1], forks=[1, 2]), Saying())], aggregate="turn")
    np.testing.assert_allclose(found, [1 / 3, 1 / 6, 1 / 6, 1 / 3])
    assert coefficients([record(episode([1, 2], forks=[1]), Saying())], aggregate="sequence").tolist() == [1 / 3] * 3


def test_skipped_turns_and_failed_episodes_leave_every_denominator() -> None:
    records = [
        record(episode([1, 3]), Saying(skip=[1])),
        record(episode([2], index=1), Saying()),
        record(episode([4], index=2, failed=True), Saying()),
    ]
    kept = [1.0, 0, 0, 0, 1.0, 1.0, 0, 0, 0, 0]
    np.testing.assert_allclose(coefficients(records, aggregate="token"), np.array(kept) / 3)
    np.testing.assert_allclose(coefficients(records, aggregate="turn"), [0.5, 0, 0, 0, 0.25, 0.25, 0, 0, 0, 0])
    # the teacher's skip does not concern a term that does not read it
    np.testing.assert_allclose(coefficients(records, **SFT), [1 / 6] * 6 + [0] * 4)


def test_each_term_has_its_own_denominator() -> None:
    records = [record(episode([1, 3]), Saying(), Saying("other", "sparse", turns=[1]))]
    terms = [{"name": "a"}, {"name": "b", "target": {"name": "other"}, "support": "top_k", "coefficient": 0.5}]
    a, b = prepared(method(terms=terms), records).terms
    np.testing.assert_allclose(a.coef_A, [0.25] * 4)
    np.testing.assert_allclose(b.coef_A, [0, 1 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"min_turn": 1}, [0, 0, 1, 1, 1, 0]),
        ({"max_turn": 1}, [1, 1, 1, 0, 0, 1]),
        ({"every": 2}, [1, 1, 0, 1, 1, 1]),
        ({"actor": "student"}, [1, 1, 0, 1, 1, 1]),
        ({"actor": "expert"}, [0, 0, 1, 0, 0, 0]),
        ({"success": True}, [0, 0, 0, 0, 0, 1]),
        ({"source": "frozen"}, [0, 0, 0, 0, 0, 1]),
        ({"env": "Other-v0"}, [0] * 6),
        ({}, [1] * 6),
    ],
)
def test_where(where: dict[str, Any], expected: list[int]) -> None:
    trajectory = episode([2, 1, 2], acted_by={1: "expert"})
    records = [record(trajectory), record(episode([1], index=1, success=True, source="frozen"))]
    found = coefficients(records, **SFT, where=where)
    np.testing.assert_allclose(found, np.array(expected) / max(sum(expected), 1))


def test_where_a_tool_was_called() -> None:
    trajectory, other = episode([2, 1, 1]), episode([1], index=1)
    calls = {0: ("look", "add"), 2: ("add",)}
    turns = tuple(replace(t, calls=tuple(ToolCall(n, {}) for n in calls.get(t.index, ()))) for t in trajectory.turns)
    records = [record(other), record(replace(trajectory, turns=turns))]
    for tool, expected in (("look", [0, 1, 1, 0, 0]), (["add"], [0, 1, 1, 0, 1]), ("sub", [0] * 5)):
        found = coefficients(records, **SFT, where={"tool": tool})
        np.testing.assert_allclose(found, np.array(expected) / max(sum(expected), 1))


def test_where_combines_depth_and_step() -> None:
    found = coefficients([record(episode([1] * 7))], **SFT, where={"min_turn": 1, "max_turn": 5, "every": 2})
    np.testing.assert_allclose(found, np.array([0, 1, 0, 1, 0, 1, 0]) / 3)


def test_dagger_trains_corrected_actions_alone() -> None:
    records = [record(episode([2, 1]), Saying("expert", "none", corrects={1: 3}))]
    found = coefficients(records, **SFT, where={"source": "corrected"}, aggregate="turn")
    np.testing.assert_allclose(found, [0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    assert coefficients(records, **SFT).tolist() == pytest.approx([1 / 3] * 3 + [0] * 3)


def test_only_trainable_tokens_have_coefficients() -> None:
    one = record(episode([3]), Saying())
    one.trajectory.segments[0].trainable_T[3] = False
    assert coefficients([one]).tolist() == [0.5, 0, 0.5]


def test_teacher_entropy_weights() -> None:
    rows = Rows.of(two_episodes())
    entropy = rows.teachers["teacher"].entropy_A
    scaled = prepare(method(weight={"kind": "teacher_entropy", "scale": 2.0}), rows, START).terms[0]
    np.testing.assert_allclose(scaled.weight_A, np.exp(-entropy / 2))
    np.testing.assert_allclose(scaled.coef_A, np.exp(-entropy / 2) / 6)
    threshold = float(np.sort(entropy)[2])  # that row is not above it
    for op, kept_A in ((">", entropy > threshold), ("<=", entropy <= threshold)):
        gate = {"kind": "gate", "statistic": "teacher_entropy", "op": op, "threshold": threshold}
        found = prepare(method(weight=gate), rows, START).terms[0].weight_A
        assert found.tolist() == kept_A.astype(float).tolist()


@pytest.mark.parametrize(
    ("mistakes", "within", "expected"),
    [
        ([], "episode", [1, 1, 1, 1, 1, 1]),
        ([0], "episode", [1, 0, 0, 0, 1, 1]),  # the mistake itself is learned from; the other episode made none
        ([0], "turn", [1, 1, 1, 1, 1, 1]),
        ([2, 4], "episode", [1, 1, 1, 0, 1, 0]),
        ([1, 2], "turn", [1, 1, 0, 0, 1, 1]),  # only the first counts
        ([3, 5], "episode", [1, 1, 1, 1, 1, 1]),
    ],
)
def test_until_mistake_by_hand(mistakes: list[int], within: str, expected: list[int]) -> None:
    rows = Rows.of(two_episodes())
    teacher = rows.teachers["teacher"]
    teacher.taken_logprob_A[:] = np.log(0.2)
    teacher.taken_logprob_A[mistakes] = np.log(0.19)
    weight = {"kind": "until_mistake", "probability": 0.2 - 1e-9, "within": within}
    assert prepare(method(weight=weight), rows, START).terms[0].weight_A.tolist() == expected
    teacher.taken_logprob_A[:] = np.nan  # a teacher that said nothing found no mistake
    assert prepare(method(weight=weight), rows, START).terms[0].weight_A.tolist() == [1] * 6


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_until_mistake_needs_a_probability(probability: float) -> None:
    with pytest.raises(ValidationError, match="probability"):
        method(weight={"kind": "until_mistake", "probability": probability})


def test_until_mistake_needs_a_teacher() -> None:
    with pytest.raises(ConfigError, match="'until_mistake' needs a term whose target is a teacher's distribution"):
        coefficients(two_episodes(), **SFT, weight="until_mistake")


def test_weights_multiply_and_a_users_own_is_found_by_import_path() -> None:
    rows = Rows.of(two_episodes())
    weight = [{"kind": "objective_cases:number_of_turn", "base": 2.0}, "teacher_entropy"]
    found = prepare(method(weight=weight), rows, START).terms[0].weight_A
    np.testing.assert_allclose(found, np.array([2.0, 3, 3, 3, 2, 2]) * np.exp(-rows.teachers["teacher"].entropy_A))


def test_invariant_4_weights_of_one_reproduce_the_unweighted_coefficients_exactly() -> None:
    for aggregate in ("token", "turn", "sequence", "sum"):
        bare = coefficients(two_episodes(), aggregate=aggregate)
        for rescale in (False, True):
            one = coefficients(two_episodes(), aggregate=aggregate, weight=["uniform", "uniform"], rescale=rescale)
            np.testing.assert_array_equal(bare, one)


@pytest.mark.parametrize("aggregate", ["token", "turn", "sequence"])
def test_invariant_4_rescaling_keeps_the_scale(aggregate: str) -> None:
    weight = {"kind": "teacher_entropy", "scale": 0.3}
    weighted = coefficients(two_episodes(), aggregate=aggregate, weight=weight, coefficient=3.0)
    rescaled = coefficients(two_episodes(), aggregate=aggregate, weight=weight, coefficient=3.0, rescale=True)
    assert weighted.sum() < 2.9
    assert rescaled.sum() == pytest.approx(3.0)
    np.testing.assert_allclose(rescaled / rescaled.sum(), weighted / weighted.sum())


def test_the_signal_of_weights_is_rescaled_with_them() -> None:
    weight = {"kind": "teacher_entropy", "scale": 0.3}
    ready = prepared(method(weight=weight, rescale=True, coefficient=3.0), two_episodes())
    assert ready.terms[0].weight_A.mean() == pytest.approx(1.0)
    assert ready.metrics["loss/weight"] == pytest.approx(1.0)
    np.testing.assert_allclose(ready.terms[0].coef_A, 3.0 / 6 * ready.terms[0].weight_A)


@pytest.mark.parametrize(
    ("schedule", "first", "last"),
    [
        ({"kind": "constant", "value": 2.0}, 2.0, 2.0),
        ({"kind": "linear", "start": 1.0, "end": 3.0}, 1.0, 3.0),
        ({"kind": "cosine", "start": 1.0, "end": 3.0}, 1.0, 3.0),
        ({"kind": "step", "values": [1.0, 5.0], "boundaries": [9]}, 1.0, 5.0),
        ({"kind": "stairs", "start": 1.0, "end": 2.5, "every": 4}, 1.0, 2.5),
        ({"kind": "cosine", "start": 1.0, "end": 3.0, "share": 0.5}, 1.0, 3.0),
    ],
)
def test_invariant_4_schedules_at_their_ends(schedule: dict[str, Any], first: float, last: float) -> None:
    records = two_episodes()
    for clock, value in ((Clock(0, 10), first), (Clock(9, 10), last)):
        np.testing.assert_allclose(coefficients(records, clock, coefficient=schedule), [value / 6] * 6)
        parameter = prepared(method(weight={"kind": "teacher_entropy", "scale": schedule}), records, clock).terms[0]
        fixed = prepared(method(weight={"kind": "teacher_entropy", "scale": value}), records).terms[0]
        np.testing.assert_allclose(parameter.weight_A, fixed.weight_A)


def test_a_blend_scheduled_from_token_to_turn() -> None:
    blend = {"kind": "blend", "share": {"kind": "linear", "start": 0.0, "end": 1.0}}
    for clock, aggregate in ((Clock(0, 10), "token"), (Clock(9, 10), "turn")):
        found = coefficients(two_episodes(), clock, aggregate=blend)
        np.testing.assert_allclose(found, coefficients(two_episodes(), aggregate=aggregate))


@pytest.mark.parametrize("aggregate", ["token", "turn", "sequence", "sum", "blend"])
def test_a_zero_denominator_gives_zero_and_a_warning_metric(aggregate: str) -> None:
    everything_skipped = [record(episode([2]), Saying(skip=[0])), record(episode([1], index=1, failed=True), Saying())]
    ready = prepared(method(aggregate=aggregate, weight="teacher_entropy", rescale=True), everything_skipped)
    assert ready.terms[0].coef_A.tolist() == [0.0, 0.0, 0.0]
    assert ready.metrics["loss/empty"] == 1.0
    assert ready.metrics["loss/rows"] == 0.0
    nothing = prepared(method(aggregate=aggregate), [])
    assert nothing.metrics["loss/empty"] == 1.0
    assert nothing.metrics["loss/zero_weight"] == 0.0


SHUT = {"kind": "gate", "statistic": "teacher_entropy", "threshold": 100.0}


@pytest.mark.parametrize("rescale", [True, False])
def test_weights_of_zero_on_every_row_are_told(rescale: bool) -> None:
    ready = prepared(method(weight=SHUT, rescale=rescale), two_episodes())
    assert ready.terms[0].coef_A.tolist() == [0.0] * 6
    assert ready.terms[0].weight_A.tolist() == [0.0] * 6
    assert (ready.metrics["loss/zero_weight"], ready.metrics["loss/empty"]) == (1.0, 0.0)
    some = prepared(method(weight={**SHUT, "op": "<="}, rescale=rescale), two_episodes())
    assert some.metrics["loss/zero_weight"] == 0.0


def test_the_log_says_once_in_a_row_that_a_term_trains_nothing(caplog: pytest.LogCaptureFixture) -> None:
    terms = [{"name": "shut", "weight": SHUT}, {"name": "none", "where": {"tag": "nobody"}}, {"name": "fine"}]
    objective, rows = method(terms=terms), Rows.of(two_episodes())
    metrics = {f"objective/{name}": value for name, value in prepare(objective, rows, Clock(3, 10)).metrics.items()}
    shut, none = (entry.getMessage() for entry in caplog.records)
    assert shut.startswith("term 'shut' trains nothing from step 3 on: each of its 6 rows has weight 0")
    assert "objective.terms.0.weight" in shut
    assert none.startswith("term 'none' trains nothing from step 3 on: it has no row to learn from")
    assert "objective.terms.1.where" in none
    prepare(objective, rows, Clock(4, 10, metrics))
    assert len(caplog.records) == 2
    prepare(objective, rows, Clock(5, 10, {**metrics, "objective/shut/zero_weight": 0.0}))
    assert len(caplog.records) == 3


@pytest.mark.parametrize("part", [{"where": {"tag": "nobody"}}, {"weight": SHUT}, {}])
def test_a_coefficient_of_zero_wants_no_rows(part: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    schedule = {"kind": "linear", "start": 0.0, "end": 1.0}
    ready = prepared(method(coefficient=schedule, **part), two_episodes())
    assert not ready.terms[0].coef_A.any()
    assert (ready.metrics["loss/empty"], ready.metrics["loss/zero_weight"], ready.metrics["loss/rows"]) == (0, 0, 0)
    assert not caplog.records


@pytest.mark.parametrize(
    "coefficient",
    [
        -0.5,
        {"kind": "constant", "value": -0.5},
        {"kind": "linear", "start": 1.0, "end": -0.5},
        {"kind": "cosine", "start": -0.5, "end": 1.0},
        {"kind": "step", "values": [0.5, -0.5], "boundaries": [3]},
    ],
)
def test_a_negative_coefficient_is_refused(coefficient: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"terms\.0\.coefficient\s.*-0\.5 is below 0; .*flip the sign where it is made"
    ):
        method(coefficient=coefficient)


def test_a_schedule_of_ones_own_is_refused_at_the_step_where_it_is_negative() -> None:
    objective = method(coefficient={"kind": "objective_cases:falling", "slope": 0.25})
    assert prepared(objective, two_episodes(), Clock(4, 10)).terms[0].coefficient == 0.0
    with pytest.raises(ConfigError, match=r"objective\.coefficient: the schedule gives -0\.25 at step 5; .*at least 0"):
        prepared(objective, two_episodes(), Clock(5, 10))


def test_metrics() -> None:
    ready = prepared(method(terms=[{"name": "kl"}, {"estimator": "score_function"}]), two_episodes())
    assert {name.split("/")[0] for name in ready.metrics} == {"kl", "term1"}
    advantage = ready.terms[1].advantage_A
    assert ready.metrics["term1/advantage"] == pytest.approx(advantage.mean())
    assert ready.metrics["kl/rows"] == 6.0
    assert ready.metrics["kl/empty"] == 0.0


def test_parts_that_return_nonsense_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"weight\.kind=objective_cases:too_short returned shape \(1,\) of float64 for 6 rows"
    ):
        coefficients(two_episodes(), weight="objective_cases:too_short")
    with pytest.raises(ValueError, match=r"weight\.kind=objective_cases:negative returned -1\.0 for row 0"):
        coefficients(two_episodes(), weight="objective_cases:negative")
    unsure = two_episodes()
    unsure[0].annotations[0].entropy_N[1] = np.nan
    with pytest.raises(ValueError, match="needs the teacher's entropy on every row"):
        coefficients(unsure, weight="teacher_entropy")
    with pytest.raises(ValueError, match="needs a term whose target is a teacher's distribution"):
        coefficients(two_episodes(), **SFT, weight="teacher_entropy")


def test_a_teacher_that_said_nothing_is_named() -> None:
    with pytest.raises(TeacherError, match=r"target 'mentor' annotated nothing in this batch \(teacher did\)"):
        coefficients(two_episodes(), target={"name": "mentor"})
