"""Supports: full, top-k with a tail bucket from dense and sparse teachers."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.supports import TeacherRows, full, top_k
from agentopd.types import Whose

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


def chosen(p: Tensor, q: Tensor, k: int, of: Whose) -> TeacherRows:
    """What a teacher says of the student's likeliest ids, or of those of both, by the definition, in plain loops."""
    rows: list[list[tuple[int, float]]] = []
    for p_V, q_V in zip(p.tolist(), q.tolist(), strict=True):
        ours, theirs = (sorted(range(len(one)), key=one.__getitem__, reverse=True)[:k] for one in (p_V, q_V))
        ids = ours if of == "student" else theirs + [-1 if i in theirs else i for i in ours]
        rows.append([(i, q_V[i] if i >= 0 else -torch.inf) for i in ids])
    ids_N_K = torch.tensor([[i for i, _ in row] for row in rows])
    logq_N_K = torch.tensor([[value for _, value in row] for row in rows], dtype=q.dtype)
    return TeacherRows(None, ids_N_K, logq_N_K, (1.0 - logq_N_K.exp().sum(-1)).clamp_min(1e-300).log(), of)


@pytest.mark.parametrize(("of", "ks"), [("student", (1, 3, 5)), ("union", (5,))])
def test_ids_of_the_student_or_of_both_equal_dense(of: Whose, ks: Sequence[int]) -> None:
    p, q = logp(0), logp(1)
    for k in ks:
        for here, there in zip(
            top_k(p, TeacherRows(q), k=k, of=of), top_k(p, chosen(p, q, 5, of), k=k, of=of), strict=True
        ):
            torch.testing.assert_close(here.exp(), there.exp(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("of", ["student", "union"])
@given(st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=25)
def test_on_them_a_student_that_is_its_teacher_has_no_loss_and_no_gradient(of: Whose, seed: int, k: int) -> None:
    z = (2.0 * torch.randn(4, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).requires_grad_()
    p = z.log_softmax(-1)
    for kind in ("forward_kl", "reverse_kl", "jsd"):
        value = DIVERGENCES[kind](*top_k(p, chosen(p.detach(), p.detach(), k, of), k=k, of=of))
        torch.testing.assert_close(value, torch.zeros(4).double(), atol=1e-9, rtol=0)
        [grad] = torch.autograd.grad(value.sum(), z, retain_graph=True)
        torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-9, rtol=0)


def test_ids_of_another_or_of_a_union_of_another_size_are_refused() -> None:
    p, q = logp(0), logp(1)
    with pytest.raises(
        ValueError, match=r"top_k of 'student' needs .* gives those of 'teacher' alone; set of: teacher$"
    ):
        top_k(p, sparse(q, 3), k=3, of="student")
    with pytest.raises(ValueError, match=r"gives those of 'student' alone; set of: student$"):
        top_k(p, chosen(p, q, 3, "student"), k=3)
    with pytest.raises(ValueError, match=r"'union' with k=2: this one is of 3 ids each; set k: 3$"):
        top_k(p, chosen(p, q, 3, "union"), k=2, of="union")
    top_k(p, chosen(p, q, 9, "union"), k=64, of="union")  # more than there are is all of them


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
