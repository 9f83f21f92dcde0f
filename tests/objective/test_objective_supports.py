"""Supports: full, top-k with a tail bucket from dense and sparse teachers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.supports import TeacherRows, full, top_k

KINDS = sorted(DIVERGENCES)
F_DIVERGENCES = sorted(DIVERGENCES.keys() - {"adaptive_kl", "power", "uld"})
"""Those that are sums of p f(q/p) by their value; ToDi is Jeffreys', alpha_beta(0.5, 0.5) is alpha(0.5)."""
OF = ["teacher", "student", "union"]


def logp(seed: int, rows: int = 4, size: int = 9, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)).log_softmax(-1)


def sparse(logq: Tensor, k: int) -> TeacherRows:
    top = logq.topk(k)
    return TeacherRows(None, top.indices, top.values, logq.scatter(1, top.indices, -torch.inf).logsumexp(-1))


@pytest.mark.parametrize("kind", F_DIVERGENCES)
@pytest.mark.parametrize("of", OF)
@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=25)
def test_top_k_with_tail_is_at_most_the_full_divergence_and_grows_with_k(kind: str, of: str, seed: int, k: int) -> None:
    p, q = logp(seed), logp(seed + 1)
    less, value = (DIVERGENCES[kind](*top_k(p, TeacherRows(q), k=n, of=of)) for n in (max(k - 1, 1), k))  # type: ignore[arg-type]
    whole = DIVERGENCES[kind](p, q)
    assert (less >= -1e-12).all()
    assert (value >= less * (1 - 1e-10) - 1e-10).all()
    assert (value <= whole * (1 + 1e-10) + 1e-10).all()
    if k == 9:
        torch.testing.assert_close(value, whole, atol=1e-12, rtol=1e-10)


def test_both_sides_sum_to_one_with_a_tail_or_normalised() -> None:
    p, q = logp(0), logp(1)
    for of in OF:
        for one in top_k(p, TeacherRows(q), k=3, of=of):  # type: ignore[arg-type]
            torch.testing.assert_close(one.logsumexp(-1), torch.zeros(4).double(), atol=1e-12, rtol=0)
        both = top_k(p, TeacherRows(q), k=3, of=of, tail=False, normalise_teacher=True, normalise_student=True)  # type: ignore[arg-type]
        for one in both:
            torch.testing.assert_close(one.logsumexp(-1), torch.zeros(4).double(), atol=1e-12, rtol=0)


def test_union_counts_a_shared_token_once() -> None:
    q = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).double().log()
    p = torch.tensor([[0.2, 0.6, 0.05, 0.15]]).double().log()
    student, teacher = (one.exp() for one in top_k(p, TeacherRows(q), k=2, of="union"))
    # teacher's best: 0, 1; student's best: 1, 0, both repeated; the tail holds the rest
    torch.testing.assert_close(student, torch.tensor([[0.2, 0.6, 0.0, 0.0, 0.2]]).double())
    torch.testing.assert_close(teacher, torch.tensor([[0.5, 0.3, 0.0, 0.0, 0.2]]).double())


def test_sparse_equals_dense() -> None:
    p, q = logp(0), logp(1)
    for k in (1, 3, 5):
        for here, there in zip(top_k(p, TeacherRows(q), k=k), top_k(p, sparse(q, 5), k=k), strict=True):
            torch.testing.assert_close(here, there, atol=1e-12, rtol=0)


def test_padding_of_a_sparse_block_changes_nothing() -> None:
    p, given_rows = logp(0), sparse(logp(1), 3)
    assert given_rows.ids_N_K is not None
    assert given_rows.logq_N_K is not None
    padded = TeacherRows(
        None,
        torch.cat([given_rows.ids_N_K, torch.full((4, 2), -1)], 1),
        torch.cat([given_rows.logq_N_K, torch.full((4, 2), torch.nan).double()], 1),
        given_rows.logtail_N,
    )
    for kind in KINDS:
        for k in (2, 4, 5):
            bare, more = (DIVERGENCES[kind](*top_k(p, rows, k=k)) for rows in (given_rows, padded))
            torch.testing.assert_close(bare, more, atol=1e-12, rtol=0)


def test_the_tail_of_a_sure_teacher_is_not_rounding() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0]])
    _, teacher = top_k(logits.log_softmax(-1), TeacherRows(logits.log_softmax(-1)), k=1)
    assert float(teacher[0, 1]) == pytest.approx(-30 + 0.6931, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_tail_is_finite(kind: str) -> None:
    z = (100 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0))).requires_grad_()
    for k in (1, 4, 9):
        value = DIVERGENCES[kind](*top_k(z.log_softmax(-1), TeacherRows(logp(1, 6).float()), k=k)).sum()
        assert torch.isfinite(torch.autograd.grad(value, z)[0]).all()


def test_what_a_teacher_cannot_give_is_refused() -> None:
    p, rows = logp(0), sparse(logp(1), 3)
    with pytest.raises(ValueError, match="'full' needs a teacher with hidden states"):
        full(p, rows)
    with pytest.raises(ValueError, match="top_k of 'union' needs a teacher with full distributions"):
        top_k(p, rows, k=2, of="union")
    with pytest.raises(ValueError, match="tail bucket already makes both sides sum to one"):
        top_k(p, rows, k=2, normalise_student=True)
