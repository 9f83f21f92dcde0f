"""Invariant 5 through a real model: how a global batch is cut changes neither loss nor gradient."""

from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import Saying, V, episode, method, record, teacher_heads
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from agentopd.objective import Batch, Head, Prepared, Rows, chunked, cut, loss, prepare
from agentopd.objective.live import live_columns
from agentopd.packing import Layout
from agentopd.settings.clock import Clock

HEADS = teacher_heads("dense", "sparse")
LAYOUTS: list[tuple[int, Layout, int]] = [
    (10**6, "padded", 1000),
    (30, "padded", 7),
    (1, "padded", 1),
    (40, "packed", 3),
    (10**6, "packed", 5),
]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    made: LlamaForCausalLM = LlamaForCausalLM(config).double().train()  # type: ignore[no-untyped-call]
    assert made.config._attn_implementation == "sdpa"
    for parameter in made.parameters():  # far from zero, so that logits differ and nothing hides
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def hidden_states(model: LlamaForCausalLM, ids: Tensor, positions: Tensor | None) -> Tensor:
    hidden: Tensor = model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    return hidden


def everything() -> tuple[dict[str, Any], list[Any]]:
    """Two teachers, one dense, one sparse and a judge too; corrections, skips, forks, a failure; several terms and weights."""
    gate = {"kind": "gate", "statistic": "teacher_entropy", "threshold": 1.0}
    terms = [
        {"name": "kl", "target": {"name": "dense"}, "divergence": {"kind": "jsd", "beta": 0.3}, "weight": ["teacher_entropy", "objective_cases:number_of_turn"], "rescale": True},
        {"name": "top", "target": {"name": "sparse"}, "support": {"kind": "top_k", "k": 3}, "weight": gate, "coefficient": 0.7},
        {"name": "union", "target": {"name": "dense"}, "divergence": "reverse_kl", "support": {"kind": "top_k", "k": 2, "of": "union"}, "where": {"actor": "student", "every": 2}},
        {"name": "pg", "target": {"name": "sparse"}, "weight": "uniform", "estimator": {"kind": "score_function", "gamma": 0.5, "turn_gamma": 0.9, "whitened": True, "importance": "clipped", "logprobs": "recomputed"}},
        {"name": "step", "target": {"kind": "reward", "name": "sparse"}, "estimator": {"kind": "score_function", "baseline": "group_mean", "importance": "ratio"}},
        {"name": "mend", "target": {"kind": "taken"}, "where": {"source": "corrected"}},
    ]  # fmt: skip
    coupling = {"kind": "advantage_sum", "reinforcement": 0.5}
    settings = {"terms": terms, "aggregate": "turn", "coupling": coupling, "sampler": {"per_task": 3}}
    records = []
    for i, turns in enumerate([[2, 3, 1], [1, 2], [4, 1, 1, 2], [3], [2, 2]]):
        dense = Saying("dense", skip=[1] if i % 2 else [], corrects={0: 2} if i < 2 else {}, on_corrected=i == 1)
        sparse = Saying(
            "sparse", "sparse", turns=[0, 1], rewards={0: 0.3 * i, len(turns) - 1: 1.0}, skip=[2] if i == 2 else []
        )
        trajectory = episode(turns, index=i, task=i % 2, reward=float(i), forks=[1] if i == 2 else [], failed=i == 4)
        records.append(record(trajectory, dense, sparse, heads=HEADS))
    return settings, records


def ready(model: LlamaForCausalLM, max_tokens: int = 50, layout: Layout = "padded") -> Prepared:
    settings, records = everything()
    rows = Rows.of(records)
    objective = method(**settings)
    assert objective.needs_live
    live = live_columns(
        rows, lambda ids, positions: hidden_states(model, ids, positions), head_of(model), max_tokens, layout, 1.3, 4
    )
    return prepare(objective, rows.with_live(live), Clock(3, 10))


def head_of(model: LlamaForCausalLM) -> Head:
    return Head(model.lm_head.weight)


def step(model: LlamaForCausalLM, batches: list[Batch], chunk_rows: int) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = 0.0
    for batch in batches:
        hidden_B_T_H = hidden_states(model, batch.input_ids_B_T, batch.position_ids_B_T)
        out = loss(hidden_B_T_H[batch.sample_A, batch.position_A], head_of(model), HEADS, batch, 1.3, chunk_rows)
        out.loss.backward()  # type: ignore[no-untyped-call]
        total += out.loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_invariant_5_cutting_changes_neither_loss_nor_gradient(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = ready(model)
    assert all(term.coef_A.any() for term in prepared.terms)
    failed = prepared.rows.trajectory_A == 4
    assert all(not term.coef_A[failed].any() for term in prepared.terms)
    cuts = [(cut(prepared, max_tokens, layout), chunk_rows) for max_tokens, layout, chunk_rows in LAYOUTS]
    sizes = [len(batches) for batches, _ in cuts]
    assert (sizes[0], sizes[-1]) == (1, 1)
    assert 1 < sizes[3] < sizes[2]
    assert 1 < sizes[1] < sizes[2]
    expected, gradients = step(model, *cuts[0])
    assert abs(expected) > 0.1
    assert len(gradients) == len(list(model.parameters()))
    tiles = (10**6, 2 * V, V, V, 3 * V)
    for (batches, chunk_rows), tile in zip(cuts[1:] + cuts[:1], tiles, strict=True):
        monkeypatch.setattr(chunked, "TILE", tile)
        found, others = step(model, batches, chunk_rows)
        assert found == pytest.approx(expected, abs=1e-9)
        for name, gradient in gradients.items():
            assert gradient.abs().max() > 1e-6
            torch.testing.assert_close(others[name], gradient, atol=1e-9, rtol=0)


def test_invariant_5_the_live_pass_does_not_depend_on_the_cut_either(model: LlamaForCausalLM) -> None:
    first = ready(model).rows.live
    assert first is not None
    trainable = ready(model).rows.trainable_A
    assert not np.isnan(first.logprob_A[trainable]).any()
    for max_tokens, layout in ((1, "padded"), (30, "packed")):
        again = ready(model, max_tokens, layout).rows.live  # type: ignore[arg-type]
        assert again is not None
        np.testing.assert_allclose(again.logprob_A, first.logprob_A, atol=1e-12)
        np.testing.assert_allclose(again.entropy_A, first.entropy_A, atol=1e-12)
