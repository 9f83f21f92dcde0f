"""Divergences: golden identities, limits, and properties for all distributions."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentopd.objective import divergence
from agentopd.objective.divergences import DIVERGENCES

KINDS = sorted(DIVERGENCES)
SEVEN = st.lists(st.floats(-8, 8), min_size=7, max_size=7)


def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    return torch.autograd.grad(function(z).sum(), z)[0]


def test_forward_kl_gradient_is_p_minus_q() -> None:
    z, t = logits(0, 5, 7), logits(1, 5, 7) * 1.5
    found = gradient(lambda z: divergence("forward_kl", z, t), z)
    torch.testing.assert_close(found, z.softmax(-1) - t.softmax(-1), atol=1e-14, rtol=0)


def test_reverse_kl_gradient_is_p_times_centred_log_ratio() -> None:
    z, t = logits(0, 5, 7), logits(1, 5, 7) * 1.5
    p, ratio = z.softmax(-1), z.log_softmax(-1) - t.log_softmax(-1)
    kl = divergence("reverse_kl", z, t)
    torch.testing.assert_close(kl, (p * ratio).sum(-1))
    found = gradient(lambda z: divergence("reverse_kl", z, t), z)
    torch.testing.assert_close(found, p * (ratio - kl.unsqueeze(-1)), atol=1e-14, rtol=0)


def test_hand_computed_values() -> None:
    p, q = torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.8, 0.2]).double().log()
    assert float(divergence("forward_kl", p, q)) == pytest.approx(0.19274475702175753)
    assert float(divergence("reverse_kl", p, q)) == pytest.approx(0.22314355131420976)
    # m = 0.25 q + 0.75 p = (0.575, 0.425)
    assert float(divergence("jsd", p, q, beta=0.25)) == pytest.approx(0.036893617426)
    # 0.1 q + 0.9 p = (0.53, 0.47), and 0.1 p + 0.9 q = (0.77, 0.23)
    assert float(divergence("skew_forward_kl", p, q, alpha=0.1)) == pytest.approx(0.158504711266)
    assert float(divergence("skew_reverse_kl", p, q, alpha=0.1)) == pytest.approx(0.172373186537)


def test_jsd_tends_to_the_two_kls() -> None:
    z, t = logits(0, 4, 7), logits(1, 4, 7)
    low, high = divergence("jsd", z, t, beta=1e-7) / 1e-7, divergence("jsd", z, t, beta=1 - 1e-7) / 1e-7
    torch.testing.assert_close(low, divergence("forward_kl", z, t), atol=1e-5, rtol=0)
    torch.testing.assert_close(high, divergence("reverse_kl", z, t), atol=1e-5, rtol=0)


def test_skews_tend_to_the_kls() -> None:
    z, t = logits(0, 4, 7), logits(1, 4, 7)
    for kind in ("forward_kl", "reverse_kl"):
        skewed = divergence(f"skew_{kind}", z, t, alpha=1e-9)
        torch.testing.assert_close(skewed, divergence(kind, z, t), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["jsd", "skew_forward_kl", "skew_reverse_kl"])
def test_one_parameter_a_row_equals_a_number(kind: str) -> None:
    name = "beta" if kind == "jsd" else "alpha"
    logp, logq = logits(0, 3, 7).log_softmax(-1), logits(1, 3, 7).log_softmax(-1)
    shares = torch.tensor([0.1, 0.5, 0.9]).double()
    found = DIVERGENCES[kind](logp, logq, **{name: shares})
    expected = [DIVERGENCES[kind](logp[i], logq[i], **{name: float(shares[i])}) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("kind", KINDS)
@given(SEVEN, SEVEN, st.permutations(range(7)), st.floats(-50, 50))
@settings(max_examples=40)
def test_non_negative_and_invariant(kind: str, z: list[float], t: list[float], order: list[int], shift: float) -> None:
    student, teacher = torch.tensor(z).double(), torch.tensor(t).double()
    value = divergence(kind, student, teacher)
    assert value >= -1e-12
    torch.testing.assert_close(divergence(kind, student + shift, teacher - shift), value, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(divergence(kind, student[order], teacher[order]), value, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(SEVEN, st.integers(0, 6), st.floats(0.3, 4))
@settings(max_examples=40)
def test_zero_only_where_equal(kind: str, z: list[float], token: int, push: float) -> None:
    student = torch.tensor(z).double()
    assert abs(divergence(kind, student, student)) < 1e-13
    apart = student.clone()
    apart[token] += push
    distance = (student.softmax(-1) - apart.softmax(-1)).abs().sum()
    assert divergence(kind, student, apart) > 1e-4 * distance**2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    st.lists(st.sampled_from([-1e4, -3.0, 0.0, 2.0, 1e4, -torch.inf]), min_size=5, max_size=5),
    st.permutations(range(5)),
)
@settings(max_examples=40)
def test_finite_for_extreme_and_masked_logits(kind: str, dtype: torch.dtype, z: list[float], order: list[int]) -> None:
    student = torch.tensor([*z, 1.0], dtype=dtype)
    teacher = torch.tensor([*(z[i] for i in order), -1.0], dtype=dtype)
    leaf = student.clone().requires_grad_()
    value = divergence(kind, leaf, teacher)
    (found,) = torch.autograd.grad(value, leaf)
    assert torch.isfinite(value)
    assert torch.isfinite(found).all()


@given(
    st.sampled_from(
        [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (2.0, -1.0), (3.0, 2.0), (-1.0, 4.0)]
    ),
    st.lists(st.sampled_from([-1e4, -3.0, 0.0, 2.0, 1e4, -torch.inf]), min_size=5, max_size=5),
    st.permutations(range(5)),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=150)
def test_all_powers_are_finite_and_not_negative(
    powers: tuple[float, float], z: list[float], order: list[int], dtype: torch.dtype
) -> None:
    leaf = torch.tensor([*z, 1.0], dtype=dtype).requires_grad_()
    teacher = torch.tensor([*(z[i] for i in order), -1.0], dtype=dtype)
    value = divergence("alpha_beta", leaf, teacher, alpha=powers[0], beta=powers[1])
    assert value.isfinite()
    assert value >= -1e-6
    assert torch.autograd.grad(value, leaf)[0].isfinite().all()
    torch.testing.assert_close(divergence("alpha_beta", leaf, leaf.detach()), torch.zeros((), dtype=dtype))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"])
@given(SEVEN, SEVEN, st.floats(1e-4, 3.0))
@settings(max_examples=40)
def test_a_clip_bounds_every_entry_and_stops_its_gradient(
    kind: str, z: list[float], t: list[float], clip: float
) -> None:
    logp = torch.tensor(z).double().log_softmax(-1).requires_grad_()
    logq = torch.tensor(t).double().log_softmax(-1)
    value = DIVERGENCES[kind](logp, logq, clip=clip)
    entries = torch.stack([DIVERGENCES[kind](logp[i : i + 1], logq[i : i + 1]) for i in range(7)]).detach()
    torch.testing.assert_close(value.detach(), entries.clamp_max(clip).sum(), rtol=1e-12, atol=1e-13)
    assert value <= min(float(DIVERGENCES[kind](logp.detach(), logq)), 7 * clip) * (1 + 1e-12) + 1e-12
    (found,) = torch.autograd.grad(value, logp)
    assert not found[entries > clip * (1 + 1e-12)].any()


@pytest.mark.parametrize("kind", sorted({*KINDS} - {"adaptive_kl"}))
@given(SEVEN, SEVEN)
@settings(max_examples=20)
def test_bfloat16_logits_are_as_good_as_their_rounding(kind: str, z: list[float], t: list[float]) -> None:
    """Rounding moves a logit of at most 8 by at most 1/64: a ratio by 1/16, and a divergence by about as much in all.

    The head and the tail of ``adaptive_kl`` change at once where two probabilities pass each other, so it is left out.
    """
    student, teacher = torch.tensor(z).double(), torch.tensor(t).double()
    found = divergence(kind, student.bfloat16(), teacher.bfloat16())
    rounded = divergence(kind, student.bfloat16().double(), teacher.bfloat16().double())
    torch.testing.assert_close(found.double(), rounded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.double(), divergence(kind, student, teacher), atol=0.1, rtol=0.15)


def test_half_precision_is_computed_in_float32() -> None:
    z, t = logits(0, 4, 7).bfloat16(), logits(1, 4, 7).bfloat16()
    found = divergence("forward_kl", z, t)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), divergence("forward_kl", z.double(), t.double()), atol=1e-6, rtol=1e-5)


def test_temperature_divides_both() -> None:
    z, t = logits(0, 4, 7), logits(1, 4, 7)
    torch.testing.assert_close(divergence("jsd", z, t, temperature=2.0), divergence("jsd", z / 2, t / 2))


def test_the_teacher_gets_no_gradient() -> None:
    t = logits(1, 4, 7).requires_grad_()
    assert not divergence("reverse_kl", logits(0, 4, 7), t).requires_grad


def test_a_users_divergence_by_import_path() -> None:
    z, t = logits(0, 4, 7), logits(1, 4, 7)
    expected = (z.softmax(-1) - t.softmax(-1)).abs().pow(3).sum(-1)
    torch.testing.assert_close(divergence("objective_cases:squared_difference", z, t, power=3), expected)


def test_bad_input_is_named() -> None:
    z = logits(0, 4, 7)
    with pytest.raises(ValueError, match=r"no divergence is called 'foward_kl' \(did you mean 'forward_kl'"):
        divergence("foward_kl", z, z)
    with pytest.raises(ValueError, match="'jsd' has no setting 'alpha'"):
        divergence("jsd", z, z, alpha=0.1)
    with pytest.raises(ValueError, match="beta: Input should be less than 1"):
        divergence("jsd", z, z, beta=1.0)
    with pytest.raises(ValueError, match="differ in shape"):
        divergence("jsd", z, z[:, :5])
