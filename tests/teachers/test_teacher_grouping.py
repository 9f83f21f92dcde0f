"""Rewards within the group of episodes of one task."""

import math
from statistics import mean, pstdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from teacher_cases import episode

from agentopd.teachers import rowless
from agentopd.teachers.grouping import normalised, regrouped

NAN = math.nan


def test_a_group_of_episodes_by_hand() -> None:
    """Of 1, 0 and 0 the mean is 1/3 and the population deviation sqrt(2)/3."""
    scores = normalised(["a", "a", "a", "b"], [1.0, 0.0, 0.0, 5.0])
    deviation = math.sqrt(2) / 3 + 1e-6
    assert scores == pytest.approx([2 / 3 / deviation, -1 / 3 / deviation, -1 / 3 / deviation, 0.0])
    assert all(isinstance(score, float) for score in scores)


@pytest.mark.parametrize("number", [1e9 + 0.1, 123456789.1, 1e15 / 3, -1e30])
def test_a_group_whose_large_numbers_agree_has_nothing_above_it(number: float) -> None:
    """Their mean is off by a rounding, which is no deviation; a difference that is one still counts."""
    for size in range(1, 12):
        assert normalised(["a"] * size, [number] * size) == [0.0] * size
        turns = normalised(["a"] * size, [np.array([NAN, number])] * size)
        assert np.array(turns)[:, 1].tolist() == [0.0] * size
    assert normalised(["a", "a"], [number, number * (1 + 1e-9)]) == pytest.approx(
        [-np.sign(number), np.sign(number)], abs=1e-4
    )


def test_turns_are_compared_at_their_depth() -> None:
    columns = [np.array([1.0, 4.0, 9.0]), np.array([3.0, NAN]), np.array([NAN, 8.0])]
    first, second, third = normalised(["a", "a", "a"], columns)
    one, two = 1 / (1 + 1e-6), 2 / (2 + 1e-6)  # 1 and 3 at depth 0, 4 and 8 at depth 1, 9 alone
    np.testing.assert_allclose(first, [-one, -two, 0.0])
    np.testing.assert_allclose(second, [one, NAN])
    np.testing.assert_allclose(third, [NAN, two])


def test_episodes_and_turns_are_in_different_groups_and_nothing_said_is_in_none() -> None:
    whole, column, other, silent = normalised(["a"] * 4, [1.0, np.array([100.0, 0.0]), 3.0, NAN])
    assert [whole, other] == pytest.approx([-1.0, 1.0], abs=1e-5)
    assert column.tolist() == [0.0, 0.0]  # type: ignore[union-attr]
    assert math.isnan(float(silent))


def test_rewards_of_annotations_are_regrouped_where_they_stand() -> None:
    """One of an episode wherever it stands; else each at its depth."""
    played = [episode("..0.1"), episode("..0.1.2")]
    first, second = (
        rowless("judge", one, reward_S=np.array(column, np.float32))
        for one, column in zip(played, ([NAN, 4.0], [NAN, NAN, 2.0]), strict=True)
    )
    whole = [one.reward_S for one in regrouped(["a", "a"], [first, second], whole=True)]
    np.testing.assert_allclose(whole[0], [NAN, 1.0], rtol=1e-5)
    np.testing.assert_allclose(whole[1], [NAN, NAN, -1.0], rtol=1e-5)
    turns = [one.reward_S for one in regrouped(["a", "a"], [first, second], whole=False)]
    np.testing.assert_allclose(turns[0], [NAN, 0.0])
    np.testing.assert_allclose(turns[1], [NAN, NAN, 0.0])
    silent = rowless("judge", played[0])
    assert np.isnan(regrouped(["a"], [silent], whole=True)[0].reward_S).all()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-50, 50)), min_size=1, max_size=12), st.floats(0.5, 9))
def test_it_is_the_plain_formula_and_knows_no_unit(given: list[tuple[str, float]], scale: float) -> None:
    tasks, scores = [task for task, _ in given], [score for _, score in given]
    found = normalised(tasks, scores)
    for task, score, above in zip(tasks, scores, found, strict=True):
        group = [other for name, other in given if name == task]
        wanted = 0.0 if pstdev(group) <= 1e-8 else (score - mean(group)) / (pstdev(group) + 1e-6)
        assert above == pytest.approx(wanted, abs=1e-6)
    if min(pstdev([s for t, s in given if t == task]) for task in tasks) > 0.1:
        again = normalised(tasks, [scale * score + 3.0 for score in scores])
        np.testing.assert_allclose(np.array(again), np.array(found), atol=1e-4)
