"""Means over seeds and tasks: numbers by hand, and what simulated comparisons come to."""

import math
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopd.comparing.crossed import LEAST, Spread, crossed
from agentopd.comparing.inference import LEVEL, POWER, detectable, holm, seeds_needed
from agentopd.comparing.whole import FEW_TASKS
from benchmarks.comparing import EFFECTS, SIZES, normal_table, outcomes, pigeonhole, table


def test_components_by_hand() -> None:
    found = crossed([[1.0, 0.0], [3.0, 2.0]])
    assert found.value == 1.5
    # no rest; means of seeds 0.5 and 2.5, of tasks 2 and 1
    assert found.spread == Spread(seeds=2.0, tasks=0.5, rest=0.0)
    assert found.spread.of_seeds(2, 2) == 1.0
    assert found.spread.of_tasks(2) == 0.25
    with_rest = crossed([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).spread
    assert with_rest.rest == pytest.approx(6 / 9 / 2 * 1.5)  # 3 (2/3)^2 + 6 (1/3)^2 = 2, over 4
    assert with_rest.seeds == pytest.approx((LEAST - 1) * 0.5 / 3)
    assert with_rest.tasks == 0.0


def test_with_tasks_that_are_alike_it_is_the_t_interval() -> None:
    found = crossed([[1.0] * 5, [2.0] * 5, [3.0] * 5])
    half = 4.302653 / math.sqrt(3)
    assert found.interval() == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert found.p == pytest.approx(0.0742, abs=1e-4)


def test_with_seeds_that_are_alike_it_is_the_bootstrap_of_tasks() -> None:
    success_T = np.arange(100) % 4 == 0
    found = crossed(np.tile(success_T.astype(float), (3, 1)))
    assert found.scale == 0.0
    assert found.error_R.std() == pytest.approx(success_T.std(ddof=1) / 10, rel=0.05)
    assert found.interval() == pytest.approx((0.25 - 1.96 * 0.0435, 0.25 + 1.96 * 0.0435), abs=0.01)


def test_seeds_that_lie_too_close_together_do_not_make_it_narrow() -> None:
    table = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]])  # each seed has two of four
    found = crossed(table)
    assert found.scale == pytest.approx(math.sqrt(LEAST * found.spread.rest / 12))
    assert found.scale > 0.1


def test_where_nothing_differs_something_may_have_gone_unseen() -> None:
    found = crossed(np.zeros((3, 20)))
    assert found.p == 1.0
    assert found.interval() == pytest.approx((-0.1391, 0.1391), abs=1e-4)  # 1 - 0.05^(1/20)
    assert crossed(np.ones((3, 20))).interval().low == pytest.approx(1 - 0.1391, abs=1e-4)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (5,)])
def test_it_takes_a_table(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give two seeds and two tasks"):
        crossed(np.zeros(shape))


@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 1000))
def test_interval_and_p_agree_and_turn_with_the_sign(seeds: int, tasks: int, number: int) -> None:
    table = np.random.default_rng(number).integers(-1, 2, (seeds, tasks)).astype(float)
    found, turned = crossed(table), crossed(-table)
    low, high = found.interval()
    assert low <= found.value <= high
    assert turned.value == -found.value
    assert found.interval(0.99).low <= low + 1e-6
    if np.ptp(table) and abs(found.p - LEVEL) > 0.01:
        assert (found.p <= LEVEL) == (not low <= 0 <= high)


def test_equal_arms_are_called_different_at_most_one_time_in_twenty() -> None:
    random = np.random.default_rng(0)
    cases = cycle([(size, effects) for size in SIZES for effects in EFFECTS.values()])
    alone = family = 0
    for _, (size, effects) in zip(range(500), cases, strict=False):
        base, *arms = outcomes(random, *size, arms=3, **effects).astype(float)
        p_K = [crossed(arm - base).p for arm in arms]
        alone += p_K[0] <= LEVEL
        family += min(holm(p_K)) <= LEVEL
    assert alone <= 25
    assert family <= 25


def test_the_simulation_tells_a_method_that_does_not_keep_its_level() -> None:
    random, found = np.random.default_rng(3), 0
    for _ in range(200):
        base, arm = outcomes(random, 3, 200, of_seed=1.0).astype(float)
        found += pigeonhole(arm - base, random)
    assert found / 200 > 3 * LEVEL


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("effects", EFFECTS.values(), ids=[*EFFECTS])
def test_no_way_of_being_equal_is_called_different_too_often(size: tuple[int, int], effects: dict[str, Any]) -> None:
    random = np.random.default_rng(1)
    tables = (outcomes(random, *size, **effects).astype(float) for _ in range(2000))
    found = sum(crossed(arm - base).p <= LEVEL for base, arm in tables)
    assert found / 2000 <= LEVEL + 2.6 * math.sqrt(LEVEL * (1 - LEVEL) / 2000)


@pytest.mark.parametrize(("seeds", "tasks"), [(3, 100), (5, 100), (10, 64)])
def test_what_is_detectable_is_found_as_often_as_it_says(seeds: int, tasks: int) -> None:
    random, spread = np.random.default_rng(2), Spread(seeds=0.002, tasks=0.1, rest=0.3)
    effect = detectable(spread, seeds, tasks)
    found = sum(crossed(effect + normal_table(random, spread, seeds, tasks)).p <= LEVEL for _ in range(400))
    assert found / 400 == pytest.approx(POWER, abs=0.06)


@given(st.floats(0.01, 0.5), st.floats(0, 0.05), st.floats(0, 0.3), st.floats(0.01, 0.3))
def test_as_many_seeds_as_needed_and_no_more(difference: float, of_seeds: float, of_tasks: float, rest: float) -> None:
    spread = Spread(of_seeds, of_tasks, rest)
    needed = seeds_needed(-difference, spread, 100)
    if needed is None:
        assert detectable(spread, 1000, 100) > difference
    else:
        assert detectable(spread, needed, 100) <= difference
        assert needed == 2 or detectable(spread, needed - 1, 100) > difference


@pytest.mark.parametrize("difference", [0.08, 0.12])
def test_the_seeds_that_are_needed_suffice(difference: float) -> None:
    random, spread = np.random.default_rng(5), Spread(seeds=0.004, tasks=0.05, rest=0.3)
    needed = seeds_needed(difference, spread, 100)
    assert needed is not None
    found = [crossed(difference + normal_table(random, spread, needed, 100)).p <= LEVEL for _ in range(400)]
    fewer = [crossed(difference + normal_table(random, spread, needed - 2, 100)).p <= LEVEL for _ in range(400)]
    assert POWER - 0.06 <= np.mean(found) <= POWER + 0.12
    assert np.mean(fewer) < np.mean(found)


def test_no_number_of_seeds_makes_up_for_too_few_tasks() -> None:
    assert seeds_needed(0.05, Spread(0.001, 0.3, 0.1), tasks=50) is None
    assert seeds_needed(0.05, Spread(0.001, 0.3, 0.1), tasks=5000) is not None
    assert seeds_needed(0.0, Spread(0.001, 0.3, 0.1), tasks=5000) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_each_alone_and_bonferroni(p_K: list[float]) -> None:
    adjusted = holm(p_K)
    assert all(p <= q <= min(1.0, len(p_K) * p) for p, q in zip(p_K, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p_K)] == sorted(adjusted)


def test_the_table_of_the_simulation() -> None:
    one = {"comparisons": 200, "shipped": 5, "pigeonhole": 40, "over_seeds": 11}
    lines = table(
        {"seeds differ/3/64": one, "both/5/200": {"comparisons": 100, "effect": 0.1, "shipped": 79}}
    ).splitlines()
    assert "| seeds differ | 2.5, 20.0, 5.5 |" in lines[4]
    assert lines[-1] == "| what varies: both |  |  |  | 79.0 |"


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "least", "most"), [(5, 0.08, 0.16), (FEW_TASKS, 0.03, 0.08)])
def test_few_tasks_call_equal_arms_different_too_often(tasks: int, least: float, most: float) -> None:
    random = np.random.default_rng(3)

    def arm(shared_T: np.ndarray) -> np.ndarray:
        logit_S_T = shared_T + random.normal(0, 1.5, tasks) + random.normal(0, 0.2, (10, 1))
        return (random.random((10, tasks)) < 1 / (1 + np.exp(-logit_S_T))).astype(float)

    shared = random.normal(0, 1, (500, tasks))
    assert least < np.mean([crossed(arm(one_T) - arm(one_T)).p <= LEVEL for one_T in shared]) < most
