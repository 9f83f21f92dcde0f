"""Operations and bytes of a step, counted: 2 FLOPs for each weight and token of a forward pass, twice that again for the backward pass,
and attention over what stands before."""

from dataclasses import dataclass

from agentopd.planning.setup import Held, Setup
from agentopd.planning.shape import Shape
from agentopd.planning.step import Step, read

ATTENTION_BACKWARD = 2.5
"""Of a forward pass: five matrix products for two, since the matrix of attention is computed anew (arXiv 2307.08691, section 3.1)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a device is to do."""

    flops: float = 0.0
    bytes: float = 0.0
    """That are read from its memory."""
    layers: float = 0.0
    """Passes through a layer that Python issues."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.layers + other.layers)

    def times(self, count: float) -> "Work":
        """So much, ``count`` times."""
        return Work(self.flops * count, self.bytes * count, self.layers * count)


def attention(shape: Shape, pairs: float) -> float:
    """FLOPs of one forward pass: a token's queries with the keys of each one before it, and their values."""
    return 4.0 * shape.layers * shape.queries * pairs


def forward(shape: Shape, tokens: float, pairs: float, rows: float) -> float:
    """FLOPs of one forward pass, with the logits of ``rows`` tokens."""
    return 2.0 * shape.body * tokens + attention(shape, pairs) + 2.0 * shape.head * rows


def decoding(model: Held, living: float, context: float, issued: bool) -> Work:
    """One token of each living episode: all weights are read once, and every episode's cache."""
    shape = model.shape
    moved = model.products + living * context * model.cached
    return Work(forward(shape, living, living * context, living), moved, shape.layers * issued)


def prefilling(model: Held, step: Step, turns: float, issued: bool) -> Work:
    """The tokens that nobody drew, each once, over what is cached; in ``turns`` of all that live at once, who begin alike."""
    shape, begun = model.shape, turns / step.turns
    tokens = step.played * (step.length - step.generated) - (step.played - begun) * step.common
    flops = forward(shape, tokens, tokens * step.context, step.played * step.turns)
    return Work(flops, turns * model.products, turns * shape.layers * issued)


def reading(model: Held, step: Step) -> Work:
    """A teacher reads every episode, and gives its statistics of what was drawn."""
    found = read(step, model.max_tokens)
    flops = forward(model.shape, found.tokens, found.pairs, step.episodes * step.generated)
    return Work(flops, found.passes * model.moved, found.passes * model.shape.layers)


def learning(setup: Setup, step: Step) -> Work:
    """Forward and backward passes of all micro-batches, with the heads of teachers, and the optimiser's step."""
    student, trained, shape = setup.student, setup.trained, setup.student.shape
    rows = step.episodes * step.generated
    found = read(step, setup.max_tokens, once=setup.checkpoints is None)
    again = setup.checkpoints.count(shape.layers) / shape.layers if setup.checkpoints else 0.0
    whole = trained.rank is None
    body = (4 + 2 * whole + 2 * again) * shape.body + (0 if whole else 6 * trained.parameters)
    looked = (1 + again + ATTENTION_BACKWARD) * attention(shape, found.pairs)
    live = forward(shape, found.tokens, found.pairs, rows) if setup.live else 0.0
    # weights are read and written, gradients read, the optimiser's state read and written
    updated = 3 * trained.gradients + 2 * trained.optimiser
    return Work(
        flops=body * found.tokens + looked + heads(setup, step) + live,
        bytes=found.passes * (3 + again) * student.moved + updated,
        layers=found.passes * (2 + again + setup.live) * shape.layers,
    )


def heads(setup: Setup, step: Step) -> float:
    """FLOPs of the logits that are learned from, of the student and of its teachers."""
    trained = 2 * (setup.trained.rank is None)
    each = (4 + trained) * setup.student.shape.head + sum(2 * one.shape.head for one in setup.teachers)
    return float(each * step.episodes * step.generated)


def exchanged(setup: Setup, step: Step, gpus: int, sharded: bool) -> float:
    """Bytes that each device sends in a step: gradients, all-reduced; of shards also the weights of every pass, gathered twice."""
    others = (gpus - 1) / gpus
    if not sharded:
        return 2 * others * setup.trained.gradients
    passes = read(step, setup.max_tokens).passes
    return others * (setup.trained.gradients + 2 * passes * setup.student.bytes)
