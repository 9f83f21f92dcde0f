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


@pytest.mark.parametrize(
    ("kind", "name"), [("jsd", "beta"), ("skew_forward_kl", "alpha"), ("skew_reverse_kl", "alpha")]
)
def test_parameters_may_be_one_a_row(kind: str, name: str) -> None:
    settings = {name: torch.linspace(0.05, 0.95, ROWS, dtype=torch.float64)}
    for found, expected in zip(*both(kind, random(0), random(1), **settings), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


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
