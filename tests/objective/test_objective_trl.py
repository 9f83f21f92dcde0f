"""The three divergences that TRL has too: its chunked function and ours agree on values and gradients, in single precision."""

from typing import Any

import pytest
import torch
from torch import Tensor
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from agentopd.objective import linear_divergence

KINDS: tuple[tuple[float, str, dict[str, float]], ...] = (
    (0.0, "forward_kl", {}),
    (1.0, "reverse_kl", {}),
    (0.5, "jsd", {"beta": 0.5}),
    (0.1, "jsd", {"beta": 0.1}),
    (0.9, "jsd", {"beta": 0.9}),
)


def case(seed: int) -> tuple[list[Tensor], dict[str, Any]]:
    """Hidden states, weights and biases of random shapes, the student's differentiable, and the rest of a head."""
    generator = torch.Generator().manual_seed(seed)
    rows, size, student, teacher = (int(torch.randint(1, n, (), generator=generator)) for n in (40, 300, 24, 24))
    shapes = [(rows, student), (size, student), (size,), (rows, teacher), (size, teacher), (size,)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    rest = {"temperature": 0.7 + 0.2 * seed, "scale": 1.3, "softcap": (None, 15.0)[seed % 2]}
    return [tensor.requires_grad_(i < 3) for i, tensor in enumerate(tensors)], rest


@pytest.mark.parametrize(("beta", "kind", "parameters"), KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_are_those_of_trl(beta: float, kind: str, parameters: dict[str, float], seed: int) -> None:
    tensors, rest = case(seed)
    hidden, weight, bias, t_hidden, t_weight, t_bias = tensors
    head = (rest["scale"], rest["softcap"])
    value, entropy = ChunkedDivergenceFunction.apply(*tensors, beta, rest["temperature"], *head, *head)  # type: ignore[no-untyped-call]
    weights = torch.linspace(-1.0, 1.0, len(hidden))
    rest |= {"student_bias": bias, "teacher_bias": t_bias, **parameters}
    ours = linear_divergence(hidden, weight, t_hidden, t_weight, kind=kind, weights=weights, chunk_rows=7, **rest)
    torch.testing.assert_close(ours.divergence, value.detach(), rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(ours.student_entropy, entropy, rtol=2e-5, atol=2e-6)
    theirs = torch.autograd.grad((weights * value).sum(), tensors[:3])
    for one, other in zip(torch.autograd.grad(ours.loss, tensors[:3]), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6 * max(1.0, float(other.abs().max())))
