"""Golden identities of the divergences, in float64: their formulas by numpy, their limits, and the rewards that they stand for."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentopd.objective import divergence
from agentopd.objective.estimators import policy_gradient

V = 7
Reals: TypeAlias = NDArray[np.float64]
RNG = np.random.default_rng(0)
Z, T = RNG.normal(size=V), 1.5 * RNG.normal(size=V)


def softmax(z: Reals) -> Reals:
    e = np.exp(z - z.max())
    return np.asarray(e / e.sum())


P, Q = softmax(Z), softmax(T)


def kl(a: Reals, b: Reals) -> float:
    return float((a * np.log(a / b)).sum())


def jsd(p: Reals, q: Reals, beta: float) -> float:
    m = beta * q + (1 - beta) * p
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def ab(p: Reals, q: Reals, a: float, b: float) -> float:
    return float(-(q**a * p**b - a / (a + b) * q ** (a + b) - b / (a + b) * p ** (a + b)).sum() / (a * b))


def adaptive(p: Reals, q: Reals, mass: float) -> float:
    """The weights are those at P, as they are detached."""
    ascending = np.argsort(Q)
    tail = ascending[np.cumsum(Q[ascending]) <= 1 - mass]
    gap = np.abs(Q - P)
    rest = gap[tail].sum() / gap.sum()
    return float((1 - rest) * kl(q, p) + rest * kl(p, q))


def todi(p: Reals, q: Reals) -> float:
    w = Q / (P + Q)
    return float((w * q * np.log(q / p) + (1 - w) * p * np.log(p / q)).sum())


FORMULAS: Mapping[tuple[str, tuple[tuple[str, Any], ...]], Callable[[Reals, Reals], float]] = {
    ("forward_kl", ()): lambda p, q: kl(q, p),
    ("reverse_kl", ()): kl,
    ("jsd", (("beta", 0.3),)): lambda p, q: jsd(p, q, 0.3),
    ("skew_forward_kl", (("alpha", 0.2),)): lambda p, q: kl(q, 0.2 * q + 0.8 * p),
    ("skew_reverse_kl", (("alpha", 0.2),)): lambda p, q: kl(p, 0.2 * p + 0.8 * q),
    ("adaptive_kl", ()): lambda p, q: adaptive(p, q, 0.5),
    ("adaptive_kl", (("mass", 0.9),)): lambda p, q: adaptive(p, q, 0.9),
    ("todi", ()): todi,
    ("jeffreys", ()): lambda p, q: kl(p, q) + kl(q, p),
    ("total_variation", ()): lambda p, q: float(np.abs(p - q).sum() / 2),
    ("chi_square", ()): lambda p, q: float(((q - p) ** 2 / p).sum()),
    ("alpha", (("alpha", -1.0),)): lambda p, q: float(((p**2 / q).sum() - 1) / 2),
    ("alpha", (("alpha", 0.3),)): lambda p, q: float(((q**0.3 * p**0.7).sum() - 1) / (0.3 * (0.3 - 1))),
    ("alpha_beta", (("alpha", 0.2), ("beta", 0.7))): lambda p, q: ab(p, q, 0.2, 0.7),
    ("alpha_beta", (("alpha", 1.3), ("beta", -0.4))): lambda p, q: ab(p, q, 1.3, -0.4),
    ("alpha_beta", (("alpha", -0.5), ("beta", 2.0))): lambda p, q: ab(p, q, -0.5, 2.0),
    ("power", (("alpha", 2.0),)): lambda p, q: float((p**3 / 6 - p * q**2 / 2 + q**3 / 3).sum()),
    ("f", ()): lambda p, q: float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2),
    ("f", (("generator", "le_cam"),)): lambda p, q: float(((p - q) ** 2 / (p + q)).sum() / 2),
    ("f", (("generator", "neyman"),)): lambda p, q: float(((p - q) ** 2 / q).sum()),
    ("forward_kl", (("clip", 0.05),)): lambda p, q: float(np.minimum(q * np.log(q / p), 0.05).sum()),
    ("reverse_kl", (("clip", 0.05),)): lambda p, q: float(np.minimum(p * np.log(p / q), 0.05).sum()),
    ("jsd", (("beta", 0.5), ("clip", 0.01))): lambda p, q: float(
        np.minimum((q * np.log(2 * q / (p + q)) + p * np.log(2 * p / (p + q))) / 2, 0.01).sum()
    ),
}  # fmt: skip


def value_and_gradient(kind: str, z: Reals = Z, t: Reals = T, **settings: Any) -> tuple[float, Reals]:
    leaf = torch.tensor(z).requires_grad_()
    value = divergence(kind, leaf, torch.tensor(t), **settings)
    return float(value.detach()), torch.autograd.grad(value, leaf)[0].numpy()


def value(kind: str, **settings: Any) -> float:
    return value_and_gradient(kind, **settings)[0]


@pytest.mark.parametrize("case", sorted(FORMULAS), ids=str)
def test_value_and_gradient_are_those_of_the_formula(case: Any) -> None:
    (kind, settings), formula, step = case, FORMULAS[case], 1e-6
    found, gradient = value_and_gradient(kind, **dict(settings))
    assert found == pytest.approx(formula(P, Q), abs=1e-14, rel=1e-12)
    unit = step * np.eye(V)
    slope = [(formula(softmax(Z + e), Q) - formula(softmax(Z - e), Q)) / (2 * step) for e in unit]
    np.testing.assert_allclose(gradient, slope, atol=1e-8)


def test_the_cases_above_clip_something_and_keep_something() -> None:
    assert 0 < (np.log(Q / P) * Q > 0.05).sum() < V
    assert 0 < (np.log(P / Q) * P > 0.05).sum() < V


def expected(reward: Reals) -> Reals:
    """The expected gradient, over the student's own tokens, of the loss of a score function with a detached reward."""
    leaf = torch.tensor(Z).requires_grad_()
    logp = leaf.log_softmax(-1)
    phi = policy_gradient(logp, torch.tensor(reward), logp.detach())
    return torch.autograd.grad((logp.exp().detach() * phi).sum(), leaf)[0].numpy()


def test_log_q_less_log_p_as_a_reward_gives_the_gradient_of_the_reverse_kl() -> None:
    np.testing.assert_allclose(expected(np.log(Q / P)), value_and_gradient("reverse_kl")[1], atol=1e-15)


def test_the_closed_form_baseline_changes_no_expected_gradient() -> None:
    """vOPD (arXiv 2605.07865): the value of a state is -KL(p || q)."""
    reward = np.log(Q / P) + value("reverse_kl")
    np.testing.assert_allclose(expected(reward), value_and_gradient("reverse_kl")[1], atol=1e-15)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_a_divergence_of_the_whole_vocabulary_as_a_reward_has_no_gradient(kind: str) -> None:
    assert np.abs(expected(np.full(V, -value(kind)))).max() < 1e-15


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_the_power_divergence_has_the_gradient_of_powers_as_rewards(alpha: float) -> None:
    """PowerOPD (arXiv 2606.17199), over alpha."""
    gradient = value_and_gradient("power", alpha=alpha)[1]
    np.testing.assert_allclose(expected((Q**alpha - P**alpha) / alpha), gradient, atol=1e-15)


def test_powers_tend_to_the_log_ratio() -> None:
    for small in (1e-6, 0.0):
        gradient = value_and_gradient("power", alpha=small)[1]
        np.testing.assert_allclose(gradient, expected(np.log(Q / P)), atol=1e-5 if small else 1e-15)


Pair: TypeAlias = tuple[float, float]
LIMITS: Mapping[Pair, Callable[[Reals, Reals], float]] = {
    (1.0, 0.0): lambda p, q: kl(q, p),
    (0.0, 1.0): kl,
    (1.0, -1.0): lambda p, q: float((q / p - 1 - np.log(q / p)).sum()),
    (-1.0, 1.0): lambda p, q: float((p / q - 1 - np.log(p / q)).sum()),
    (0.0, 0.0): lambda p, q: float((np.log(p / q) ** 2).sum() / 2),
    (2.0, 0.0): lambda p, q: float((q**2 * np.log(q / p) / 2 - (q**2 - p**2) / 4).sum()),
}


@pytest.mark.parametrize("pair", sorted(LIMITS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_alpha_beta_divergence_is_continuous_at_its_limits(pair: Pair, dtype: torch.dtype) -> None:
    limit, rounding = LIMITS[pair](P, Q), 10 * float(torch.finfo(dtype).eps)
    student, teacher = torch.tensor(Z, dtype=dtype), torch.tensor(T, dtype=dtype)
    for size in (0.0, 1e-25, 1e-19, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.1):
        for a, b in ((pair[0] + size, pair[1]), (pair[0], pair[1] + size), (pair[0] + size, pair[1] + size)):
            found = float(divergence("alpha_beta", student, teacher, alpha=a, beta=b))
            assert found == pytest.approx(limit, rel=30 * size + 10 * rounding)
            if a * b * (a + b) and min(abs(a), abs(b), a + b) > 1e-3:
                assert found == pytest.approx(ab(P, Q, a, b), rel=1e3 * rounding)


def test_exchanging_both_exchanges_student_and_teacher() -> None:
    forth = value("alpha_beta", alpha=0.7, beta=-0.2)
    assert forth == pytest.approx(value("alpha_beta", z=T, t=Z, alpha=-0.2, beta=0.7), rel=1e-13)


def test_one_divergence_is_another() -> None:
    assert value("todi") == pytest.approx(value("jeffreys"), rel=1e-13)
    assert value("alpha", alpha=1.0) == pytest.approx(value("forward_kl"), rel=1e-13)
    assert value("alpha", alpha=0.0) == pytest.approx(value("reverse_kl"), rel=1e-13)
    assert value("alpha", alpha=2.0) == pytest.approx(value("chi_square") / 2, rel=1e-13)
    assert value("alpha", alpha=0.5) == pytest.approx(4 * value("f"), rel=1e-13)
    assert value("alpha", alpha=-1.0) == pytest.approx(value("f", generator="neyman") / 2, rel=1e-13)
    assert value("power", alpha=1.0) == pytest.approx(((P - Q) ** 2).sum() / 2, rel=1e-13)


def test_a_clip_above_every_entry_changes_nothing() -> None:
    for kind in ("forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"):
        bare, clipped = value_and_gradient(kind), value_and_gradient(kind, clip=100.0)
        assert bare[0] == clipped[0]
        np.testing.assert_allclose(bare[1], clipped[1], atol=1e-16)


def rows(*shares: list[float]) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64).log()


def test_adaptive_kl_by_hand() -> None:
    """The head of (0.5, 0.3, 0.2) is its first token up to a mass of 0.5, its first two up to 0.8; ties share a side."""
    z, t = rows([0.3, 0.3, 0.4]), rows([0.5, 0.3, 0.2])
    forward, reverse = divergence("forward_kl", z, t), divergence("reverse_kl", z, t)
    for mass, head in ((0.5, 0.5), (0.51, 0.5), (0.81, 1.0)):  # gaps 0.2, 0, 0.2
        expected = head * forward + (1 - head) * reverse
        torch.testing.assert_close(divergence("adaptive_kl", z, t, mass=mass), expected, rtol=1e-13, atol=0)
    tied = rows([0.4, 0.4, 0.2])
    torch.testing.assert_close(
        divergence("adaptive_kl", rows([0.2, 0.4, 0.4]), tied, mass=0.3),
        0.5 * (divergence("jeffreys", rows([0.2, 0.4, 0.4]), tied)),
    )


def test_adaptive_kl_is_zero_without_a_gradient_where_its_weights_are_none() -> None:
    found, gradient = value_and_gradient("adaptive_kl", z=Z, t=Z)
    assert found == 0.0
    assert np.abs(gradient).max() < 1e-16
    one_hot = torch.tensor([[0.0, -torch.inf, -torch.inf]]).requires_grad_()
    same = divergence("adaptive_kl", one_hot, one_hot.detach())
    assert same.item() == 0.0
    assert not torch.autograd.grad(same.sum(), one_hot)[0].any()
