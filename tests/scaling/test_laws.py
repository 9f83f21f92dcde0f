"""Laws, their fits, and what is said where points do not determine them, on simulated sweeps."""

import numpy as np
import pytest
from scaling_cases import BOTH, BUDGETS, SIZES, TRUE, law, places, simulated
from scipy.optimize import check_grad, least_squares

from agentopd.errors import ConfigError
from agentopd.scaling import scaling
from agentopd.scaling.fitting import HUBER, huber, minimised
from agentopd.scaling.laws import LAWS, Floats, bounds, starts
from agentopd.scaling.points import Point, errors_of, levels, variables_of
from agentopd.scaling.telling import formula, sentences, shown, tables
from agentopd.scaling.whole import fit


@pytest.mark.parametrize("name", LAWS)
def test_gradients_are_those_of_the_laws(name: str) -> None:
    x_M_K = np.array([[0.3, -1.2]])
    theta_P = np.log(np.linspace(0.2, 0.9, len(LAWS[name].parameters(BOTH))))
    evaluate = LAWS[name].evaluate
    off = check_grad(lambda p: evaluate(p[None], x_M_K)[0][0, 0], lambda p: evaluate(p[None], x_M_K)[1][0, 0], theta_P)
    assert off < 1e-6


def test_laws_by_hand() -> None:
    x_M_K = np.log([[4.0, 8.0]])
    log = np.log
    assert LAWS["saturating"].evaluate(log([[0.1, 0.2, 0.5, 0.4, 1 / 3]]), x_M_K)[0] == pytest.approx(
        log(0.1 + 0.2 / 2 + 0.4 / 2)
    )
    assert LAWS["power"].evaluate(log([[0.8, 0.5, 1 / 3]]), x_M_K)[0] == pytest.approx(log(0.8 / 2 / 2))
    assert LAWS["constant"].evaluate(log([[0.8]]), x_M_K)[0] == pytest.approx(log(0.8))


def test_hubers_loss_by_hand() -> None:
    assert huber(np.array([0.5, -3.0])) == pytest.approx([0.125, HUBER * 3 - HUBER**2 / 2])


def test_fits_are_those_of_scipy() -> None:
    x = places()
    points = simulated(3, x, law(x))
    y_M, error_M = np.array([one.y for one in points]), errors_of(points)
    x_M_K = np.log([[one[name] for name in BOTH] for one in x])
    x_M_K -= x_M_K.mean(axis=0)
    form, names = LAWS["saturating"], LAWS["saturating"].parameters(BOTH)
    within, begin_R_P = bounds(names, y_M), starts(names, y_M)
    _, loss_R = minimised(form, begin_R_P, np.tile(np.log(y_M), (len(begin_R_P), 1)), x_M_K, error_M, within)

    def off(theta_P: Floats) -> Floats:
        standardised: Floats = (form.evaluate(theta_P[None], x_M_K)[0][0] - np.log(y_M)) / error_M
        return standardised

    theirs = [least_squares(off, one, bounds=within, loss="huber", f_scale=HUBER).cost for one in begin_R_P[::9]]
    assert loss_R.min() == pytest.approx(min(theirs), rel=1e-3)


def test_one_wild_point_moves_a_fit_little() -> None:
    x = places()
    plain = [Point(str(n), at, (float(y),) * 3, 10**6) for n, (at, y) in enumerate(zip(x, law(x), strict=True))]
    noisy = simulated(0, x, law(x))
    wild = [*noisy[:7], Point("wild", noisy[7].x, tuple(min(4 * y, 1.0) for y in noisy[7].y_S), 200), *noisy[8:]]
    assert np.exp(fit(plain, BOTH, "saturating").theta_P) == pytest.approx(TRUE, rel=0.02)
    places_ = [one for n, one in enumerate(x) if n != 7]
    off = fit(wild, BOTH, "saturating").logs(fit(wild, BOTH, "saturating").theta_P[None], places_) - np.log(
        law(places_)
    )
    assert np.sqrt((off**2).mean()) < 0.12


def test_seeds_are_as_far_apart_everywhere_as_they_are_on_average() -> None:
    x = places()[:2]
    points = [Point("a", x[0], (0.2, 0.4)), Point("b", x[1], (0.3, 0.3))]
    assert errors_of(points) == pytest.approx([np.sqrt(0.02 / 0.09 / 2 / 2)] * 2)
    shares = [Point("a", x[0], (0.5, 0.5), 100), Point("b", x[1], (0.2,), 100)]
    assert errors_of(shares) == pytest.approx([np.sqrt(0.01 / 2), np.sqrt((1 - shares[1].y) / shares[1].y / 100)])
    assert shares[1].y == pytest.approx(20.5 / 101)
    assert 0 < Point("none failed", x[0], (0.0, 0.0), 100).y < 0.003


def coverage(seeds: range, true: Floats) -> Floats:
    """How often each parameter lies in its interval."""
    x = places()
    y_M = law(x, true)
    inside = []
    for seed in seeds:
        found = fit(simulated(seed, x, y_M), BOTH, "saturating").parameters
        inside.append([(one.low or 0) <= value <= (one.high or np.inf) for one, value in zip(found, true, strict=True)])
    share_P: Floats = np.mean(inside, axis=0)
    return share_P


def test_a_known_law_lies_in_its_intervals() -> None:
    assert (coverage(range(12), TRUE) >= 9 / 12).all()


@pytest.mark.slow
def test_a_known_law_lies_in_its_intervals_in_nine_of_ten_of_200_sweeps() -> None:
    assert (coverage(range(200), TRUE) >= 0.9).all()


@pytest.mark.slow
def test_one_with_a_low_floor_does_in_nine_of_ten_of_60() -> None:
    assert (coverage(range(60), np.array([0.02, 0.1, 0.5, 0.15, 0.8])) >= 0.9).all()


HIGH = np.array([0.25, 0.15, 0.6, 0.1, 0.6])
"""A law most of whose y cannot be reduced, which no power law has."""


def test_a_wrong_law_is_told_by_its_error_on_the_largest_size() -> None:
    x = places(np.geomspace(2e5, 2e7, 6))
    found = [scaling(simulated(seed, x, law(x, HIGH), tasks=2000, apart=0.03)) for seed in range(3)]
    told = [{one.law: one for one in one.heldout} for one in found]
    assert all(one["saturating"].error < one["power"].error < one["constant"].error for one in told)
    assert all(one["power"].wrong and one["constant"].wrong for one in told)
    assert not any(one["saturating"].wrong for one in told)


@pytest.mark.slow
def test_a_wrong_law_is_told_at_the_size_of_real_sweeps() -> None:
    x = places()
    found = [scaling(simulated(seed, x, law(x, HIGH))) for seed in range(40)]
    told = [{one.law: one for one in one.heldout} for one in found]
    assert np.mean([one["saturating"].error < one["power"].error for one in told]) >= 0.9
    assert np.mean([one["saturating"].wrong for one in told]) <= 0.1
    assert np.mean([one["power"].wrong for one in told]) >= 0.8
    assert all(one["constant"].wrong for one in told)


def test_a_law_that_does_not_hold_is_said_to_be_wrong() -> None:
    x = places()
    y_M = law(x)
    worse = [
        2.0 * y if at["parameters"] > 1e7 else y for at, y in zip(x, y_M.tolist(), strict=True)
    ]  # the largest unlearns
    found = scaling(simulated(0, x, np.array(worse)))
    assert found.heldout[0].wrong
    assert any("fitted without the largest size, misses it by a factor of" in note for note in found.notes)


def test_what_is_not_determined_is_no_number() -> None:
    x = places()
    found = scaling(simulated(1, x, law(x)))
    rows = {name: (value, interval) for name, value, interval in next(tables(found))[1]}
    assert rows["E"][0] == "not determined"
    assert rows["E"][1].endswith("not told from 0")
    assert rows["a_N"][0] != "not determined"
    flat = scaling(simulated(1, x, np.full(len(x), 0.4)))
    assert {shown(one)[0] for one in flat.fitted.parameters if one.name.startswith(("a", "b"))} == {"not determined"}


def test_terms_whose_variable_does_not_vary_are_left_out() -> None:
    x = places(SIZES[:1])
    found = scaling(simulated(0, x, law(x), seeds=8))
    assert found.fitted.variables == ("episodes",)
    assert formula(found.fitted) == "y = E + B (D/1.7e+03)^-b_D"
    assert found.notes[0] == "all runs have 200,000 parameters: the term in N is left out, and is part of E"
    assert "a factor of 1.00 between points, less than 2: the term in T is left out" in found.notes[1]
    assert (
        "no error on points that are left out: without the largest number of episodes" in found.notes[2]
        or found.held_by
    )
    assert any("8 seeds" not in line for line in sentences(found, "error", None))


def test_teacher_tokens_are_a_variable_where_they_vary_by_themselves() -> None:
    x = [{**one, "teacher_tokens": one["episodes"] * each} for one in places() for each in (10.0, 40.0, 160.0)]
    points = simulated(0, x, law(x))
    assert variables_of(points)[0] == (*BOTH, "teacher_tokens")
    assert levels([1.0, 1.01, 2.0, 2.05]) == 2
    y_M = law(x) + 0.1 * np.array([one["teacher_tokens"] / 6e4 for one in x]) ** -0.4
    found = fit(simulated(0, x, y_M, tasks=20_000, apart=0.01), variables_of(points)[0], "saturating")
    last = {one.name: one for one in found.parameters}["c_T"]
    assert (last.low or 0) <= 0.4 <= (last.high or np.inf)
    assert last.determined


def test_too_few_points_are_refused() -> None:
    x = places(SIZES[:2])
    with pytest.raises(
        ConfigError,
        match="needs 3 different sizes, 3 different numbers of episodes and 6 points; there are 2 different sizes, 4 ",
    ):
        scaling(simulated(0, x, law(x)))
    assert scaling(simulated(0, x, law(x)), "power").fitted.law == "power"
    x = places(SIZES[:1], BUDGETS[:1])
    with pytest.raises(ConfigError, match="the 1 points are of one size and one budget of episodes"):
        scaling(simulated(0, x, law(x)))
    x = places(SIZES[:3], BUDGETS[:3])
    assert scaling(simulated(0, x, law(x))).held_by is None
    nothing = [Point("nothing", one.x, (0.0, 0.0)) for one in simulated(0, x, law(x))]
    with pytest.raises(ConfigError, match="nothing: y is 0, and a law in logarithms needs it above 0"):
        scaling(nothing)
    with pytest.raises(ConfigError, match="every point has one seed, so that nothing says how far seeds lie apart"):
        scaling([Point("one", one.x, one.y_S[:1]) for one in simulated(0, x, law(x))])
    alone = scaling(simulated(0, x, law(x), seeds=1))
    assert any("intervals hold the chance of the panel alone" in note for note in alone.notes)
