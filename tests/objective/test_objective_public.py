"""``divergence``, ``linear_divergence`` and ``statistics`` as a stranger calls them: odd input works, or is named."""

from typing import Any

import pytest
import torch
from torch import Tensor

from agentopd.objective import Head, LinearDivergence, divergence, linear_divergence, statistics

A, V, H, G = 5, 7, 3, 2
SHAPES = {"student_hidden": (A, H), "student_weight": (V, H), "teacher_hidden": (A, G), "teacher_weight": (V, G)}


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def linear(**changes: Any) -> LinearDivergence:
    dtype = changes.pop("dtype", torch.float64)
    given = {name: normal(*shape, dtype=dtype) for name, shape in SHAPES.items()} | changes
    return linear_divergence(**given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32_and_the_gradient_comes_back_in_its_own(dtype: torch.dtype) -> None:
    hidden = normal(A, H, dtype=dtype).requires_grad_()
    out = linear(student_hidden=hidden, dtype=dtype, kind="jsd")
    assert out.loss.dtype == out.divergence.dtype == torch.float32
    (found,) = torch.autograd.grad(out.loss, hidden)
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    exact = linear(**{name: normal(*shape, dtype=dtype).double() for name, shape in SHAPES.items()}, kind="jsd")
    torch.testing.assert_close(out.loss.double(), exact.loss, atol=2e-2, rtol=0)


def test_the_models_may_differ_in_dtype() -> None:
    half = {name: normal(*SHAPES[name], dtype=torch.bfloat16) for name in ("teacher_hidden", "teacher_weight")}
    assert linear(**half).loss.dtype == torch.float64
    assert divergence("reverse_kl", normal(4, V), normal(4, V, dtype=torch.float64)).shape == (4,)


def test_no_rows_are_a_zero_that_can_be_differentiated() -> None:
    hidden = torch.zeros(0, H).double().requires_grad_()
    out = linear(student_hidden=hidden, teacher_hidden=torch.zeros(0, G).double(), kind="jsd", beta=torch.zeros(0))
    assert out.loss.item() == 0.0
    assert torch.autograd.grad(out.loss, hidden)[0].shape == (0, H)
    assert out.divergence.shape == out.student_entropy.shape == (0,)
    assert divergence("jsd", torch.zeros(0, V), torch.zeros(0, V)).shape == (0,)


def test_strides_do_not_matter_and_only_the_student_gets_a_gradient() -> None:
    turned = {name: normal(*shape, dtype=torch.float64).T.contiguous().T for name, shape in SHAPES.items()}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in turned.items()}
    weights = torch.ones(A).double().requires_grad_()
    assert not leaves["student_hidden"].is_contiguous()
    out = linear(**leaves, weights=weights)
    out.loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(out.divergence, linear().divergence)
    assert all((leaves[name].grad is not None) == name.startswith("student") for name in SHAPES)
    assert weights.grad is None


def test_truth_values_as_weights_select() -> None:
    mask = torch.tensor([True, False, True, False, False])
    out = linear(weights=mask)
    torch.testing.assert_close(out.loss, out.divergence[mask].sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"student_hidden": normal(A, A, H)},
            r"student_hidden is \(5, 5, 3\) and student_weight \(7, 3\); give \[A, H\]",
        ),
        ({"student_weight": normal(H, V)}, r"student_hidden is \(5, 3\) and student_weight \(3, 7\)"),
        ({"teacher_weight": normal(V + 1, G).double()}, "the teacher has 8 tokens, the student's 7.* padding columns"),
        ({"teacher_hidden": normal(A - 1, G).double()}, "5 rows, teacher_hidden 4"),
        ({"student_hidden": normal(A, H, dtype=torch.bfloat16)}, r"of torch\.bfloat16, torch\.float64; cast them"),
        ({"student_bias": torch.zeros(1).double()}, r"student_bias is \(1,\); give one number a token, \(7,\)"),
        ({"weights": torch.ones(A, 1)}, r"weights \(5, 1\); give one a row"),
        ({"weights": [1.0] * A}, "weights is a list; give a torch tensor"),
        ({"softcap": 0.0}, r"scale and softcap must be above 0, got 1\.0 and 0\.0"),
        ({"temperature": 0.0}, r"temperature must be above 0 and finite, got 0\.0"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1"),
        ({"kind": "jsd", "beta": torch.linspace(0, 1, A)}, "beta: Input should be greater than 0"),
        ({"kind": "jsd", "beta": torch.ones(A + 1)}, r"beta has shape \(6,\) for 5 rows"),
        (
            {"kind": "jsd", "beta": {"kind": "constant", "value": 0.5}},
            "beta is a schedule, which only a run can follow",
        ),
    ],
)
def test_linear_divergence_names_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear(**changes)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (normal(4, V), normal(4, V + 1), r"\(4, 7\) and teacher_logits \(4, 8\) differ in shape"),
        (normal(4, V), normal(V), "differ in shape"),
        (torch.tensor(1.0), torch.tensor(1.0), "have no entries"),
        (normal(4, V).numpy(), normal(4, V), "student_logits is a ndarray; give a torch tensor"),
    ],
)
def test_divergence_names_bad_input(student: Any, teacher: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divergence("jsd", student, teacher)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ([0, 1, -100, 2, 3], r"run from -100 to 3 in a vocabulary of 7; leave out rows that are not action tokens"),
        ([0, 1, 7, 2, 3], "run from 0 to 7"),
        ([0, 1, 2], r"are \(3,\) of torch\.int64 for 5 hidden states"),
        ([0.0] * A, r"are \(5,\) of torch\.float32 for 5 hidden states; give one integer a row"),
    ],
)
def test_statistics_names_tokens_that_are_none(taken: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics(normal(A, H), Head(normal(V, H)), torch.tensor(taken))
