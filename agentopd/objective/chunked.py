"""The operator behind every loss: the gradient is formed during the forward pass, a chunk of rows at a time.

A chunk's logits live only while its loss and its gradient are computed, so no [A, V] tensor of any model ever exists. Backward
only scales what is already there.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from agentopd.objective.divergences import entropy, log_softmax
from agentopd.objective.head import Head

Evaluate: TypeAlias = Callable[[Tensor, slice], tuple[Tensor, dict[str, Tensor]]]
"""From the logits [N, V] of the rows ``slice`` to their summed loss and to signals [N], the same names for every chunk."""


def chunked_loss(
    hidden_A_H: Tensor, head: Head, evaluate: Evaluate, chunk_rows: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of ``evaluate`` over chunks of rows, differentiable once in the hidden states and in the head's parameters.

    Sums run in float32 or better. Without gradient mode, or where nothing needs a gradient, none is formed.

    Args:
        hidden_A_H: The student's hidden states, one a row.
        head: Turns them into logits; its weight and bias may be frozen or trained.
        evaluate: Loss and signals of one chunk.
        chunk_rows: Rows of a chunk.

    Returns:
        The scalar loss, 0 but differentiable where there are no rows, and signals [A], detached.

    Raises:
        ValueError: ``chunk_rows`` is below 1.
    """
    inputs = [hidden_A_H, head.weight_V_H] + ([] if head.bias_V is None else [head.bias_V])
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in inputs):
        with torch.no_grad():
            return _forward(hidden_A_H, head, evaluate, chunk_rows)
    loss, gradients, signals = _forward_and_gradients(inputs, head, evaluate, chunk_rows)
    return _Differentiated.apply(loss, gradients, *inputs), signals  # type: ignore[no-untyped-call]


@torch.no_grad()
def statistics(
    hidden_A_H: Tensor, head: Head, taken_A: Tensor, temperature: float = 1.0, chunk_rows: int = 1024
) -> tuple[Tensor, Tensor]:
    """Log-probability of the taken tokens and entropy in nats, [A] each, without gradient.

    Raises:
        ValueError: There is not one integer a row, or one that is no token of the vocabulary (rows with a label of -100 are for
            the caller to leave out); or ``chunk_rows`` is below 1.
    """
    check_taken(taken_A, len(hidden_A_H), len(head.weight_V_H))
    found: list[tuple[Tensor, Tensor]] = []
    for rows in chunks(len(hidden_A_H), chunk_rows):
        logp_N_V = log_softmax(head.logits(hidden_A_H[rows]), temperature)
        found.append((taken_logprob(logp_N_V, taken_A[rows]), entropy(logp_N_V)))
    logprobs, entropies = zip(*found, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def taken_logprob(logp_N_V: Tensor, taken_N: Tensor) -> Tensor:
    """Log-probability [N] of one token a row."""
    return logp_N_V.gather(1, taken_N.unsqueeze(1)).squeeze(1)


def check_taken(taken_A: Tensor, rows: int, vocabulary: int) -> None:
    """Refuses what is not one token of the vocabulary a row, which a device may answer by ending the process."""
    if taken_A.shape != (rows,) or taken_A.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"the tokens taken are {tuple(taken_A.shape)} of {taken_A.dtype} for {rows} hidden states; give one integer a row"
        )
    if taken_A.numel() and not 0 <= int(taken_A.min()) <= int(taken_A.max()) < vocabulary:
        raise ValueError(
            f"the tokens taken run from {int(taken_A.min())} to {int(taken_A.max())} in a vocabulary of {vocabulary}; leave out rows "
            "that are not action tokens (labels of -100)"
        )


def chunks(rows: int, chunk_rows: int) -> list[slice]:
    """Consecutive slices of ``rows`` rows; one empty slice of none, so that every signal has its name."""
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    return [slice(start, min(start + chunk_rows, rows)) for start in range(0, max(rows, 1), chunk_rows)]


def _forward(hidden_A_H: Tensor, head: Head, evaluate: Evaluate, chunk_rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    loss, signals = _zero(hidden_A_H), []
    for rows in chunks(len(hidden_A_H), chunk_rows):
        part, signal = evaluate(head.logits(hidden_A_H[rows]), rows)
        loss += part
        signals.append(signal)
    return loss, _joined(signals)


def _forward_and_gradients(
    inputs: Sequence[Tensor], head: Head, evaluate: Evaluate, chunk_rows: int
) -> tuple[Tensor, list[Tensor | None], dict[str, Tensor]]:
    """Loss, the gradient of each input (``None`` for a frozen one), signals."""
    hidden, *parameters = (tensor.detach().requires_grad_(tensor.requires_grad) for tensor in inputs)
    loss, signals = _zero(hidden), []
    gradients = [_zeros(tensor) if tensor.requires_grad else None for tensor in (hidden, *parameters)]
    for rows in chunks(len(hidden), chunk_rows):
        chunk = hidden.detach()[rows].requires_grad_(hidden.requires_grad)
        with torch.enable_grad():
            part, signal = evaluate(head.logits(chunk, *parameters), rows)
        loss += part.detach()
        signals.append(signal)
        _accumulate(gradients, part, (chunk, *parameters), rows)
    cast = [g if g is None else g.to(tensor.dtype) for g, tensor in zip(gradients, inputs, strict=True)]
    return loss, cast, _joined(signals)


def _accumulate(gradients: Sequence[Tensor | None], loss: Tensor, inputs: Sequence[Tensor], rows: slice) -> None:
    """Adds a chunk's gradients: of the hidden states to its own rows, of the parameters to their sums."""
    wanted = [i for i, gradient in enumerate(gradients) if gradient is not None]
    found = torch.autograd.grad(loss, [inputs[i] for i in wanted], allow_unused=True) if loss.requires_grad else ()
    for i, gradient in zip(wanted, found, strict=False):
        total = gradients[i]
        if gradient is not None and total is not None:
            (total[rows] if i == 0 else total).add_(gradient)


class _Differentiated(torch.autograd.Function):
    """A loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the chunked loss keeps no graph of its gradient, so it cannot be differentiated twice (create_graph=True); "
                "use agentopd.objective.divergence on full logits instead"
            )
        (scale,) = grad_outputs
        scaled = (g if g is None else g * scale.to(g.dtype) for g in ctx.saved_tensors)
        return None, None, *scaled


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


def _joined(signals: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([signal[name] for signal in signals]) for name in signals[0]}
