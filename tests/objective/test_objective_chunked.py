"""The chunked operator: gradients formed in forward, no full logits, no double backward; and what stands on it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from objective_cases import Largest
from torch import Tensor

from agentopd.objective import Head, chunked, divergence, linear_divergence, statistics
from agentopd.objective.chunked import chunked_loss
from agentopd.objective.divergences import DIVERGENCES


def case(
    rows: int = 13, size: int = 17, student: int = 5, teacher: int = 4, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Hidden states and weights of student and teacher, and biases."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, student), (size, student), (rows, teacher), (size, teacher), (size,), (size,)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.requires_grad_(i in (0, 1, 4)) for i, tensor in enumerate(made)]


def test_statistics_by_hand() -> None:
    head = Head(torch.tensor([[0.0], [1.0]]).double())
    hidden = torch.tensor([[0.0], [1.0986122886681098]]).double()
    logprob, entropy = statistics(hidden, head, torch.tensor([0, 1]), chunk_rows=1)
    assert logprob.exp().tolist() == pytest.approx([0.5, 0.75])
    assert entropy.tolist() == pytest.approx([0.6931471805599453, 0.5623351446188083])
    hotter, _ = statistics(hidden, head, torch.tensor([0, 1]), temperature=2.0)
    assert hotter.exp().tolist() == pytest.approx([0.5, 3**0.5 / (1 + 3**0.5)])
    assert not statistics(hidden.requires_grad_(), head, torch.tensor([0, 1]))[0].requires_grad


def test_a_token_of_probability_zero_adds_nothing_to_the_entropy() -> None:
    head = Head(torch.zeros(3, 1).double(), torch.tensor([0.0, 0.0, -torch.inf]).double())
    _, entropy = statistics(torch.zeros(1, 1).double(), head, torch.tensor([0]))
    assert entropy.tolist() == pytest.approx([0.6931471805599453])


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize(("chunk_rows", "tile_rows"), [(1, 1), (5, 3), (100, 4), (100, 100)])
def test_linear_divergence_equals_the_divergence_of_full_logits(
    kind: str, chunk_rows: int, tile_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "TILE", 17 * tile_rows)
    hidden, weight, t_hidden, t_weight, bias, t_bias = case()
    weights = torch.linspace(0, 1, 13).double()
    shape: dict[str, Any] = {"temperature": 1.7, "scale": 0.8, "softcap": 3.0}
    biases: dict[str, Any] = {"student_bias": bias, "teacher_bias": t_bias}
    out = linear_divergence(
        hidden, weight, t_hidden, t_weight, kind=kind, weights=weights, chunk_rows=chunk_rows, **shape, **biases
    )
    student, teacher = (3 * torch.tanh(0.8 * x / 3) for x in (hidden @ weight.T + bias, t_hidden @ t_weight.T + t_bias))
    expected = divergence(kind, student, teacher, temperature=1.7)
    torch.testing.assert_close(out.divergence, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out.loss, (weights * expected).sum(), rtol=1e-12, atol=1e-12)
    inputs = (hidden, weight, bias)
    found = torch.autograd.grad(3 * out.loss, inputs)
    for one, other in zip(found, torch.autograd.grad(3 * (weights * expected).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    for entropy, logits in ((out.student_entropy, student), (out.teacher_entropy, teacher)):
        logp = (logits.detach() / 1.7).log_softmax(-1)
        torch.testing.assert_close(entropy, -(logp.exp() * logp).sum(-1))
        assert not entropy.requires_grad


def test_linear_divergence_weighs_rows_equally_by_default_and_takes_parameters_by_row() -> None:
    hidden, weight, t_hidden, t_weight, *_ = case()
    betas = torch.linspace(0.1, 0.9, 13).double()
    out = linear_divergence(hidden, weight, t_hidden, t_weight, kind="jsd", beta=betas, chunk_rows=4)
    torch.testing.assert_close(out.loss, out.divergence.mean())
    for i in (0, 12):
        single = divergence("jsd", hidden[i] @ weight.T, t_hidden[i] @ t_weight.T, beta=float(betas[i]))
        torch.testing.assert_close(out.divergence[i], single.detach())


def test_no_tensor_of_all_rows_and_the_vocabulary_ever_exists() -> None:
    rows, size, width, chunk = 300, 200, 4, 16
    hidden, weight, t_hidden, t_weight, *_ = case(rows, size, width, width)
    head = Head(weight)
    with Largest() as largest:
        linear_divergence(hidden, weight, t_hidden, t_weight, kind="jsd", chunk_rows=chunk).loss.backward()  # type: ignore[no-untyped-call]
        statistics(hidden, head, torch.zeros(rows, dtype=torch.int64), chunk_rows=chunk)
    assert largest.size == chunk * size
    with Largest() as largest:
        divergence("jsd", hidden @ weight.T, t_hidden @ t_weight.T)
    assert largest.size == rows * size  # the spy sees what it is there to see


def test_no_gradient_is_formed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, t_hidden, t_weight, *_ = case()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a gradient was formed")

    monkeypatch.setattr(chunked, "_accumulate", refuse)
    with torch.no_grad():
        out = linear_divergence(hidden, weight, t_hidden, t_weight)
    assert not out.loss.requires_grad
    assert not linear_divergence(hidden.detach(), weight.detach(), t_hidden, t_weight).loss.requires_grad
    with pytest.raises(AssertionError, match="a gradient was formed"):
        linear_divergence(hidden, weight, t_hidden, t_weight)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, t_hidden, t_weight, *_ = case()
    linear_divergence(hidden, weight.detach(), t_hidden, t_weight).loss.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is None


def test_double_backward_is_refused_with_a_remedy() -> None:
    hidden, weight, t_hidden, t_weight, *_ = case()
    out = linear_divergence(hidden, weight, t_hidden, t_weight)
    with pytest.raises(RuntimeError, match=r"cannot be differentiated twice.*agentopd\.objective\.divergence"):
        torch.autograd.grad(out.loss, hidden, create_graph=True)


def test_half_precision_sums_in_float32() -> None:
    hidden, weight, t_hidden, t_weight, *_ = case(400, dtype=torch.bfloat16)
    out = linear_divergence(hidden, weight, t_hidden, t_weight, chunk_rows=1)
    assert (out.loss.dtype, out.divergence.dtype) == (torch.float32, torch.float32)
    found = torch.autograd.grad(out.loss, (hidden, weight))
    assert [one.dtype for one in found] == [torch.bfloat16, torch.bfloat16]
    exact = [
        tensor.detach().double().requires_grad_(i < 2) for i, tensor in enumerate((hidden, weight, t_hidden, t_weight))
    ]
    expected = torch.autograd.grad(linear_divergence(*exact).loss, exact[:2])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.05, atol=0.05 * float(other.abs().max()))


def test_no_rows_give_a_zero_that_still_touches_every_parameter() -> None:
    hidden, weight, t_hidden, t_weight, *_ = case(0)
    out = linear_divergence(hidden, weight, t_hidden, t_weight)
    out.loss.backward()  # type: ignore[no-untyped-call]
    assert float(out.loss.detach()) == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()
    assert out.divergence.shape == (0,)


def test_a_chunk_whose_loss_is_constant_adds_nothing() -> None:
    hidden, weight, *_ = case()

    def evaluate(logits: Tensor, rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        return (logits.sum() if rows.start == 0 else logits.new_ones(())), {}

    loss, signals = chunked_loss(hidden, Head(weight), lambda _: evaluate, 5)
    found = torch.autograd.grad(loss, hidden)[0]
    assert found[:5].any()
    assert not found[5:].any()
    assert signals == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_weight": torch.zeros(16, 4).double()}, "has 16 tokens, the student's 17"),
        ({"teacher_hidden": torch.zeros(12, 4).double()}, "student_hidden has 13 rows, teacher_hidden 12"),
        ({"weights": torch.ones(12).double()}, r"weights \(12,\)"),
        ({"chunk_rows": 0}, "chunk_rows must be at least 1"),
        ({"kind": "jsd", "beta": torch.ones(4)}, "beta has shape .4,. for 13 rows"),
        ({"kind": "jsd", "beta": torch.linspace(0, 0.5, 13)}, "beta: Input should be greater than 0"),
        ({"kind": "jsdd"}, "no divergence is called 'jsdd'"),
        ({"alpha": 0.3}, "has no setting 'alpha'"),
    ],
)
def test_bad_input_is_named(change: Mapping[str, Any], message: str) -> None:
    hidden, weight, t_hidden, t_weight, *_ = case()
    given = {"student_hidden": hidden, "student_weight": weight, "teacher_hidden": t_hidden, "teacher_weight": t_weight}
    with pytest.raises(ValueError, match=message):
        linear_divergence(**{**given, **change})
