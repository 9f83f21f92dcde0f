"""Golden identities of score functions, by exact enumeration through prepare, cut and loss, in float64."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import method, prepared, segment
from torch import Tensor

from agentopd.objective import Head, cut, divergence, loss
from agentopd.objective.estimators import policy_gradient
from agentopd.types import Annotation, Key, Outcome, Record, Sampled, Task, Trajectory, Turn

EXPECTATION = "objective_cases:trajectory_probability"


# Worlds small enough to enumerate: the student's logits are its hidden states, its head the identity.


def chain(
    tokens: Sequence[int], logp: Sequence[float], logq: Sequence[float], index: int, turns: Sequence[int]
) -> Record:
    """One trajectory of a one- or two-step world, with the exact log-probabilities of student and teacher."""
    marks = [-1, *turns]
    bare = segment([0, *tokens], marks)
    exact = replace(bare, logprob_T=np.array([0.0, *logp]))
    starts = sorted(set(turns))
    made = tuple(Turn(s, "student", 0, 1 + turns.index(s), 1 + turns.index(s) + turns.count(s), "", "") for s in starts)
    trajectory = Trajectory(
        Key("run", 0, index), Task("E-v0", 0), ("student",), (exact,), made, Outcome(0.0, False, "terminated")
    )
    size, depth = len(tokens), len(made)
    annotation = Annotation(
        "teacher",
        np.zeros(size, np.int32),
        np.arange(1, size + 1, dtype=np.int32),
        Sampled(),
        np.array(logq),
        np.full(size, np.nan),
        np.full(depth, np.nan, np.float32),
        np.zeros(depth, np.bool_),
    )
    return Record(trajectory, (annotation,))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected_gradient(z: Tensor, t: Tensor, **estimator: Any) -> Tensor:
    """E[gradient] over y ~ p of a score function at one state."""
    p, q = z.log_softmax(-1), t.log_softmax(-1)
    records = [chain([y], [float(p[y])], [float(q[y])], y, [0]) for y in range(len(z))]
    ready = prepared(method(estimator={"kind": "score_function", **estimator}, weight=EXPECTATION), records)
    (batch,) = cut(ready, 10**6)
    leaf = z.clone().requires_grad_()
    out = loss(leaf.expand(len(z), -1), Head(torch.eye(len(z)).double()), {}, batch, 1.0, 3)
    return torch.autograd.grad(out.loss, leaf)[0]


def reverse_kl_gradient(z: Tensor, t: Tensor) -> Tensor:
    leaf = z.clone().requires_grad_()
    return torch.autograd.grad(divergence("reverse_kl", leaf, t), leaf)[0]


def test_the_expected_k1_score_function_gradient_is_that_of_the_reverse_kl() -> None:
    z, t = normal(0, 7), 1.5 * normal(1, 7)
    torch.testing.assert_close(expected_gradient(z, t), reverse_kl_gradient(z, t), atol=1e-13, rtol=0)


def test_the_expected_gradient_of_the_log_ratio_itself_is_zero() -> None:
    """k1 = log p - log q of the token taken, differentiated: q has no gradient, and what is left is that of log p."""
    z = normal(0, 7)
    p = z.log_softmax(-1)
    records = [chain([y], [float(p[y])], [0.0], y, [0]) for y in range(7)]
    (batch,) = cut(prepared(method(target={"kind": "taken"}, weight=EXPECTATION), records), 10**6)
    leaf = z.clone().requires_grad_()
    out = loss(leaf.expand(7, -1), Head(torch.eye(7).double()), {}, batch)
    assert torch.autograd.grad(out.loss, leaf)[0].abs().max() < 1e-15


def test_importance_ratios_have_that_expected_gradient_on_policy() -> None:
    z, t = normal(0, 7), 1.5 * normal(1, 7)
    for importance in ("ratio", "clipped"):
        found = expected_gradient(z, t, importance=importance)
        torch.testing.assert_close(found, reverse_kl_gradient(z, t), atol=1e-13, rtol=0)


def test_a_baseline_changes_no_expected_gradient() -> None:
    z, t = normal(0, 7), 1.5 * normal(1, 7)
    found = expected_gradient(z, t, baseline="batch_mean")
    torch.testing.assert_close(found, reverse_kl_gradient(z, t), atol=1e-13, rtol=0)


@pytest.mark.parametrize("turns", [[0, 0], [0, 1]])
def test_return_to_go_gives_the_gradient_of_the_sequences_reverse_kl(turns: list[int]) -> None:
    size = 4
    first, second = normal(2, size), normal(3, size, size)
    t_first, t_second = normal(4, size).log_softmax(-1), normal(5, size, size).log_softmax(-1)
    p1, p2 = first.log_softmax(-1), second.log_softmax(-1)
    pairs = [(i, j) for i in range(size) for j in range(size)]
    records = [
        chain([i, j], [float(p1[i]), float(p2[i, j])], [float(t_first[i]), float(t_second[i, j])], n, turns)
        for n, (i, j) in enumerate(pairs)
    ]
    logits = torch.cat([first[None], second]).requires_grad_()
    a, b = logits[0].log_softmax(-1), logits[1:].log_softmax(-1)
    joint, ratio = a[:, None] + b, (a - t_first)[:, None] + (b - t_second)
    expected = torch.autograd.grad((joint.exp() * ratio).sum(), logits)[0]

    def found(gamma: float) -> Tensor:
        estimator = {"kind": "score_function", "gamma": gamma}
        ready = prepared(method(estimator=estimator, weight=EXPECTATION), records)
        (batch,) = cut(ready, 10**6)
        states = [0 if r % 2 == 0 else 1 + pairs[r // 2][0] for r in batch.row_A.tolist()]
        out = loss(logits[states], Head(torch.eye(size).double()), {}, batch, 1.0, 5)
        return torch.autograd.grad(out.loss, logits)[0]

    torch.testing.assert_close(found(1.0), expected, atol=1e-13, rtol=0)
    local = found(0.0)
    assert (local - expected)[0].abs().max() > 0.01  # the surrogate misses what the first token does to the second
    torch.testing.assert_close(local[1:], expected[1:], atol=1e-13, rtol=0)


def test_clipped_ratio_by_hand() -> None:
    """MiniLLM-like: discounted return, whitened, clipped; PPO's ratio stops a gradient that went far enough."""
    old = float(np.log(0.25))
    records = [chain([y], [old], [old + a], y, [0]) for y, a in enumerate([1.0, -1.0, 1.0, -1.0])]
    ready = prepared(
        method(
            estimator={
                "kind": "score_function",
                "gamma": 0.95,
                "whitened": True,
                "clip": 100.0,
                "importance": "clipped",
            }
        ),
        records,
    )
    (batch,) = cut(ready, 100)
    order = batch.row_A.tolist()
    p = torch.tensor([0.31, 0.29, 0.25, 0.15]).double()  # ratios 1.24, 1.16, 1.0, 0.6
    hidden = p.log().repeat(4, 1).requires_grad_()
    out = loss(hidden, Head(torch.eye(4).double()), {}, batch)
    phi = dict(zip(order, out.signals["loss/surrogate"].tolist(), strict=True))
    assert phi == pytest.approx({0: -1.2, 1: 1.16, 2: -1.0, 3: 0.8})
    moved = torch.autograd.grad(out.loss, hidden)[0].abs().sum(-1)
    assert [bool(moved[order.index(row)]) for row in range(4)] == [False, True, True, False]


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.5), (0.5, 0.1)])
def test_the_ratio_has_two_limits(low: float, high: float) -> None:
    ratio = torch.tensor([0.4, 0.7, 1.3, 1.7]).double()
    settings: dict[str, Any] = {"importance": "clipped", "clip_low": low, "clip_high": high}
    for advantage in (2.0, -2.0):
        found = policy_gradient(ratio.log(), torch.full((4,), advantage).double(), torch.zeros(4).double(), **settings)
        clipped = [min(max(r, 1 - low), 1 + high) for r in ratio.tolist()]
        expected = [-min(r * advantage, c * advantage) for r, c in zip(ratio.tolist(), clipped, strict=True)]
        assert found.tolist() == pytest.approx(expected)


def test_invariant_3_score_function_has_no_advantage_where_teacher_equals_student() -> None:
    z = normal(0, 7)
    assert expected_gradient(z, z).abs().max() < 1e-15
