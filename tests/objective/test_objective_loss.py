"""The loss of a micro-batch: against full logits, its signals, its refusals, and the invariants."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import (
    H,
    Largest,
    Saying,
    Student,
    V,
    Waits,
    annotate,
    block_of,
    episode,
    method,
    prepared,
    record,
    teacher_heads,
)
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective import Head, Prepared, cut, divergence, loss
from agentopd.objective.divergences import DIVERGENCES
from agentopd.settings.clock import Clock
from agentopd.types import Dense, Record

HEADS = teacher_heads("teacher", "other")


def records_of(*sayings: Saying) -> list[Record]:
    turns = [[2, 3, 1], [1, 2], [4]]
    return [
        record(episode(t, index=i, reward=float(i)), *(sayings or (Saying(),)), heads=HEADS)
        for i, t in enumerate(turns)
    ]


def naive(student: Student, ready: Prepared, kind: str, **parameters: Any) -> Tensor:
    """sum(coef * divergence) from full logits, row by row."""
    (batch,) = cut(ready, 10**6)
    logits = student.head.logits(student.hidden(batch))
    (block,) = batch.blocks
    assert block.dense is not None
    value = divergence(kind, logits[block.row_N], HEADS[block.dense.head].logits(block.dense.hidden_N_H), **parameters)
    return (batch.terms[0].coef_A[block.row_N] * value).sum()


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
def test_analytic_loss_and_gradient_equal_full_logits(kind: str) -> None:
    student, ready = Student.new(), prepared(method(divergence=kind, aggregate="turn"), records_of())
    expected = naive(student, ready, kind)
    torch.testing.assert_close(student.loss(ready, HEADS).loss, expected, rtol=1e-12, atol=0)
    for found, other in zip(
        student.gradient(ready, HEADS), torch.autograd.grad(expected, student.parameters), strict=True
    ):
        torch.testing.assert_close(found, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "name", "start", "end"), [("forward_kl", "clip", 0.5, 0.05), ("alpha_beta", "beta", 0.0, 1.0)]
)
def test_a_setting_may_follow_a_schedule(kind: str, name: str, start: float, end: float) -> None:
    schedule = {"kind": "linear", "start": start, "end": end}
    student, objective = Student.new(), method(divergence={"kind": kind, name: schedule})
    for step, number in ((0, start), (9, end)):
        ready = prepared(objective, records_of(), Clock(step, 10))
        expected = naive(student, ready, kind, **{name: number})
        torch.testing.assert_close(student.loss(ready, HEADS).loss, expected, rtol=1e-12, atol=0)
        assert (expected - naive(student, ready, kind)).abs() > 1e-3


def test_taken_is_the_negative_log_likelihood() -> None:
    student, ready = Student.new(), prepared(method(target={"kind": "taken"}), records_of())
    (batch,) = cut(ready, 10**6)
    expected = torch.nn.functional.cross_entropy(student.head.logits(student.hidden(batch)), batch.token_A)
    torch.testing.assert_close(student.loss(ready, {}).loss, expected)


def test_temperature_is_the_same_for_both() -> None:
    student, ready = Student.new(), prepared(method(), records_of())
    (batch,) = cut(ready, 10**6)
    out = loss(student.hidden(batch), student.head, HEADS, batch, 2.0, 4)
    (block,) = batch.blocks
    assert block.dense is not None
    logits = student.head.logits(student.hidden(batch))
    expected = divergence("forward_kl", logits, HEADS["teacher"].logits(block.dense.hidden_N_H), temperature=2.0).mean()
    torch.testing.assert_close(out.loss, expected)


def test_parameters_by_row_work_inside_the_chunk() -> None:
    student, ready = Student.new(), prepared(method(divergence="jsd"), records_of(Saying(skip=[1])))
    shares = np.linspace(0.1, 0.9, len(ready.rows))
    (term,) = ready.terms
    by_row = replace(ready, terms=(replace(term, settings={**term.settings, "divergence": {"beta": shares}}),))
    found = student.loss(by_row, HEADS, max_tokens=8, chunk_rows=2).loss
    one_by_one = torch.zeros(()).double()
    for row in np.flatnonzero(term.coef_A):
        coef_A = np.where(np.arange(len(shares)) == row, term.coef_A, 0.0)
        settings = {**term.settings, "divergence": {"beta": float(shares[row])}}
        alone = replace(ready, terms=(replace(term, coef_A=coef_A, settings=settings),))
        one_by_one = one_by_one + student.loss(alone, HEADS).loss
    torch.testing.assert_close(found, one_by_one, rtol=1e-12, atol=0)


def test_signals_are_detached_and_mark_what_a_term_leaves_out() -> None:
    said = (Saying(turns=[0]), Saying("other", "sparse", turns=[1]))
    terms = [
        {"name": "full"},
        {"name": "some", "target": {"name": "other"}, "support": {"kind": "top_k", "k": 4}},
        {"name": "sft", "target": {"kind": "taken"}},
    ]
    student, ready = Student.new(), prepared(method(terms=terms), records_of(*said))
    (batch,) = cut(ready, 10**6)
    out = loss(student.hidden(batch), student.head, HEADS, batch, 1.0, 4)
    assert set(out.signals) == {
        "current_logprob",
        "student_entropy",
        "teacher_entropy/teacher",
        "full/divergence",
        "some/divergence",
        "sft/nll",
    }
    depth = ready.rows.turn_A[batch.row_A.numpy()]
    for name, turn in (("full/divergence", 0), ("some/divergence", 1), ("teacher_entropy/teacher", 0)):
        assert (~out.signals[name].isnan().numpy() == (depth == turn)).all()
    rows = batch.row_A.numpy()
    np.testing.assert_allclose(
        out.signals["teacher_entropy/teacher"][depth == 0], ready.rows.teachers["teacher"].entropy_A[rows][depth == 0]
    )
    torch.testing.assert_close(out.signals["sft/nll"], -out.signals["current_logprob"])
    assert not any(signal.requires_grad for signal in out.signals.values())
    coefficients = [batch.terms[i].coef_A for i in range(3)]
    phis = [out.signals[name].nan_to_num() for name in ("full/divergence", "some/divergence", "sft/nll")]
    torch.testing.assert_close(
        sum(((c * p).sum() for c, p in zip(coefficients, phis, strict=True)), torch.zeros(()).double()),
        out.loss.detach(),
    )


def test_no_full_logits_of_student_or_teachers() -> None:
    ready = prepared(
        method(terms=[{}, {"name": "k", "support": {"kind": "top_k", "k": 2}}]), [record(episode([150]), Saying())]
    )
    (batch,) = cut(ready, 1000)
    student = Student.new()
    hidden = student.hidden(batch).detach().requires_grad_()
    with Largest() as largest:
        loss(hidden, student.head, {"teacher": Head(torch.eye(V, H).double())}, batch, 1.0, 8).loss.backward()  # type: ignore[no-untyped-call]
    assert largest.size < 150 * V
    assert largest.size <= max(8 * (V + 1), 150 * H)


@pytest.mark.parametrize(("support", "each"), [("full", 1), ("top_k", 0)])
def test_no_chunk_waits_for_a_device_but_once_for_a_closed_form(support: str, each: int) -> None:
    said = (Saying(), Saying("other", "sparse"))
    terms = [
        {"support": support},
        {"name": "sparse", "target": {"name": "other"}, "support": {"kind": "top_k", "k": 4}},
    ]
    ready, counts = prepared(method(terms=terms), records_of(*said)), []
    (batch,) = cut(ready, 1000)
    student = Student.new()
    for chunk_rows in (1, 1000):
        with Waits() as waits:
            loss(student.hidden(batch), student.head, HEADS, batch, 1.0, chunk_rows)
        counts.append(waits.count)
    assert counts[0] - counts[1] == each * (len(batch.row_A) - 1)


# Invariants.


def test_invariant_2_only_trainable_tokens_receive_gradient_from_the_teacher() -> None:
    perturbed_rows = []

    def build(noise: float) -> tuple[Prepared, Tensor]:
        records = []
        for one in records_of(Saying(skip=[2]), Saying("other", rewards={0: 1.0})):
            segment_0, (first, second) = one.trajectory.segments[0], one.annotations
            segment_0.trainable_T[np.flatnonzero(segment_0.turn_T == 0)[1:]] = False
            free = ~segment_0.trainable_T[first.index_N] | first.skip_S[segment_0.turn_T[first.index_N]]
            assert isinstance(first.block, Dense)
            hidden_N_H = first.block.hidden_N_H + noise * torch.from_numpy(free)[:, None]
            changed = replace(
                first,
                block=Dense(hidden_N_H, "teacher"),
                taken_logprob_N=first.taken_logprob_N - noise * free,
                entropy_N=first.entropy_N + noise * free,
            )
            perturbed_rows.append(int(free.sum()))
            records.append(Record(one.trajectory, (changed, second)))
        terms = [
            {"name": "kl", "weight": "teacher_entropy", "rescale": True},
            {"name": "pg", "estimator": {"kind": "score_function", "gamma": 1.0, "whitened": True}},
            {"name": "step", "target": {"kind": "reward", "name": "other"}, "estimator": "score_function"},
        ]
        ready = prepared(method(terms=terms, aggregate="turn"), records)
        return ready, Student.new().loss(ready, HEADS, max_tokens=9).loss

    (ready, plain), (_, perturbed) = build(0.0), build(3.0)
    assert plain.item() == perturbed.item()
    assert sum(perturbed_rows) > 0
    trainable = ready.rows.trainable_A
    assert 0 < trainable.sum() < len(ready.rows)
    assert all(not term.coef_A[~trainable].any() for term in ready.terms)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize(
    "support",
    [
        "full",
        *({"kind": "top_k", "k": 3, "of": of} for of in ("teacher", "student", "union")),
        {"kind": "top_k", "k": 3, "tail": False, "normalise_teacher": True, "normalise_student": True},
        {"kind": "top_k", "k": 3, "sparse": True},
    ],
)
def test_invariant_3_teacher_equal_to_student_gives_zero_loss_and_gradient(kind: str, support: Any) -> None:
    sparse = isinstance(support, dict) and support.get("sparse", False)
    named = {k: v for k, v in support.items() if k != "sparse"} if isinstance(support, dict) else support
    student = Student.new()
    plain = prepared(method(target={"kind": "taken"}), records_of())
    (batch,) = cut(plain, 10**6)
    hidden_A_H = student.hidden(batch).detach()
    where = {int(row): a for a, row in enumerate(batch.row_A)}
    records, row = [], 0
    for one in records_of():
        (annotation,) = one.annotations
        mine = hidden_A_H[[where[row + n] for n in range(len(annotation.index_N))]]
        row += len(annotation.index_N)
        records.append(replace(one, annotations=(replace(annotation, block=_same_as(mine, student, sparse)),)))
    ready = prepared(method(divergence=kind, support=named), records)
    assert abs(student.loss(ready, {"self": student.head}).loss.item()) < 1e-13
    for gradient in student.gradient(ready, {"self": student.head}):
        assert gradient.abs().max() < 1e-13


def _same_as(hidden_N_H: Tensor, student: Student, sparse: bool) -> Any:
    logq = student.head.logits(hidden_N_H).detach().log_softmax(-1)
    return block_of("sparse" if sparse else "dense", "self", hidden_N_H, logq, 5)


def test_invariant_4_weights_of_one_reproduce_the_loss_exactly() -> None:
    student = Student.new()
    bare = prepared(method(aggregate="turn"), records_of())
    ones = prepared(method(aggregate="turn", weight=["uniform"], rescale=True), records_of())
    assert student.loss(bare, HEADS).loss.item() == student.loss(ones, HEADS).loss.item()


def test_one_trajectory_mixes_logits_step_reward_and_skip_turn_by_turn_from_two_teachers() -> None:
    """Turn 0: logits of both; turn 1: skipped by one, rewarded by the other; turn 2: sparse logits; turn 3: nothing."""
    said = (
        Saying(turns=[0, 1], skip=[1]),
        Saying(kind="sparse", turns=[2]),
        Saying("other", turns=[0], rewards={1: 2.0}, skip=[3]),
    )
    trajectory = episode([2, 1, 2, 1])
    terms = [
        {"name": "kl", "support": {"kind": "top_k", "k": 4}},
        {"name": "other", "target": {"name": "other"}, "divergence": "jsd", "coefficient": 0.5},
        {"name": "step", "target": {"kind": "reward", "name": "other"}, "estimator": "score_function"},
    ]
    ready = prepared(method(terms=terms), [record(trajectory, *said, heads=HEADS)])
    kl, other, step = ready.terms
    np.testing.assert_allclose(kl.coef_A, [1 / 4, 1 / 4, 0, 1 / 4, 1 / 4, 0])
    np.testing.assert_allclose(other.coef_A, [1 / 4, 1 / 4, 0, 0, 0, 0])
    np.testing.assert_allclose(step.coef_A, [1 / 5, 1 / 5, 1 / 5, 1 / 5, 1 / 5, 0])
    assert step.advantage_A.tolist() == [2.0, 2.0, 2.0, 0.0, 0.0, 0.0]
    student = Student.new()
    (batch,) = cut(ready, 100)
    out = student.loss(ready, HEADS)
    expected = sum(
        float((term.coef_A * out_phi.nan_to_num()).sum())
        for term, out_phi in zip(
            batch.terms,
            (
                loss(student.hidden(batch), student.head, HEADS, batch).signals[t]
                for t in ("kl/divergence", "other/divergence", "step/surrogate")
            ),
            strict=True,
        )
    )
    assert out.loss.item() == pytest.approx(expected)
    assert all(gradient.abs().max() > 0 for gradient in student.gradient(ready, HEADS))


def test_empty_terms_give_zero_loss_beside_others() -> None:
    terms = [{"name": "kl"}, {"name": "none", "where": {"tag": "nobody"}}]
    out = Student.new().loss(prepared(method(terms=terms), records_of()), HEADS)
    alone = Student.new().loss(prepared(method(), records_of()), HEADS)
    assert out.loss.item() == alone.loss.item()
    assert out.signals["none/divergence"].isnan().all()


def test_a_masked_token_outside_a_term_does_not_poison_it() -> None:
    ready = prepared(
        method(
            terms=[
                {"name": "kl", "where": {"max_turn": 0}},
                {"name": "sft", "target": {"kind": "taken"}, "where": {"min_turn": 1}},
            ]
        ),
        records_of(),
    )
    student, (batch,) = Student.new(), cut(ready, 10**6)
    head = Head(student.head.weight_V_H, torch.zeros(V).double())
    assert head.bias_V is not None
    outside = set(batch.token_A[batch.terms[0].coef_A != 0].tolist()) - set(
        batch.token_A[batch.terms[1].coef_A != 0].tolist()
    )
    head.bias_V[list(outside)] = -torch.inf
    hidden = student.hidden(batch).detach().requires_grad_()
    out = loss(hidden, head, HEADS, batch)
    assert torch.isfinite(out.loss)
    assert torch.isfinite(torch.autograd.grad(out.loss, hidden)[0]).all()


def test_bad_input_is_named() -> None:
    student, ready = Student.new(), prepared(method(), records_of())
    with pytest.raises(ValueError, match=r"used head 'teacher', which is not among \['other'\]"):
        student.loss(ready, {"other": HEADS["other"]})
    for size in (V - 1, V + 1):
        with pytest.raises(ValueError, match=f"vocabulary of teacher 'teacher' has {size} tokens, the student's {V}"):
            student.loss(ready, {"teacher": Head(torch.zeros(size, H).double())})
    sparse = prepared(method(support="top_k"), records_of(Saying(kind="sparse")))
    sparse.rows.records[0].annotations[0].block.ids_N_K[0, 0] = V  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=f"names token {V} and the student has {V}"):
        student.loss(sparse, HEADS)
    with pytest.raises(ValueError, match="'full' needs a teacher with hidden states"):
        student.loss(prepared(method(), records_of(Saying(kind="sparse"))), HEADS)
    with pytest.raises(ValueError, match=r"divergence\.kind=objective_cases:wrong_shape returned shape \(\)"):
        student.loss(prepared(method(divergence="objective_cases:wrong_shape"), records_of()), HEADS)


def test_a_top_k_narrower_than_asked_is_refused() -> None:
    """One annotation gives 3 tokens a row, the other 4; both are padded to 4 in a batch."""
    student = Student.new()
    given = [
        Record(one, (annotate(one, Saying(kind="sparse"), k=3 + i),))
        for i, one in enumerate((episode([2]), episode([1], index=1)))
    ]
    support = {"kind": "top_k", "k": 4}
    with pytest.raises(
        ConfigError,
        match=r"^objective\.support\.k=4: teacher 'teacher' gives its 3 likeliest tokens; set k to at most 3, or",
    ):
        student.loss(prepared(method(support=support), given), {})
    terms = [{"support": {**support, "k": 3}}, {"support": support}]
    with pytest.raises(ConfigError, match=r"^objective\.terms\.1\.support\.k=4: teacher"):
        student.loss(prepared(method(terms=terms), given), {})
    student.loss(prepared(method(support={**support, "k": 3}), given), {})
    everything = [Record(one.trajectory, (annotate(one.trajectory, Saying(kind="sparse"), k=V),)) for one in given]
    student.loss(prepared(method(support={**support, "k": V + 9}), everything), {})  # no more is left to give


def test_a_users_divergence_by_import_path() -> None:
    student, ready = (
        Student.new(),
        prepared(method(divergence={"kind": "objective_cases:squared_difference", "power": 3.0}), records_of()),
    )
    expected = naive(student, ready, "objective_cases:squared_difference", power=3.0)
    torch.testing.assert_close(student.loss(ready, HEADS).loss, expected)
