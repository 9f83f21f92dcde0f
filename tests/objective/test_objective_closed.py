"""Closed forms of divergences: value and gradient as those of the definitions, wherever the definitions are finite."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agentopd.objective.closed import CLOSED, fused
from agentopd.objective.divergences import DIVERGENCES, choose
from agentopd.settings.choice import Choice

ROWS, SIZE = 6, 23


def choice_of(kind: str, **parameters: Any) -> Choice:
    return choose(kind, parameters)


def both(kind: str, logits: Tensor, teacher: Tensor, **settings: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    """Value and gradient in the student's logits, by closed form and by definition."""
    choice, found = choice_of(kind), []
    for function in (lambda p, q: fused("", choice, settings, p, q), lambda p, q: DIVERGENCES[kind](p, q, **settings)):
        leaf = logits.clone().requires_grad_()
        value = function(leaf.log_softmax(-1), teacher.log_softmax(-1))
        [gradient] = torch.autograd.grad((value * torch.linspace(-1, 2, len(logits), dtype=logits.dtype)).sum(), leaf)
        found.append((value.detach(), gradient))
    return tuple(found)


def random(seed: int, spread: float = 3.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(ROWS, SIZE, generator=generator, dtype=torch.float64)).to(dtype)


def test_every_divergence_but_that_of_a_generator_has_a_closed_form() -> None:
    assert CLOSED.keys() == DIVERGENCES.keys() - {"f"}


@pytest.mark.parametrize("kind", sorted(CLOSED))
@pytest.mark.parametrize("spread", [0.01, 3.0, 40.0, 1.0e4])
def test_it_equals_the_definition(kind: str, spread: float) -> None:
    for found, expected in zip(*both(kind, random(0, spread), random(1, spread)), strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("kind", sorted(CLOSED))
def test_a_teacher_that_is_the_student_gives_zero(kind: str) -> None:
    logits = random(0, dtype=torch.float32)
    value, gradient = both(kind, logits, logits)[0]
    assert float(value.abs().max()) < 1e-6
    assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize("kind", sorted(CLOSED))
@pytest.mark.parametrize("spread", [0.01, 3.0, 40.0, 1.0e4])
def test_in_single_precision_it_equals_the_definition_in_double(kind: str, spread: float) -> None:
    """Log-probabilities of 1e4 are rounded to 1e-3, hence ratios to as much, and signs of ratios below 1e-5 to 0."""
    seeds = (
        (4, 5) if kind == "uld" else (2, 3)
    )  # it has a ratio for each pair of places, some near 0 whatever the tokens
    logits, teacher = (random(seed, spread, torch.float32) for seed in seeds)
    found, exact = both(kind, logits, teacher)[0], both(kind, logits.double(), teacher.double())[1]
    for one, other in zip(found, exact, strict=True):
        scale = float(other.abs().max().clamp_min(1.0))
        torch.testing.assert_close(one.double(), other, rtol=2e-5 + 4e-7 * spread, atol=3e-6 * scale)


SETTINGS: dict[str, tuple[str, ...]] = {
    "forward_kl": ("clip",),
    "reverse_kl": ("clip",),
    "jsd": ("beta", "clip"),
    "skew_forward_kl": ("alpha", "clip"),
    "skew_reverse_kl": ("alpha", "clip"),
    "adaptive_kl": ("mass",),
    "alpha": ("alpha",),
    "alpha_beta": ("alpha", "beta"),
    "power": ("alpha",),
    "gold": ("by", "beta", "matched", "unmatched"),
}
NUMBERS = [(kind, name) for kind, names in SETTINGS.items() for name in names if name != "by"]


def test_those_are_all_settings() -> None:
    found = {kind: tuple(choice_of(kind).settings) for kind in CLOSED}
    assert {kind: names for kind, names in found.items() if names} == SETTINGS


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("spread", [3.0, 1.0e4])
def test_settings_may_be_one_a_row(kind: str, name: str, spread: float) -> None:
    settings = {name: torch.linspace(0.02, 0.95, ROWS, dtype=torch.float64)}
    by_row = both(kind, random(0, spread), random(1, spread), **settings)
    for found, expected in zip(*by_row, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * max(1.0, float(expected.abs().max())))
    for row in range(ROWS):
        number = {name: float(settings[name][row])}
        value = DIVERGENCES[kind](random(0, spread).log_softmax(-1), random(1, spread).log_softmax(-1), **number)
        torch.testing.assert_close(by_row[0][0][row], value[row], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind, names in SETTINGS.items() if "clip" in names])
@pytest.mark.parametrize("clip", [1e-4, 0.01, 0.3, 1e9])
@pytest.mark.parametrize("spread", [0.5, 3.0, 1.0e4])
def test_clipped_it_equals_the_definition(kind: str, clip: float, spread: float) -> None:
    for found, expected in zip(*both(kind, random(0, spread), random(1, spread), clip=clip), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


POWERS = [
    (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, -1.0), (-1.0, 1.0), (2.0, -1.0), (-1.0, 2.0), (0.3, 0.2),
    (1.0, 1.0), (2.0, 3.0), (1e-3, 1e-3), (1e-7, 1.0), (1.0, 1e-7), (0.2, -0.1), (0.09, 3.0), (3.0, 0.09), (0.3, -0.3),
]  # fmt: skip


@pytest.mark.parametrize(("alpha", "beta"), POWERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spread", [0.01, 3.0, 1.0e4])
def test_all_powers(alpha: float, beta: float, dtype: torch.dtype, spread: float) -> None:
    logits, teacher = random(0, spread, dtype), random(1, spread, dtype)
    closed, definition = both("alpha_beta", logits, teacher, alpha=alpha, beta=beta)
    exact = both("alpha_beta", logits.double(), teacher.double(), alpha=alpha, beta=beta)[1]
    rtol, atol = (1e-9, 1e-11) if dtype == torch.float64 else (2e-4 + 4e-7 * spread, 2e-5)
    for one, two, other in zip(closed, definition, exact, strict=True):
        scale = float(other.abs().max().clamp_min(1.0))
        torch.testing.assert_close(one.double(), other, rtol=rtol, atol=atol * scale)
        torch.testing.assert_close(two.double(), other, rtol=rtol, atol=atol * scale)


def test_powers_that_sum_to_less_than_0_are_refused() -> None:
    for settings in ({"alpha": -0.5, "beta": 0.3}, {"alpha": torch.full((ROWS,), -0.6).double()}):
        with pytest.raises(ValueError, match=r"alpha \+ beta is -0\.\d+; make it at least 0"):
            both("alpha_beta", random(0), random(1), **settings)


@pytest.mark.parametrize("kind", sorted(CLOSED))
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_a_probability_of_zero_is_left_to_the_definition(kind: str, who: str) -> None:
    logits, teacher = random(0), random(1)
    for one in {"student": [logits], "teacher": [teacher], "both": [logits, teacher]}[who]:
        one[2, 3:7] = -torch.inf
    for found, expected in zip(*both(kind, logits, teacher), strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_it_cannot_be_differentiated_twice() -> None:
    leaf = random(0).requires_grad_()
    value = fused("", choice_of("forward_kl"), {}, leaf.log_softmax(-1), random(1).log_softmax(-1))
    with pytest.raises(RuntimeError, match="keeps no graph of its gradient"):
        torch.autograd.grad(value.sum(), leaf, create_graph=True)
