"""What autograd keeps of a forward pass, for each token: counted as a Llama's layer keeps it, with Qwen3's norms of queries and keys.

Of each linear layer that is its input; of norms, computed in float32, input and normalised values; of attention queries, keys, values, its
output and a sum a head, never its matrix; of the feed-forward layer the values around its activation. Frozen weights need no inputs, and
the adapters beside them do. Where weights and numbers have different dtypes each layer casts its input, and keeps a copy of its own.
"""

from dataclasses import dataclass

from agentopd.forward import is_maskless
from agentopd.planning.shape import Shape
from agentopd.training.checks.checkpointed import Checkpoints

EXACT = 4
"""Bytes of a number in float32, in which norms and the sums of attention are computed."""
ADAPTED = 7
"""Linear layers of one layer."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """In which dtypes a model is trained."""

    weight: int
    """Bytes of a weight, and of what passes between layers."""
    autocast: bool = False
    rank: int | None = None
    """Of an adapter, whose weights are float32 beside a base in half precision; ``None`` where all weights are trained."""

    @property
    def product(self) -> int:
        """Bytes of what matrix products give."""
        return min(self.weight, 2) if self.autocast else self.weight

    @property
    def casts(self) -> bool:
        """Whether each linear layer casts its input."""
        return self.weight > self.product or (self.rank is not None and self.weight < EXACT)

    @property
    def read(self) -> int:
        """Bytes of a number in the kept input of a linear layer."""
        return EXACT if self.casts and not self.autocast else self.product


def of_token(shape: Shape, numbers: Numbers, checkpoints: Checkpoints | None) -> float:
    """Bytes kept for one token until the backward pass, and, with checkpoints, of one layer that is computed anew."""
    layer, between = _layer(shape, numbers), numbers.weight * shape.hidden
    inside = shape.layers * layer
    if checkpoints is not None:
        anew = checkpoints.count(shape.layers)
        inside = (shape.layers - anew + 1) * layer + (0 if checkpoints.offload else anew * between)
    final = EXACT * shape.hidden + 2 * between + 2 * numbers.weight * shape.head_size + 3 * EXACT
    return float(inside + final)


def behind(shape: Shape, numbers: Numbers, length: float, common: float) -> float:
    """Bytes that a row of ``length`` tokens keeps beside those of its own, where its first ``common`` are read once for all rows: keys and
    values of all of it, for every head of queries, and the mask of attention, which sees where rows go on; or, where there is none, what
    stands in front of queries, and attention's output with it, beside the part that goes on."""
    own = length - common
    keys = numbers.product * 2 * (shape.queries * length - shape.cached * own)
    attention = numbers.product * own * length
    if is_maskless(common, length):
        attention = numbers.product * shape.queries * (own + 2 * common) + EXACT * shape.heads * common
    return float(shape.layers * (keys + attention))


def _layer(shape: Shape, numbers: Numbers) -> int:
    whole, rotated = numbers.rank is None, shape.queries + shape.cached
    norms = 2 * (EXACT * shape.hidden + EXACT) + whole * 2 * numbers.weight * shape.hidden
    if shape.normed_heads:
        norms += EXACT * (rotated + shape.heads + shape.cached_heads) + whole * numbers.product * rotated
    attention = 2 * numbers.product * rotated + EXACT * shape.heads
    gates = 3 * numbers.product * shape.feed_forward
    inputs = numbers.read * ((5 if numbers.casts else 2) * shape.hidden + shape.feed_forward)
    if numbers.rank is not None:
        copied = numbers.read * shape.queries if numbers.casts else 0
        inputs += copied + ADAPTED * numbers.rank * (numbers.product if numbers.autocast else EXACT)
    return norms + attention + gates + inputs
