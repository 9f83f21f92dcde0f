"""A sparse block that names all of the vocabulary is the whole distribution, whatever made it."""

from typing import Any

import pytest
import torch
from objective_cases import Saying, Student, V, annotate, episode, method, prepared, teacher_heads

from agentopd.types import Record

HEADS = teacher_heads("teacher")
EPISODES = [episode([2, 3]), episode([1, 2], index=1)]


def records_of(kind: str) -> list[Record]:
    return [Record(one, (annotate(one, Saying(kind=kind), HEADS, k=V),)) for one in EPISODES]


@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": kind, "support": support}
        for kind in ("forward_kl", "reverse_kl", {"kind": "jsd", "beta": 0.3}, "total_variation")
        for support in ("full", {"kind": "top_k", "k": 3, "of": "student"}, {"kind": "top_k", "k": 3, "of": "union"})
    ]
    + [
        {"temperature": 2.0},
        {"target": {"kind": "geometric", "beta": 0.3}},
        {"estimator": {"kind": "score_function", "baseline": "value"}},
    ],
    ids=str,
)
def test_it_has_the_loss_and_the_gradient_of_a_dense_one(settings: dict[str, Any]) -> None:
    found = []
    for kind in ("dense", "sparse"):
        student = Student.new()
        loss = student.loss(prepared(method(**settings), records_of(kind)), HEADS).loss
        found.append((loss, *torch.autograd.grad(loss, student.parameters)))
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-10)
