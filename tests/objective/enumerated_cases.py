"""Worlds small enough to enumerate: the student's logits are its hidden states, its head the identity, in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from objective_cases import method, prepared, segment
from torch import Tensor

from agentopd.objective import Head, cut, divergence, loss
from agentopd.types import Annotation, Block, Dense, Key, Outcome, Record, Sampled, Task, Trajectory, Turn

EXPECTATION = "objective_cases:trajectory_probability"


def chain(
    tokens: Sequence[int],
    logp: Sequence[float],
    logq: Sequence[float],
    index: int,
    turns: Sequence[int],
    block: Block | None = None,
    source: str = "fresh",
    task: int = 0,
) -> Record:
    """One trajectory of a one- or two-step world, with the exact log-probabilities of student and teacher."""
    marks = [-1, *turns]
    bare = segment([0, *tokens], marks, source=source)
    exact = replace(bare, logprob_T=np.array([0.0, *logp]))
    starts = sorted(set(turns))
    made = tuple(Turn(s, "student", 0, 1 + turns.index(s), 1 + turns.index(s) + turns.count(s), "", "") for s in starts)
    trajectory = Trajectory(
        Key("run", 0, index), Task("E-v0", task), ("student",), (exact,), made, Outcome(0.0, False, "terminated")
    )
    size, depth = len(tokens), len(made)
    annotation = Annotation(
        "teacher",
        np.zeros(size, np.int32),
        np.arange(1, size + 1, dtype=np.int32),
        block or Sampled(),
        np.array(logq),
        np.full(size, np.nan),
        np.full(depth, np.nan, np.float32),
        np.zeros(depth, np.bool_),
    )
    return Record(trajectory, (annotation,))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(
    z: Tensor, t: Tensor, estimator: Mapping[str, Any], behaviour: Tensor | None = None, **parts: Any
) -> Tensor:
    """For each token y, the probability that it is sampled times the gradient that the student then gets, [V, V].

    The student's logits are ``z``, the teacher's ``t``; who acted had the logits ``behaviour``, or else those of the student.
    """
    q, size = t.log_softmax(-1), len(z)
    acted = (z if behaviour is None else behaviour).log_softmax(-1)
    records = [chain([y], [float(acted[y])], [float(q[y])], y, [0], Dense(t[None], "teacher")) for y in range(size)]
    (batch,) = cut(prepared(method(estimator=estimator, weight=EXPECTATION, **parts), records), 10**6)
    leaf, head = z.repeat(size, 1).requires_grad_(), Head(torch.eye(size).double())
    out = loss(leaf[batch.row_A], head, {"teacher": head}, batch, 1.0, 3)
    return torch.autograd.grad(out.loss, leaf)[0]


def expected_gradient(z: Tensor, t: Tensor, **estimator: Any) -> Tensor:
    """E[gradient] over y ~ p of an estimator, by default a score function, at one state."""
    return gradients(z, t, {"kind": "score_function", **estimator}).sum(0)


def of_divergence(kind: str, z: Tensor, t: Tensor) -> Tensor:
    """The gradient of a divergence in the student's logits."""
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(divergence(kind, leaf, t), leaf)[0]
