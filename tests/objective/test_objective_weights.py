"""Weights by hand: each against numbers computed on paper, and what follows from its settings."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import START, Saying, Student, episode, method, prepared, record, teacher_heads
from weight_cases import Played, table, taught, weigh

from agentopd.errors import ConfigError
from agentopd.objective import Rows, Scored, TeacherColumns, TeacherName, prepare
from agentopd.objective.weights import needs_live
from agentopd.objective.weights.curves import either
from agentopd.settings.clock import Clock

LN2 = math.log(2)
TWO = [Played([[(-1.0, -2.0, -1.5)], [(-1.0, -0.5, -3.0), (-2.0, -2.0, -2.0)]]), Played([[(-0.5, -1.0, -0.5)]])]
"""Two episodes, of turns with 1 and 2 tokens, and with 1: behaviour, current and teacher's log-probabilities."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "disagreement", "scale": 2.0}, np.exp([-0.25, -1.0, 0.0, 0.0])),
        ({"kind": "disagreement", "scale": 2.0, "direction": "up"}, 1 - np.exp([-0.25, -1.0, 0.0, 0.0])),
        ({"kind": "disagreement", "logprobs": "recomputed"}, np.exp([-0.5, -2.5, 0.0, -0.5])),
        ({"kind": "disagreement", "level": "turn"}, np.exp([-0.5, -1.0, -1.0, 0.0])),
        ({"kind": "disagreement", "level": "trajectory"}, np.exp([-2.5 / 3] * 3 + [0.0])),
        ({"kind": "teacher_confidence"}, np.exp([-1.5, -3.0, -2.0, -0.5])),
        ({"kind": "teacher_confidence", "level": "turn", "power": 2.0}, np.exp([-3.0, -5.0, -5.0, -1.0])),
        ({"kind": "gate", "statistic": "surprisal", "threshold": 1.0}, [0, 0, 1, 0]),
        ({"kind": "gate", "statistic": "surprisal", "op": ">=", "threshold": 1.0}, [1, 1, 1, 0]),
        ({"kind": "gate", "statistic": "surprisal", "op": "<", "threshold": 1.0}, [0, 0, 0, 1]),
        ({"kind": "gate", "statistic": "surprisal", "op": "<=", "threshold": 1.0}, [1, 1, 0, 1]),
        ({"kind": "gate", "statistic": "log_ratio", "threshold": 0.0, "logprobs": "recomputed"}, [1, 0, 0, 1]),
        ({"kind": "gate", "statistic": "depth", "op": "<", "threshold": 1.0}, [1, 0, 0, 1]),
        ({"kind": "gate", "statistic": "teacher_surprisal", "threshold": 1.7, "level": "turn"}, [0, 1, 1, 0]),
        ({"kind": "decay", "statistic": "depth", "scale": 2.0}, np.exp([0, -0.5, -0.5, 0])),
        ({"kind": "decay", "statistic": "drift", "scale": 2.0}, np.exp([0, -0.25, -1.25, 0])),
        ({"kind": "shape", "gamma": 0.1, "actor": "nobody"}, [1, 1, 1, 1]),
        ({"kind": "top_share", "statistic": "teacher_surprisal", "share": 0.5}, [0, 1, 1, 0]),
        ({"kind": "top_share", "statistic": "teacher_surprisal", "share": 0.5, "direction": "down"}, [1, 0, 0, 1]),
        ({"kind": "top_share", "statistic": "teacher_surprisal", "share": 0.01}, [0, 1, 0, 0]),
        ({"kind": "top_share", "statistic": "depth", "share": 0.25}, [0, 1, 1, 0]),  # rows that tie are kept together
        ({"kind": "shape", "gamma": 0.1}, [0.1 * p / (p + 0.1) ** 2 for p in np.exp([-2.0, -0.5, -2.0, -1.0])]),
        ({"kind": "without_tokens", "ids": [1, 3]}, [1, 0, 1, 0]),
        ({"kind": "importance"}, [math.exp(-1), math.exp(0.5), 1.0, math.exp(-0.5)]),
        ({"kind": "importance", "cap": 1.5}, [math.exp(-1), 1.5, 1.0, math.exp(-0.5)]),
        ({"kind": "importance", "level": "sequence"}, [math.exp(-0.5)] * 4),
        ({"kind": "importance", "level": "geometric"}, [math.exp(-0.5 / 3)] * 3 + [math.exp(-0.5)]),
        ({"kind": "importance", "rule": "masked", "high": 1.5}, [0, 0, 1.0, math.exp(-0.5)]),
        ({"kind": "importance", "rule": "masked", "low": 0.0}, [math.exp(-1), math.exp(0.5), 1.0, math.exp(-0.5)]),
    ],
)  # fmt: skip
def test_weights_of_tokens(settings: dict[str, Any], expected: Any) -> None:
    rows = table(TWO)
    np.testing.assert_allclose(weigh(**settings, rows=rows), expected, rtol=1e-12, atol=1e-15)
    found = prepare(method(weight=settings), rows, START).terms[0].weight_A
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_shaping_has_the_gradient_of_p_over_p_plus_gamma() -> None:
    logp = torch.tensor([-3.0, -1.0, -0.1, -9.0], dtype=torch.float64, requires_grad=True)
    p = logp.exp()
    (expected,) = torch.autograd.grad((p / (p + 0.1)).sum(), logp)
    found = weigh("shape", table([Played([[(0.0, x, -1.0) for x in logp.tolist()]])]))
    np.testing.assert_allclose(found, expected)


def test_entropies_of_student_and_members() -> None:
    statistics = {"epistemic": [0.0, 0.1], "aleatoric": [0.5, 1.0]}
    one = replace(taught([-1.0, -1.0]), entropies=[(0.0, 0.5), (LN2, 1.1)], statistics=statistics)
    rows = table([one])
    np.testing.assert_allclose(weigh("student_entropy", rows), [0.0, 0.5], atol=1e-15)
    np.testing.assert_allclose(weigh("student_entropy", rows, direction="down"), [1.0, 0.5])
    np.testing.assert_allclose(weigh("teacher_entropy", rows, direction="up"), 1 - np.exp([-0.5, -1.1]))
    np.testing.assert_allclose(weigh("teacher_entropy", rows, level="turn"), np.exp([-0.8] * 2))
    np.testing.assert_allclose(weigh("epistemic", rows), np.exp([0.0, -1.0]))
    np.testing.assert_allclose(weigh("epistemic", rows, scale=0.2, direction="up"), 1 - np.exp([0.0, -0.5]))
    np.testing.assert_allclose(weigh("aleatoric", rows, scale=2.0), np.exp([-0.25, -0.5]))
    np.testing.assert_allclose(weigh("gate", rows, statistic="epistemic", threshold=0.05), [0, 1])
    # the two add up to the entropy of the mixture, which the weights multiply to
    both = weigh("epistemic", rows, scale=1.0) * weigh("aleatoric", rows)
    np.testing.assert_allclose(both, weigh("teacher_entropy", rows))


def test_rounding_below_zero_is_no_epistemic_uncertainty() -> None:
    rows = table([replace(taught([-1.0]), statistics={"epistemic": [-1e-9]})])
    assert weigh("epistemic", rows).tolist() == [1.0]


def test_soft_or_is_h_plus_d_minus_hd_of_normalised_statistics() -> None:
    grid = np.linspace(0, 1, 7)
    h, d = (axis.ravel() for axis in np.meshgrid(grid, grid))
    np.testing.assert_allclose(either(h, d), h + d - h * d, atol=1e-15)
    rows = table(TWO)  # surprisal 1, 1, 2, 0.5 and depth 0, 1, 1, 0
    h, d = np.array([1 / 3, 1 / 3, 1, 0]), np.array([0, 1, 1, 0.0])
    settings: dict[str, Any] = {"first": "surprisal", "second": "depth"}
    np.testing.assert_allclose(weigh("soft_or", rows, **settings), h + d - h * d)
    np.testing.assert_allclose(weigh("soft_or", rows, **settings, direction="down"), (1 - h) * (1 - d))
    h, d = np.array([0, 0, 1, 0.5]), np.array([0, 1, 1, 0.5])  # the second episode has no range
    np.testing.assert_allclose(weigh("soft_or", rows, **settings, within="trajectory"), h + d - h * d)


def test_tip_keeps_the_unsure_and_the_wrongly_sure() -> None:
    unsure, wrong, fine = (1.0, 0.5), (0.0, 0.5), (0.0, 0.5)
    tokens = [(-1.0, -1.0, -1.0), (-1.0, -0.1, -5.0), (-1.0, -0.1, -0.1), (-1.0, -0.1, -0.2)]
    rows = table([Played([tokens], entropies=[unsure, wrong, fine, fine])])
    assert weigh("tip", rows, share=0.5).tolist() == [1, 1, 0, 0]
    assert weigh("tip", rows, share=0.75).tolist() == [1, 1, 0, 1]
    assert weigh("tip", rows, share=1.0).tolist() == [1] * 4
    ready = prepare(method(weight={"kind": "tip"}, rescale=True), rows, START).terms[0]
    assert ready.coef_A.tolist() == [0.5, 0.5, 0, 0]  # the mean over the rows kept
    assert weigh("tip", table([taught([-1.0])])).tolist() == [1.0]


def test_sod_by_hand_and_the_product_of_neighbours_that_it_is() -> None:
    rows = table([taught([-1.5, -1.5], [-3.0], [-1.1], [-2.0])])  # d = 0.5, 2, 0.1, 1
    expected = [1.0, 1.0, 0.25, 1.2, 0.5]
    np.testing.assert_allclose(weigh("sod", rows), expected, rtol=1e-5)
    np.testing.assert_allclose(weigh("sod", rows, direction="up"), [1.0, 1.0, 1.2, 0.2, 1.2], rtol=1e-4)
    np.testing.assert_allclose(weigh("sod", rows, delta=10.0)[3], 5.0, rtol=1e-4)
    epsilon, d = 0.3, [0.5, 2.0, 0.1, 1.0]
    steps = [(before + epsilon) / (after + epsilon) for before, after in pairwise(d)]
    telescoped = [min(math.prod(steps[:k]), 1.2) for k in range(4)]
    found = weigh("sod", rows, epsilon=epsilon)[[0, 2, 3, 4]]
    np.testing.assert_allclose(found, telescoped, rtol=1e-12)


def test_turns_are_told_by_their_number_and_corrections_are_apart() -> None:
    one = taught([-1.5], [-2.0], corrected=[(-1.0, -1.0, -4.0)])
    np.testing.assert_allclose(weigh("sod", table([one])), [1.0, 0.5, 1.0], rtol=1e-5)


def test_t_dur_by_hand() -> None:
    one = Played([[(-1.0, 0, -1.0)], [(-2.0, 0, -3.0), (-2.0, 0, -1.0)], [(-3.0, 0, -1.0)]])  # d 0, 1, 2; h 1, 2, 3
    other = taught([-2.0], [-2.0])  # no range, so each is 0.5
    expected = [0.0, 0.75, 0.75, 1.0, 0.75, 0.75]
    np.testing.assert_allclose(weigh("t_dur", table([one, other])), expected, atol=1e-12)
    np.testing.assert_allclose(
        weigh("t_dur", table([one, other]), direction="down"), 1 - np.array(expected), atol=1e-12
    )


def test_iw_opd_by_hand() -> None:
    one = taught([-1.5, -1.5], [-3.0])  # d = 0.5, 0.5, 2, of 3
    other = taught([-2.0], [-2.0])
    rows = table([one, other, taught([-1.0])])
    np.testing.assert_allclose(weigh("iw_opd", rows), [1.5, 1.5 - 0.5 / 6, 1.5 - 1 / 6, 1.5, 1.25, 1.5])
    np.testing.assert_allclose(weigh("iw_opd", rows, most=1.0), np.ones(6))


def test_reliability_is_of_the_history_alone() -> None:
    logs = [[math.log(0.9)], [math.log(0.1), math.log(0.4)], [math.log(0.5)]]
    rows = table([taught(*logs), taught([-5.0])])
    history = (0.9 * 0.1 * 0.4) ** (1 / 3)
    assert 0.3 < history < 0.35
    assert weigh("reliability", rows).tolist() == [1, 1, 1, 0, 1]  # what a turn itself holds does not count against it
    assert weigh("reliability", rows, above=False).tolist() == [0, 0, 0, 1, 0]
    assert weigh("reliability", rows, threshold=0.3).tolist() == [1] * 5
    found = weigh("gate", rows, statistic="reliability", op=">=", threshold=history - 1e-12)
    assert found.tolist() == [1] * 5
    corrected = table([taught([-5.0], [-0.1], corrected=[(0.0, -1.0, -0.1)] * 9)])
    assert weigh("reliability", corrected).tolist() == [1, 0] + [1] * 9  # corrections were not done


def test_pass_rate_by_hand() -> None:
    won, lost = taught([-1.0], success=True), taught([-1.0, -1.0])
    other = taught([-1.0], task="b", success=True)
    rows = table([won, lost, lost, replace(lost, failed=True), other])
    np.testing.assert_allclose(weigh("pass_rate", rows), [2 / 9] * 7 + [0.0])
    np.testing.assert_allclose(weigh("pass_rate", rows, a=2.0, b=0.0), [1 / 9] * 7 + [1.0])
    some = rows.select(rows.trajectory_A == 1)  # a term that trains failures only
    np.testing.assert_allclose(weigh("pass_rate", some), [2 / 9] * 2)


def test_reward_softmax_by_hand() -> None:
    rows = table([taught([-1.0] * 3), taught([-1.0], reward=math.log(3)), taught([-1.0], task="b", reward=7.0)])
    np.testing.assert_allclose(weigh("reward_softmax", rows), [0.5] * 3 + [1.5, 1.0])
    np.testing.assert_allclose(weigh("reward_softmax", rows, beta=1e9), [1.0] * 5)
    sharp = weigh("reward_softmax", rows, beta=1e-9)
    np.testing.assert_allclose(sharp, [0.0] * 3 + [2.0, 1.0])
    trained = rows.select(rows.trajectory_A > 0)  # siblings are those that the term trains
    np.testing.assert_allclose(weigh("reward_softmax", trained), [1.0, 1.0])


def test_scope_signs_of_the_paper_and_of_its_code() -> None:
    ln3 = math.log(3)
    rows = table([taught([-1.0, -1.0 - 2 * ln3]), taught([-1.0])])  # mean log q: -1 - ln 3 and -1
    rows = replace(rows, logprob_A=rows.teachers["teacher"].taken_logprob_A)
    sure, unsure = [0.5, 0.5, 1.5], [1.5, 1.5, 0.5]
    np.testing.assert_allclose(weigh("scope", rows), sure)
    np.testing.assert_allclose(weigh("scope", rows, favour="unsure"), unsure)
    np.testing.assert_allclose(weigh("scope", rows, by="student"), unsure)
    np.testing.assert_allclose(weigh("scope", rows, by="student", favour="sure"), sure)
    np.testing.assert_allclose(weigh("scope", rows, tau=0.5), [0.2, 0.2, 1.8])
    np.testing.assert_allclose(weigh("scope", rows, by="student", logprobs="recomputed"), [1.0] * 3)


def test_coverage_and_the_best_token_of_a_top_k() -> None:
    heads = teacher_heads("teacher")
    records = [record(episode([2]), Saying(kind="sparse"), heads=heads), record(episode([1], index=1), Saying())]
    rows = Rows.of(records)
    block: Any = records[0].annotations[0].block
    mass = np.exp(block.logprob_N_K).sum(1)
    assert (mass < 0.999).all()
    np.testing.assert_allclose(weigh("top_k_coverage", rows, power=2.0), [*mass**2, 1.0], rtol=1e-6)
    sparse = rows.select(rows.trajectory_A == 0)
    best = weigh("teacher_confidence", sparse, token="best")
    np.testing.assert_allclose(best, np.exp(block.logprob_N_K.max(1)), rtol=1e-6)
    with pytest.raises(ValueError, match=r"'best_surprisal' needs .* unknown on 1 of 3"):
        weigh("teacher_confidence", rows, token="best")
    sampled = Rows.of([record(episode([1]), Saying(kind="sampled"))])
    with pytest.raises(
        ValueError, match="'coverage' is no statistic that this teacher gives; there are: teacher_entropy"
    ):
        weigh("top_k_coverage", sampled)


def test_another_teacher_is_asked_by_name() -> None:
    rows = Rows.of([record(episode([2]), Saying("teacher"), Saying("judge"), heads=teacher_heads("teacher", "judge"))])
    objective = method(weight={"kind": "teacher_entropy", "of": "judge"})
    found = prepare(objective, rows, START).terms[0].weight_A
    np.testing.assert_allclose(found, np.exp(-rows.teachers["judge"].entropy_A))
    assert objective.teachers() == {"teacher", "judge"}
    taken = method(target={"kind": "taken"}, weight={"kind": "teacher_confidence", "of": "judge"})
    assert taken.teachers() == {"judge"}
    assert prepare(taken, rows, START).terms[0].coef_A.all()
    with pytest.raises(
        ConfigError, match=r"of=mentor: this teacher annotated nothing in this batch \(judge, teacher did\)"
    ):
        prepare(method(weight={"kind": "teacher_entropy", "of": "mentor"}), rows, START)


def judged(rows: Rows, teacher: TeacherColumns | None, *, by: TeacherName, other: TeacherName | None = None) -> Any:
    """A user's weight that asks another teacher."""
    return np.exp(-rows.teachers[by].entropy_A)


def noted(scored: Scored, advantage_A: Any, *, of: "TeacherName" = "outcome") -> Any:
    """A user's coupling."""
    return advantage_A


def test_a_setting_of_ones_own_may_name_a_teacher() -> None:
    rows = Rows.of([record(episode([2]), Saying("teacher"), Saying("judge"), heads=teacher_heads("teacher", "judge"))])
    objective = method(weight={"kind": "test_objective_weights:judged", "by": "judge"})
    assert objective.teachers() == {"teacher", "judge"}
    found = prepare(objective, rows, START).terms[0].weight_A
    np.testing.assert_allclose(found, np.exp(-rows.teachers["judge"].entropy_A))
    weight = {"kind": "test_objective_weights:judged", "by": "judge", "other": "mentor"}
    assert method(target={"kind": "taken"}, weight=weight).teachers() == {"judge", "mentor"}
    for of, named in (("outcome", {"teacher"}), ("critic", {"teacher", "critic"})):
        coupling = {"kind": "test_objective_weights:noted", "of": of}
        assert method(estimator="score_function", coupling=coupling).teachers() == named
    with pytest.raises(ValueError, match=r"of: String should have at least 1 character"):
        method(weight={"kind": "teacher_entropy", "of": ""})
    with pytest.raises(ValueError, match=r"by: Input should be a valid string"):
        method(weight={"kind": "test_objective_weights:judged", "by": 3})


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ("student_entropy", True),
        ("tip", True),
        ("shape", True),
        ("importance", True),
        ("disagreement", False),
        ({"kind": "disagreement", "logprobs": "recomputed"}, True),
        ({"kind": "gate", "statistic": "student_entropy", "threshold": 1.0}, True),
        ({"kind": "gate", "statistic": "teacher_entropy", "threshold": 1.0}, False),
        ("soft_or", True),
        ({"kind": "soft_or", "first": "surprisal"}, False),
        ("sod", False),
        ("t_dur", False),
        ("iw_opd", False),
        (["sod", {"kind": "t_dur", "logprobs": "recomputed"}], True),
        ("objective_cases:number_of_turn", False),
    ],
)
def test_the_live_pass_is_made_where_a_weight_reads_it(weight: Any, expected: bool) -> None:
    assert method(weight=weight).needs_live is expected


def test_a_users_own_mark_still_holds() -> None:
    @needs_live
    def own(rows: Rows, teacher: Any) -> Any:
        return np.ones(len(rows))

    assert getattr(own, "needs_live") is True  # noqa: B009


ONE = [
    "uniform",
    {"kind": "teacher_confidence", "power": 0.0},
    "top_k_coverage",
    {"kind": "gate", "statistic": "teacher_entropy", "op": ">=", "threshold": 0.0},
    {"kind": "decay", "statistic": "disagreement", "scale": 1e300},
    {"kind": "top_share", "statistic": "teacher_surprisal", "share": 1.0},
    {"kind": "without_tokens", "ids": []},
    {"kind": "sod", "epsilon": 1e300},
    {"kind": "reliability", "threshold": 0.0},
    {"kind": "pass_rate", "a": 0.0, "b": 0.0},
    {"kind": "scope", "tau": 1e300},
    "reward_softmax",
]


@pytest.mark.parametrize("weight", ONE)
def test_invariant_4_weights_of_one_reproduce_the_unweighted_loss_exactly(weight: Any) -> None:
    heads, student = teacher_heads("teacher"), Student.new()
    records = [record(episode(turns, index=i), Saying(), heads=heads) for i, turns in enumerate([[1, 3], [2]])]
    sampler = {"per_task": 2}
    bare = prepared(method(sampler=sampler), records)
    for rescale in (False, True):
        one = prepared(method(sampler=sampler, weight=weight, rescale=rescale), records)
        np.testing.assert_array_equal(one.terms[0].coef_A, bare.terms[0].coef_A)
        assert student.loss(one, heads).loss.item() == student.loss(bare, heads).loss.item()


def test_every_number_may_be_a_schedule() -> None:
    rows, schedule = table(TWO), {"kind": "linear", "start": 0.5, "end": 3.0}
    for settings in (
        {"kind": "gate", "statistic": "surprisal", "threshold": schedule},
        {"kind": "importance", "cap": schedule},
        {"kind": "sod", "delta": schedule},
        {"kind": "decay", "statistic": "surprisal", "scale": schedule},
    ):
        (name,) = (name for name, value in settings.items() if value is schedule)
        for clock, value in ((Clock(0, 10), 0.5), (Clock(9, 10), 3.0)):
            found = prepare(method(weight=settings), rows, clock).terms[0].weight_A
            fixed = prepare(method(weight={**settings, name: value}), rows, START).terms[0].weight_A
            np.testing.assert_array_equal(found, fixed)


def test_special_tokens_are_those_that_the_rows_were_told_of() -> None:
    weight = {"kind": "without_tokens", "ids": "special"}
    rows = table(TWO)
    with pytest.raises(ConfigError, match=r"objective\.weight.*call rows\.with_special"):
        prepare(method(weight=weight), rows, START)
    told = rows.with_special([1, 3])
    found = prepare(method(weight=weight), told.select(np.ones(len(told), np.bool_)), START).terms[0].weight_A
    np.testing.assert_array_equal(found, (~np.isin(rows.token_A, [1, 3])).astype(float))
