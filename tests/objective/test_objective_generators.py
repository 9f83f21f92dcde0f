"""f-divergences by a generator of one's own: what it stands for, where it is continued, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agentopd.objective import divergence
from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.generators import GENERATORS

HERE = "test_objective_generators"


def forward(u: Tensor) -> Tensor:
    return u * u.log()


def reverse(u: Tensor) -> Tensor:
    return -u.log()


def jensen_shannon(u: Tensor) -> Tensor:
    return 0.5 * (u * u.log() - (1 + u) * (0.5 + 0.5 * u).log())


def variation(u: Tensor) -> Tensor:
    return 0.5 * (u - 1).abs()


def pearson(u: Tensor) -> Tensor:
    return (u - 1).square()


def cubic(u: Tensor) -> Tensor:
    return u**3 - 1


def entropy(u: Tensor) -> Tensor:
    return u.log()


def shifted(u: Tensor) -> Tensor:
    return u * u.log() + 1


def raising(u: Tensor) -> Tensor:
    raise KeyError("x")


def summed(u: Tensor) -> Tensor:
    return (u - 1).square().sum()


def number(u: Tensor) -> Any:
    return 0.0


def steep(u: Tensor) -> Tensor:
    return (u - 1).square().exp() - 1


def stepped(u: Tensor) -> Tensor:
    return (u > 1).double()


def logits(seed: int, spread: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return (spread * torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def both(kind: str, student: Tensor, teacher: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    leaf = student.clone().requires_grad_()
    value = divergence(kind, leaf, teacher, **settings)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize(
    ("name", "kind", "spread"),
    [
        ("forward", "forward_kl", 1e4),  # the two KLs are their own continuation
        ("reverse", "reverse_kl", 1e4),
        ("jensen_shannon", "jsd", 1e4),
        ("variation", "total_variation", 1e4),
        ("pearson", "chi_square", 2.0),
    ],
)
def test_a_generator_gives_the_divergence_that_it_generates(name: str, kind: str, spread: float) -> None:
    for size in {0.1, 2.0, spread}:
        student, teacher = logits(0, size), logits(1, size)
        found, expected = (
            both("f", student, teacher, generator=f"{HERE}:{name}"),
            both(kind, student, teacher),
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-6 if size > 2 else 1e-13)


@pytest.mark.parametrize("name", [*GENERATORS, *(f"{HERE}:{name}" for name in ("forward", "pearson", "cubic"))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_finite_everywhere_and_at_least_0(name: str, dtype: torch.dtype) -> None:
    student, teacher = logits(0, 1e4, dtype), logits(1, 1e4, dtype)
    student[0, :4], teacher[0, 2:6], student[1, 1:], teacher[2, 1:] = (-torch.inf,) * 4
    for found in both("f", student, teacher, generator=name):
        assert found.isfinite().all()
    assert (divergence("f", student, teacher, generator=name) >= 0).all()


def test_what_is_bounded_stays_so() -> None:
    apart = torch.tensor([[1e4, 0.0], [0.0, 1e4], [0.0, -torch.inf]])
    for name in ("squared_hellinger", "le_cam"):
        found = divergence("f", apart, apart.flip(1), generator=name)
        assert found.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)


def test_a_student_that_is_far_away_is_pulled_as_by_the_forward_kl() -> None:
    """Beyond a ratio of e^20, (u - 1)^2 / u goes on with its slope there, e^20."""
    _, gradient = both("f", torch.tensor([[0.0, -60.0]]), torch.tensor([[0.0, 0.0]]), generator=f"{HERE}:pearson")
    torch.testing.assert_close(
        gradient, 0.5 * torch.tensor([[1.0, -1.0]]) * torch.tensor(20.0).exp(), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("helinger", "no generator is called 'helinger'"),
        ("nowhere:f", "cannot import 'nowhere:f'"),
        (f"{HERE}:entropy", "generator entropy is not convex"),
        (f"{HERE}:shifted", r"generator shifted is 1\.0 at 1; make it 0"),
        (f"{HERE}:raising", "generator raising raised KeyError: 'x'; it is a differentiable function"),
        (f"{HERE}:summed", r"generator summed returned shape \(\) for ratios of shape \(81,\); return f"),
        (f"{HERE}:number", "generator number returned a float for ratios"),
        (f"{HERE}:steep", r"generator steep or its slope is not finite between e\^-20 and e\^20"),
        (f"{HERE}:stepped", "generator stepped raised RuntimeError"),
    ],
)
def test_what_generates_no_divergence_is_refused_with_the_setting(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"divergence 'f': generator: {message}"):
        divergence("f", logits(0, 1), logits(1, 1), generator=name)


def test_it_can_be_differentiated_twice() -> None:
    teacher = logits(1, 1).log_softmax(-1)
    one = logits(0, 1)[0]

    def by(kind: str, **settings: Any) -> Tensor:
        found: Tensor = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
            lambda z: DIVERGENCES[kind](z.log_softmax(-1), teacher[0], **settings), one
        )
        return found

    torch.testing.assert_close(by("f", generator=f"{HERE}:forward"), by("forward_kl"))
    torch.testing.assert_close(by("alpha", alpha=1.0), by("forward_kl"))
    torch.testing.assert_close(by("alpha_beta", alpha=0.0, beta=1.0), by("reverse_kl"))
