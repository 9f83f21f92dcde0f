"""The operator behind every loss: the gradient is formed during the forward pass, a chunk of rows at a time.

A chunk's logits live only while its loss and its gradient are computed, so no [A, V] tensor of any model ever exists, and each
matrix product is computed once. Everything else is done on tiles of the chunk that fit a processor's cache; a tile's logits are
overwritten with their gradient. Backward only scales what is already there.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from agentopd.objective.distributions import entropy, log_softmax
from agentopd.objective.head import Head, Projector

Evaluate: TypeAlias = Callable[[Tensor, slice], tuple[Tensor, dict[str, Tensor]]]
"""From the logits [N, V] of the rows ``slice`` to their summed loss and to signals [N], the same names for every tile."""
Open: TypeAlias = Callable[[slice], Evaluate]
"""Called once a chunk, for the matrix products of teachers; what it returns evaluates the tiles of that chunk."""
Cuts: TypeAlias = Sequence[tuple[slice, Sequence[slice]]]
"""The chunks of some rows, each with its tiles."""


@runtime_checkable
class Formed(Protocol):
    """An ``Evaluate`` that knows the gradient of some tiles itself, which saves the passes of autograd over memory."""

    def __call__(self, logits_N_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """As any ``Evaluate``."""

    def formed(self, logits_N_V: Tensor, tile: slice) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor] | None:
        """Loss, signals, and the gradient in the logits as what is to be multiplied, [N, V] and [N]; ``None``: autograd has to.

        It may return the memory of ``logits_N_V``, and must not change it otherwise.
        """


CHUNK = 2**26
"""Logits of one model that exist at once where a caller does not say how many rows: 256 MiB of float32, in which matrix products are
at their best."""
TILE = 2**19
"""Logits in a tile on a CPU, such that a few tensors of its size stay in its caches. Elsewhere a tile is a whole chunk."""


def chunked_loss(
    hidden_A_H: Tensor, head: Head, open_chunk: Open, chunk_rows: int | None, whole: Sequence[slice] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum over tiles of chunks of rows, differentiable once in the hidden states and in the head's parameters.

    Sums run in float32 or better. Matrix products follow autocast, nothing else does. Without gradient mode, or where nothing
    needs a gradient, none is formed.

    Args:
        hidden_A_H: The student's hidden states, one a row.
        head: Turns them into logits; its weight and bias may be frozen or trained, whole or sharded.
        open_chunk: Gives loss and signals of a chunk's tiles.
        chunk_rows: Rows of a chunk; ``None``: as many as have ``CHUNK`` logits.
        whole: Rows that stand in one tile, ascending.

    Returns:
        The scalar loss, 0 but differentiable where there are no rows, and signals [A], detached.

    Raises:
        ValueError: ``chunk_rows`` is below 1.
    """
    head = head.gathered()
    _keep_freed(hidden_A_H)
    inputs = [hidden_A_H, head.weight_V_H] + ([] if head.bias_V is None else [head.bias_V])
    size = rows_of_chunk(len(head.weight_V_H)) if chunk_rows is None else chunk_rows
    of_chunk = [(rows, tiles(rows, head.weight_V_H.T, whole)) for rows in chunks(len(hidden_A_H), size, whole)]
    if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in inputs):
        with torch.no_grad():
            return _forward(hidden_A_H, head, open_chunk, of_chunk)
    loss, gradients, signals = _forward_and_gradients(inputs, head, open_chunk, of_chunk)
    return _Differentiated.apply(loss, gradients, *inputs), signals  # type: ignore[no-untyped-call]


@torch.no_grad()
def statistics(
    hidden_A_H: Tensor, head: Head, token_A: Tensor, temperature: float = 1.0, chunk_rows: int = 1024
) -> tuple[Tensor, Tensor]:
    """Log-probability of the taken tokens and entropy in nats, [A] each, without gradient.

    Raises:
        ValueError: There is not one integer a row, or one that is no token of the vocabulary (rows with a label of -100 are for
            the caller to leave out); or ``chunk_rows`` is below 1.
    """
    check_tokens(token_A, len(hidden_A_H), len(head.weight_V_H))
    found, project = _Columns(len(hidden_A_H)), Projector(head.gathered(), hidden_A_H)
    for rows in chunks(len(hidden_A_H), chunk_rows):
        projected_N_V = project(rows)
        for tile in tiles(rows, projected_N_V):
            logp_N_V = log_softmax(head.shaped(projected_N_V[inner(tile, rows)]), temperature)
            found.put(tile, {"logprob": taken_logprob(logp_N_V, token_A[tile]), "entropy": entropy(logp_N_V)})
    return found.held["logprob"], found.held["entropy"]


def taken_logprob(logp_N_V: Tensor, token_N: Tensor) -> Tensor:
    """Log-probability [N] of one token a row."""
    return logp_N_V.gather(1, token_N.unsqueeze(1)).squeeze(1)


def check_tokens(token_A: Tensor, rows: int, vocabulary: int) -> None:
    """Refuses what is not one token of the vocabulary a row, which a device may answer by ending the process."""
    if token_A.shape != (rows,) or token_A.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"the tokens taken are {tuple(token_A.shape)} of {token_A.dtype} for {rows} hidden states; give one integer a row"
        )
    if token_A.numel() and not 0 <= int(token_A.min()) <= int(token_A.max()) < vocabulary:
        raise ValueError(
            f"the tokens taken run from {int(token_A.min())} to {int(token_A.max())} in a vocabulary of {vocabulary}; leave out rows "
            "that are not action tokens (labels of -100)"
        )


def undivided(whole: Sequence[slice]) -> list[slice]:
    """Slices of rows, ascending, those that overlap made one."""
    found: list[slice] = []
    for one in sorted(whole, key=lambda one: (one.start, one.stop)):
        if found and one.start < found[-1].stop:
            found[-1] = slice(found[-1].start, max(found[-1].stop, one.stop))
        else:
            found.append(one)
    return found


def chunks(rows: int, chunk_rows: int, whole: Sequence[slice] = ()) -> list[slice]:
    """Consecutive slices of ``rows`` rows; one empty slice of none, so that every signal has its name. None divides a slice of ``whole``."""
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    return _cut(0, rows, chunk_rows, whole)


def rows_of_chunk(vocabulary: int) -> int:
    """How many rows have ``CHUNK`` logits."""
    return max(CHUNK // max(vocabulary, 1), 1)


def tiles(rows: slice, like_N_V: Tensor, whole: Sequence[slice] = ()) -> list[slice]:
    """The tiles of the chunk ``rows``, whose logits are, or have the vocabulary and the device of, ``like_N_V``."""
    size = max(TILE // like_N_V.shape[-1], 1) if like_N_V.device.type == "cpu" else rows.stop
    return _cut(rows.start, rows.stop, max(size, 1), whole)


def inner(tile: slice, rows: slice) -> slice:
    """Where a tile stands within its chunk."""
    return slice(tile.start - rows.start, tile.stop - rows.start)


def _cut(start: int, stop: int, size: int, whole: Sequence[slice]) -> list[slice]:
    """Slices of ``size`` rows; where one would end within a slice of ``whole`` it ends before it, or, if it begins there, behind it."""
    found: list[slice] = []
    firsts = [one.start for one in whole]
    while start < stop or not found:
        end = min(start + size, stop)
        divided = whole[at] if (at := bisect_left(firsts, end) - 1) >= 0 and whole[at].stop > end else None
        if divided is not None:
            end = divided.start if divided.start > start else divided.stop
        found.append(slice(start, end))
        start = end
    return found


def _forward(hidden_A_H: Tensor, head: Head, open_chunk: Open, of_chunk: Cuts) -> tuple[Tensor, dict[str, Tensor]]:
    loss, signals, project = _zero(hidden_A_H), _Columns(len(hidden_A_H)), Projector(head, hidden_A_H)
    for rows, within in of_chunk:
        projected_N_V, evaluate = project(rows), open_chunk(rows)
        with _exact(projected_N_V):
            for tile in within:
                part, signal = evaluate(head.shaped(projected_N_V[inner(tile, rows)]), tile)
                loss += part
                signals.put(tile, signal)
    return loss, signals.held


@torch.no_grad()
def _forward_and_gradients(
    inputs: Sequence[Tensor], head: Head, open_chunk: Open, of_chunk: Cuts
) -> tuple[Tensor, list[Tensor | None], dict[str, Tensor]]:
    """Loss, the gradient of each input (``None`` for a frozen one), signals."""
    loss, signals, project = _zero(inputs[0]), _Columns(len(inputs[0])), Projector(head, inputs[0])
    gradients = [_zeros(tensor) if tensor.requires_grad else None for tensor in inputs]
    for rows, within in of_chunk:
        projected_N_V, evaluate = project(rows), open_chunk(rows)
        with _exact(projected_N_V):
            for tile in within:
                part, signal = _differentiated(projected_N_V[inner(tile, rows)], head, evaluate, tile)
                loss += part
                signals.put(tile, signal)
            _accumulate(gradients, projected_N_V, project, rows)
    cast = [g if g is None else g.to(tensor.dtype) for g, tensor in zip(gradients, inputs, strict=True)]
    return loss, cast, signals.held


def _keep_freed(like: Tensor) -> None:
    """Lets glibc keep what a tile frees for the next tile.

    It gives memory back to the system beyond a threshold that grows with the largest block ever freed, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD); where a process has freed none, every tile would wait for fresh pages. This one is never touched.
    """
    if like.device.type == "cpu":
        torch.UntypedStorage(2**25 - 2**16)  # type: ignore[no-untyped-call]


def _exact(like: Tensor) -> torch.autocast:
    """Keeps autocast away from what is no matrix product with a head."""
    return torch.autocast(like.device.type, enabled=False)


def _differentiated(
    projected_N_V: Tensor, head: Head, evaluate: Evaluate, tile: slice
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and signals of a tile, whose projection is overwritten with the gradient of the loss in it."""
    if isinstance(evaluate, Formed):
        logits_N_V = head.shaped(projected_N_V)
        slope = head.slope(logits_N_V)
        if (found := evaluate.formed(logits_N_V, tile)) is not None:
            part, signal, gradient_N_V, coef_N = found
            torch.mul(gradient_N_V, coef_N.unsqueeze(1), out=projected_N_V)
            if isinstance(slope, Tensor) or slope != 1.0:
                projected_N_V.mul_(slope)
            return part, signal
    leaf_N_V = projected_N_V.detach().requires_grad_()
    with torch.enable_grad():
        part, signal = evaluate(head.shaped(leaf_N_V), tile)
    if part.requires_grad:
        projected_N_V.copy_(torch.autograd.grad(part, leaf_N_V)[0])
    else:
        projected_N_V.zero_()
    return part.detach(), signal


def _accumulate(gradients: Sequence[Tensor | None], of_N_V: Tensor, project: Projector, rows: slice) -> None:
    """Adds a chunk's gradients, from those in its projection: of the hidden states to its own rows, of the parameters to their sums."""
    hidden, weight, *bias = gradients
    weight_V_H, hidden_N_H = project.head.weight_V_H, project.hidden_A_H[rows]
    if hidden is not None:
        if hidden.dtype == of_N_V.dtype:
            torch.mm(of_N_V, weight_V_H, out=hidden[rows])
        else:
            hidden[rows] = of_N_V @ weight_V_H
    if weight is not None:
        if weight.dtype == of_N_V.dtype:
            weight.addmm_(of_N_V.T, hidden_N_H)
        else:
            weight += of_N_V.T @ hidden_N_H
    if bias and bias[0] is not None:
        bias[0] += of_N_V.sum(0, dtype=bias[0].dtype)


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
        if float(scale) == 1.0:  # most often: no second copy of the head's gradient
            return None, None, *ctx.saved_tensors
        scaled = (g if g is None else g * scale.to(g.dtype) for g in ctx.saved_tensors)
        return None, None, *scaled


def _zero(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.promote_types(like.dtype, torch.float32))


class _Columns:
    """Signals [A], filled tile by tile: small tensors kept from every tile would break up the memory that the next tiles need."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.held: dict[str, Tensor] = {}

    def put(self, tile: slice, signal: dict[str, Tensor]) -> None:
        """Those of one tile."""
        for name, value_N in signal.items():
            if name not in self.held:
                self.held[name] = value_N.new_empty((self._rows, *value_N.shape[1:]))
            self.held[name][tile] = value_N
