"""What holds of every weight on any rows, and each of the papers' formulas evaluated again, in plain loops."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from objective_cases import START, method
from weight_cases import Played, table, weigh

from agentopd.objective import prepare
from agentopd.objective.weights import WEIGHTS

LOGPROB = st.one_of(st.floats(-8.0, 0.0), st.sampled_from([-1.0, -30.0, 0.0]))
TOKEN = st.tuples(LOGPROB, LOGPROB, LOGPROB)
SOME: dict[str, dict[str, Any]] = {
    "decay": {"statistic": "teacher_entropy"},
    "gate": {"statistic": "student_entropy", "threshold": 0.3},
    "top_share": {"statistic": "disagreement", "share": 0.3},
    "without_tokens": {"ids": [2]},
    "importance": {"rule": "masked", "level": "geometric"},
}
"""Settings of the kinds that need some, or are more of a trial with some."""


@st.composite
def episodes(draw: st.DrawFn) -> list[Played]:
    made = []
    for _ in range(draw(st.integers(1, 5))):
        turns = draw(st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=3))
        corrected = draw(st.lists(TOKEN, max_size=1))
        size = sum(map(len, turns)) + len(corrected)
        numbers = st.lists(st.floats(0.0, 3.0), min_size=size, max_size=size)
        one = Played(
            turns,
            draw(st.sampled_from("ab")),
            draw(st.floats(-50, 50)),
            draw(st.booleans()),
            corrected=corrected,
            entropies=list(zip(draw(numbers), draw(numbers), strict=True)),
            statistics={name: draw(numbers) for name in ("epistemic", "aleatoric", "coverage", "best_surprisal")},
        )
        made.append(
            replace(one, statistics={**one.statistics, "coverage": [x / 3 for x in one.statistics["coverage"]]})
        )
    return made


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
@settings(max_examples=12, deadline=None)
@given(played=episodes(), random=st.randoms(use_true_random=False))
def test_weights_are_finite_and_not_negative_whatever_the_order_of_episodes(
    kind: str, played: list[Played], random: Any
) -> None:
    rows = table(played)
    weight = weigh(kind, rows, **SOME.get(kind, {}))
    assert weight.shape == (len(rows),)
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()
    order = random.sample(range(len(played)), len(played))
    moved = np.concatenate([np.flatnonzero(rows.trajectory_A == b) for b in order])
    mixed = replace(table([played[b] for b in order]), token_A=rows.token_A[moved])
    again = np.empty_like(weight)
    again[moved] = weigh(kind, mixed, **SOME.get(kind, {}))
    np.testing.assert_allclose(again, weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
def test_no_rows_have_no_weights(kind: str) -> None:
    one = Played([[(-1.0, -1.0, -1.0)]], statistics={"epistemic": [0], "aleatoric": [0], "coverage": [1], "best_surprisal": [0]})  # fmt: skip
    rows = table([one])
    assert weigh(kind, rows.select(np.zeros(1, np.bool_)), **SOME.get(kind, {})).shape == (0,)


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
@settings(max_examples=5, deadline=None)
@given(played=episodes(), aggregate=st.sampled_from(["token", "turn", "sequence"]))
def test_rescaling_keeps_the_sum_of_the_coefficients(kind: str, played: list[Played], aggregate: str) -> None:
    weight = {"kind": kind, **SOME.get(kind, {})}
    objective = method(weight=weight, rescale=True, coefficient=3.0, aggregate=aggregate, sampler={"per_task": 2})
    coef_A = prepare(objective, table(played), START).terms[0].coef_A
    assert not coef_A.any() or coef_A.sum() == pytest.approx(3.0)


Turns = Sequence[Sequence[tuple[float, float, float]]]


def d_of(turn: Sequence[tuple[float, float, float]]) -> float:
    return fmean(abs(mu - logq) for mu, _, logq in turn)


def scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [0.5 if high - low < 1e-8 else (x - low) / (high - low) for x in values]


def sod(turns: Turns) -> list[float]:
    d = [d_of(turn) for turn in turns]
    product, weights = 1.0, [1.0]
    for before, after in pairwise(d):
        product *= (before + 1e-6) / (after + 1e-6)
        weights.append(min(product, 1.2))
    return weights


def t_dur(turns: Turns) -> list[float]:
    d = scaled([d_of(turn) for turn in turns])
    h = scaled([fmean(-mu for mu, _, _ in turn) for turn in turns])
    return [1 - (1 - x) * (1 - y) for x, y in zip(d, h, strict=True)]


def reliability(turns: Turns) -> list[float]:
    history: list[float] = []
    weights = []
    for turn in turns:
        weights.append(float(math.exp(fmean(history)) >= 0.5) if history else 1.0)
        history += [logq for _, _, logq in turn]
    return weights


@pytest.mark.parametrize("formula", [sod, t_dur, reliability])
@settings(max_examples=25, deadline=None)
@given(
    all_turns=st.lists(
        st.lists(st.lists(TOKEN, min_size=1, max_size=3), min_size=1, max_size=4), min_size=1, max_size=3
    )
)
def test_weights_of_turns_against_their_formulas(
    formula: Callable[[Turns], list[float]], all_turns: list[Turns]
) -> None:
    expected = [
        w
        for turns in all_turns
        for turn, weight in zip(turns, formula(turns), strict=True)
        for w in [weight] * len(turn)
    ]
    found = weigh(formula.__name__, table([Played(turns) for turns in all_turns]))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def importance(played: Sequence[Played], level: str, rule: str) -> list[float]:
    weights: list[float] = []
    for one in played:
        logs = [now - then for turn in one.turns for then, now, _ in turn]
        whole = {"token": logs, "sequence": [math.fsum(logs)] * len(logs), "geometric": [fmean(logs)] * len(logs)}
        for log in whole[level]:
            r = math.exp(log)
            weights.append(min(r, 2.0) if rule == "truncated" else r * (0.5 <= r <= 5.0))
    return weights


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("rule", ["truncated", "masked"])
@settings(max_examples=10, deadline=None)
@given(played=episodes())
def test_importance_against_its_formula(level: str, rule: str, played: list[Played]) -> None:
    played = [replace(one, corrected=(), entropies=(), statistics={}) for one in played]
    found = weigh("importance", table(played), level=level, rule=rule)
    np.testing.assert_allclose(found, importance(played, level, rule), rtol=1e-9, atol=1e-12)


def tip(rows: Any, share: float) -> NDArray[np.bool_]:
    h, d = (
        scaled(column.tolist())
        for column in (rows.live.entropy_A, abs(rows.live.logprob_A - rows.teachers["teacher"].taken_logprob_A))
    )
    u = [x + y - x * y for x, y in zip(h, d, strict=True)]
    kept = max(math.floor(share * len(u) + 1e-9), 1)
    return np.array([x >= sorted(u)[-kept] - 1e-12 for x in u])


@settings(max_examples=25, deadline=None)
@given(played=episodes(), share=st.floats(0.05, 1.0))
def test_tip_against_its_formula(played: list[Played], share: float) -> None:
    rows = table(played)
    kept = weigh("tip", rows, share=share) == 1
    expected = tip(rows, share)
    assert kept.sum() >= max(math.floor(share * len(rows)), 1)
    assert not (kept & ~expected).any()  # but for rounding they are the same


def group_softmax(played: Sequence[Played], score: Callable[[Played], float]) -> list[float]:
    weights = []
    for one in played:
        siblings = [score(other) for other in played if other.task == one.task]
        highest = max(siblings)
        total = math.fsum(math.exp(s - highest) for s in siblings)
        weights += [len(siblings) * math.exp(score(one) - highest) / total] * len(one.places)
    return weights


def mean_logprob(one: Played, column: int) -> float:
    return fmean(token[column] for *_, token in one.places)


def rate(played: Sequence[Played]) -> list[float]:
    weights = []
    for one in played:
        p = fmean(other.success for other in played if other.task == one.task)
        weights += [p**0.5 * (1 - p) ** 2] * len(one.places)
    return weights


@settings(max_examples=25, deadline=None)
@given(played=episodes())
def test_weights_of_trajectories_against_their_formulas(played: list[Played]) -> None:
    played = [replace(one, corrected=(), entropies=(), statistics={}) for one in played]
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    rows = table(played)
    close(weigh("pass_rate", rows, a=0.5, b=2.0), rate(played))
    close(weigh("reward_softmax", rows, beta=3.0), group_softmax(played, lambda one: one.reward / 3.0))
    close(weigh("scope", rows), group_softmax(played, lambda one: mean_logprob(one, 2)))
    student = group_softmax(played, lambda one: -mean_logprob(one, 0) / 2.0)
    close(weigh("scope", rows, by="student", tau=2.0), student)
    for weight in (weigh("reward_softmax", rows), weigh("scope", rows)):  # mean 1 over the episodes of a task
        first = np.unique(rows.trajectory_A, return_index=True)[1]
        for task in set(rows.episodes.task_B):
            assert weight[first][rows.episodes.task_B == task].mean() == pytest.approx(1.0)
