"""Which process learns from which micro-batch: as many each, and as much work each as that allows."""

from collections.abc import Sequence

import torch

from agentopd.objective.batch import Passed


def deal(costs: Sequence[float], size: int) -> list[list[int]]:
    """Deals micro-batches to ``size`` processes: the costliest first, each to whoever has the least so far and has room.

    Room is for as many as the fullest has at least to have, so that nobody waits for a further round. Who has one fewer than the others
    fills up with nothing (:meth:`Learner.nothing`).

    Args:
        costs: Of each micro-batch.
        size: How many processes.

    Returns:
        For each rank its micro-batches, as indices into ``costs``, the costliest first.
    """
    room = -(-len(costs) // size)
    dealt: list[list[int]] = [[] for _ in range(size)]
    spent = [0.0] * size
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = min((r for r in range(size) if len(dealt[r]) < room), key=lambda r: spent[r])
        dealt[rank].append(i)
        spent[rank] += costs[i]
    return dealt


def cost(passed: Passed, hidden_size: int) -> float:
    """What a forward and backward of ``passed`` costs, in tokens that attend to nothing.

    A layer of width H spends 24 H^2 operations on a token, and 4 H on each token that it attends to (Kaplan et al., arXiv 2001.08361,
    table 1), so c tokens of context cost as much as c / 6H tokens.
    """
    tokens = passed.input_ids_B_T.numel()
    positions = passed.position_ids_B_T
    if positions is None:
        rows, length = passed.input_ids_B_T.shape
        context = rows * length * (length + 1) / 2
    else:
        context = float((positions + 1).sum(dtype=torch.float64))
    return tokens + context / (6 * hidden_size)
