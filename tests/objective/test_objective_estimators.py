"""What each estimator optimises, by exact enumeration in float64; ratios, lengths and pairs by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from enumerated_cases import chain, expected_gradient, gradients, normal, of_divergence
from objective_cases import START, Saying, Student, episode, method, prepared, record, teacher_heads
from pydantic import ValidationError
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective import Head, LiveColumns, Rows, Taken, by_token, cut, loss, prepare
from agentopd.objective.estimators import k2, k3
from agentopd.objective.rewards import REWARDS, expected_reward
from agentopd.types import Record

Z, T = normal(0, 7), 1.5 * normal(1, 7)
P, Q = Z.log_softmax(-1), T.log_softmax(-1)
SCORE = {"kind": "score_function"}
GEOMETRIC = {"kind": "geometric"}


@pytest.mark.parametrize(("kind", "optimised"), [("k2", "reverse_kl"), ("k3", "forward_kl")])
def test_the_expected_gradient_of_k2_is_that_of_the_reverse_kl_and_of_k3_that_of_the_forward_kl(
    kind: str, optimised: str
) -> None:
    torch.testing.assert_close(expected_gradient(Z, T, kind=kind), of_divergence(optimised, Z, T), atol=1e-13, rtol=0)
    assert expected_gradient(Z, Z, kind=kind).abs().max() < 1e-15


def test_the_value_of_k3_is_unbiased_and_that_of_k2_is_not() -> None:
    reverse = (P.exp() * (P - Q)).sum()
    torch.testing.assert_close((P.exp() * k3(Taken(P, Q))).sum(), reverse)
    torch.testing.assert_close((P.exp() * k2(Taken(P, Q))).sum(), 0.5 * (P.exp() * (P - Q) ** 2).sum())
    assert (P.exp() * k2(Taken(P, Q))).sum() > reverse + 0.1


def test_a_clipped_log_ratio_has_no_gradient_beyond() -> None:
    logp = torch.tensor([-1.0, -9.0]).double().requires_grad_()
    taken = Taken(logp, torch.tensor([-2.0, -2.0]).double())
    value = k3(taken, clip=3.0)
    assert value.tolist() == pytest.approx([np.exp(-1.0), np.exp(3.0) - 4.0])
    assert torch.autograd.grad(value.sum(), logp)[0].tolist() == pytest.approx([1.0 - np.exp(-1.0), 0.0])
    assert torch.autograd.grad(k2(taken, clip=3.0).sum(), logp)[0].tolist() == pytest.approx([1.0, 0.0])


def test_a_row_that_is_left_out_cannot_spoil_the_others() -> None:
    """Nobody says how likely its token is to the teacher, and k3's exponential overflows on the 0 that stands there."""
    records = [chain([0], [-1.0], [-2.0], 0, [0]), chain([1], [-900.0], [np.nan], 1, [0], source="other")]
    terms = [{"estimator": "k3", "where": {"source": "fresh"}}, {"target": {"kind": "taken"}}]
    (batch,) = cut(prepared(method(terms=terms, sources={"fresh": {}, "other": {}}), records), 99)
    hidden = torch.tensor([[-1.0, -900.0]]).repeat(2, 1).requires_grad_()
    out = loss(hidden, Head(torch.eye(2)), {}, batch)
    assert torch.autograd.grad(out.loss, hidden)[0].isfinite().all()


@by_token
def hinge(taken: Taken, *, margin: float = 1.0) -> Tensor:
    """A user's estimator of the token taken."""
    return (taken.logq_N - taken.logp_N + margin).relu()


@by_token
def detached(taken: Taken) -> Tensor:
    return taken.logp_N.detach()


def test_an_estimator_of_ones_own_may_be_by_token() -> None:
    found = gradients(Z, T, {"kind": "test_objective_estimators:hinge", "margin": 0.5})
    leaf = Z.repeat(7, 1).requires_grad_()
    logp = leaf.log_softmax(-1).diagonal()
    expected = torch.autograd.grad((P.exp() * (Q - logp + 0.5).relu()).sum(), leaf)[0]
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    with pytest.raises(
        ConfigError, match=r"objective\.estimator\.kind=.*:detached returned a tensor without a gradient"
    ):
        gradients(Z, T, {"kind": "test_objective_estimators:detached"})


def test_numbers_that_are_not_finite_are_refused() -> None:
    rows = Rows.of([record(episode([2]), Saying())])
    rows.teachers["teacher"].taken_logprob_A[1] = np.nan
    for kind in ("k2", "k3", "score_function"):
        with pytest.raises(
            ConfigError, match=r"finite log-probabilities of the taken tokens.*1 of 2 rows have none; leave"
        ):
            prepare(method(estimator=kind), rows, START)


# The reward of a score function


def power_divergence(logp: Tensor, logq: Tensor, alpha: float) -> Tensor:
    p, q = logp.exp(), logq.exp()
    return (p ** (1 + alpha) / (alpha * (1 + alpha)) - p * q**alpha / alpha + q ** (1 + alpha) / (1 + alpha)).sum(-1)


def test_the_power_reward_by_its_divergence_and_its_limit() -> None:
    leaf = Z.clone().requires_grad_()
    for alpha in (0.3, 5.0):
        divergence = {"kind": "power", "alpha": alpha}
        found = gradients(Z, T, SCORE, divergence=divergence).sum(0)
        expected = torch.autograd.grad(power_divergence(leaf.log_softmax(-1), Q, alpha), leaf)[0]
        torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
        reward = REWARDS["power"](P, Q, alpha=alpha)
        torch.testing.assert_close(reward, (Q.exp() ** alpha - P.exp() ** alpha) / alpha)
        assert reward.abs().max() <= 1 / alpha
    for near in (1e-7, 0.0, torch.zeros(7).double()):
        torch.testing.assert_close(REWARDS["power"](P, Q, alpha=near), Q - P, atol=1e-4, rtol=0)


def test_the_value_baseline_keeps_the_mean_and_lowers_the_variance() -> None:
    torch.testing.assert_close(expected_reward("reverse_kl", {}, P, Q), -(P.exp() * (P - Q)).sum())
    for divergence in ({"kind": "reverse_kl"}, {"kind": "power", "alpha": 0.5}):
        plain, centred = (
            gradients(Z, T, {**SCORE, "baseline": baseline}, divergence=divergence) for baseline in ("none", "value")
        )
        torch.testing.assert_close(centred.sum(0), plain.sum(0), atol=1e-13, rtol=0)
        spread = [(one / P.exp()[:, None] - one.sum(0)).square().sum(1) @ P.exp() for one in (centred, plain)]
        assert spread[0] < 0.97 * spread[1]


def test_the_value_baseline_by_hand() -> None:
    p, q = P.exp(), Q.exp()
    found = gradients(Z, T, {**SCORE, "baseline": "value", "importance": "ratio"})
    advantage = (Q - P) + (p * (P - Q)).sum()
    expected = -(p * advantage)[:, None] * (torch.eye(7).double() - p)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    assert q.sum() == pytest.approx(1.0)


def test_the_value_baseline_needs_a_whole_distribution() -> None:
    head = Head(torch.randn(11, 6).double())
    student = torch.randn(2, 6).double().requires_grad_()
    for kind, message in (
        ("sparse", "it is a mean over the full distribution, and teacher 'teacher' gives only its top-k"),
        ("sampled", "without baseline: value"),
    ):
        ready = prepared(method(estimator={**SCORE, "baseline": "value"}), [record(episode([2]), Saying(kind=kind))])
        with pytest.raises(ConfigError, match=message):
            loss(student, head, {}, cut(ready, 99)[0])


# Who sampled


@pytest.mark.parametrize(
    ("rule", "weight"),
    [
        ({"cap": 1.5}, [0.8, 1.5, 1.5, 0.25]),
        ({}, [0.8, 1.5, 2.0, 0.25]),
        ({"rule": "masked"}, [0.8, 1.5, 4.0, 0.0]),
        ({"rule": "masked", "low": 0.2, "high": 2.0}, [0.8, 1.5, 0.0, 0.25]),
    ],
)
def test_what_another_engine_sampled_is_weighed_by_a_detached_ratio(rule: dict[str, Any], weight: list[float]) -> None:
    """Truncated importance sampling and IcePop by hand: r = p / mu is 0.8, 1.5, 4 and 0.25."""
    p = torch.tensor([0.2, 0.3, 0.4, 0.1], dtype=torch.float64)
    behaviour = torch.tensor([0.25, 0.2, 0.1, 0.4], dtype=torch.float64)
    records = [chain([y], [float(behaviour[y].log())], [float(behaviour[y].log()) + y + 1], y, [0]) for y in range(4)]
    rows = Rows.of(records).with_live(LiveColumns(p.log().numpy(), np.zeros(4)))
    objective = method(estimator=SCORE, weight={"kind": "importance", **rule})
    (batch,) = cut(prepare(objective, rows, START), 99)
    leaf = p.log().repeat(4, 1).requires_grad_()
    found = torch.autograd.grad(loss(leaf[batch.row_A], Head(torch.eye(4).double()), {}, batch).loss, leaf)[0]
    advantage = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = -0.25 * (torch.tensor(weight, dtype=torch.float64) * advantage)[:, None] * (torch.eye(4).double() - p)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)


def test_the_weights_ratio_is_to_the_behaviour_whatever_the_advantage_takes() -> None:
    rows = Rows.of([record(episode([2]), Saying())]).with_live(LiveColumns(np.array([-0.5, -0.25]), np.zeros(2)))
    estimator = {**SCORE, "logprobs": "recomputed", "importance": "clipped"}
    (term,) = prepare(method(estimator=estimator, weight={"kind": "importance", "cap": 1e9}), rows, START).terms
    np.testing.assert_allclose(term.old_A, rows.live.logprob_A)
    np.testing.assert_allclose(term.advantage_A, rows.teachers["teacher"].taken_logprob_A - rows.live.logprob_A)
    np.testing.assert_allclose(term.weight_A, np.exp(rows.live.logprob_A - rows.logprob_A))


def surrogate(scored: Any, *, importance: str = "truncated") -> Any:
    """A user's estimator that asks for a ratio which there is not."""
    return scored.reward_A


def test_an_estimator_of_ones_own_cannot_name_a_surrogate_that_there_is_not() -> None:
    ready = prepared(method(estimator="test_objective_estimators:surrogate"), [record(episode([2]), Saying())])
    with pytest.raises(
        ConfigError, match=r"importance=truncated: there is none of that name; use one of none, ratio, c"
    ):
        Student.new().loss(ready, {})


# Returns


def test_a_return_is_divided_by_the_rewarded_tokens_that_are_left() -> None:
    records = [record(episode([2, 1], reward=3.0)), record(episode([1], index=1, reward=-1.0))]
    objective = method(target={"kind": "reward"}, estimator={**SCORE, "length_normalised": True})
    assert prepared(objective, records).terms[0].advantage_A.tolist() == [1.0, 1.5, 3.0, -1.0]
    mixed = Rows.of([record(episode([1, 1, 2], acted_by={1: "expert"}), Saying())])
    (term,) = prepare(method(estimator={**SCORE, "gamma": 1.0, "length_normalised": True}), mixed, START).terms
    ratio = mixed.teachers["teacher"].taken_logprob_A - mixed.logprob_A
    expected = [(ratio[0] + ratio[2] + ratio[3]) / 3, 0.0, (ratio[2] + ratio[3]) / 2, ratio[3]]
    np.testing.assert_allclose(term.advantage_A, expected)


def test_the_reward_of_a_token_is_clipped_before_it_is_summed() -> None:
    records = [chain([0, 1, 2], [-1.0] * 3, [4.0, -1.5, -9.0], 0, [0, 0, 0])]
    objective = method(estimator={**SCORE, "gamma": 1.0, "reward_clip": 2.0})
    assert prepared(objective, records).terms[0].advantage_A.tolist() == pytest.approx([-0.5, -2.5, -2.0])


# Pairs


def paired(logits: Tensor, old: Tensor, plan: list[tuple[str, int, int, int]]) -> tuple[list[Record], Tensor]:
    """Episodes of two tokens, the second after the first, and log p of each: (source, task, first, second)."""
    a, b = logits[0].log_softmax(-1), logits[1:].log_softmax(-1)
    a_old, b_old = old[0].log_softmax(-1), old[1:].log_softmax(-1)
    records = [
        chain([i, j], [-1.0, -1.0], [float(a_old[i]), float(b_old[i, j])], n, [0, 0], source=source, task=task)
        for n, (source, task, i, j) in enumerate(plan)
    ]
    return records, torch.stack([a[i] + b[i, j] - a_old[i] - b_old[i, j] for _, _, i, j in plan])


def test_pairs_have_the_gradient_of_the_pairwise_loss() -> None:
    size, beta = 4, 0.7
    logits, old = normal(2, 1 + size, size).requires_grad_(), normal(3, 1 + size, size)
    plan = [
        ("shown", 0, 1, 2), ("own", 0, 3, 0), ("own", 1, 2, 2), ("shown", 1, 0, 1), ("own", 0, 1, 1),
        ("shown", 0, 2, 3), ("own", 0, 0, 0), ("shown", 2, 3, 3),
    ]  # fmt: skip
    records, moved = paired(logits, old, plan)
    pairs = [(0, 1), (5, 4), (3, 2)]  # the fourth of task 0 has no other, nor has task 2
    losses = [-torch.nn.functional.logsigmoid(beta * (moved[c] - moved[r])) for c, r in pairs]
    expected = torch.autograd.grad(torch.stack(losses).sum() / len(plan), logits, retain_graph=True)[0]

    rows = Rows.of(records)
    states = torch.tensor([0 if n % 2 == 0 else 1 + plan[n // 2][2] for n in range(2 * len(plan))])
    logp = logits[states].log_softmax(-1).detach()[torch.arange(len(rows)), torch.from_numpy(rows.token_A)]
    objective = method(
        sources={"own": {}, "shown": {}},
        estimator={"kind": "pair_logit", "chosen": "shown", "beta": beta},
        aggregate="sum",
    )
    assert objective.needs_live
    ready = prepare(objective, rows.with_live(LiveColumns(logp.numpy(), np.zeros(len(rows)))), START)
    total = torch.zeros(()).double()
    for batch in cut(ready, 6):
        total = total + loss(logits[states[batch.row_A]], Head(torch.eye(size).double()), {}, batch, 1.0, 3).loss
    torch.testing.assert_close(torch.autograd.grad(total, logits)[0], expected, atol=1e-13, rtol=0)
    left = ready.terms[0].advantage_A.reshape(-1, 2)[[6, 7]]
    assert not left.any()


def test_an_actors_episodes_may_be_the_chosen_ones() -> None:
    records = [record(episode([2], index=0, acted_by={0: "expert"}), Saying()), record(episode([1], index=1), Saying())]
    estimator = {"kind": "pair_logit", "chosen": "expert", "beta": 2.0, "logprobs": "behaviour"}
    objective = method(sampler={"actors": {"student": 1, "expert": 1}, "per_task": 2}, where={}, estimator=estimator)
    rows = Rows.of(records)
    moved = rows.logprob_A - rows.teachers["teacher"].taken_logprob_A
    slope = 2.0 / (1.0 + np.exp(2.0 * (moved[:2].sum() - moved[2])))
    np.testing.assert_allclose(prepare(objective, rows, START).terms[0].advantage_A, [slope, slope, -slope])


# Cut


@pytest.mark.parametrize(
    "estimator",
    [
        {"kind": "k2"},
        {"kind": "k3", "clip": 2.0},
        {**SCORE, "baseline": "value", "importance": "ratio"},
        {**SCORE, "gamma": 1.0, "length_normalised": True, "importance": "clipped"},
        {"kind": "pair_logit", "chosen": "shown", "logprobs": "behaviour"},
    ],
)
def test_invariant_5_no_estimator_depends_on_the_cut(estimator: dict[str, Any]) -> None:
    heads, student = teacher_heads("teacher"), Student.new()
    sources = ["own", "shown", "own", "own"]
    records = [
        record(episode([2, 3][: 1 + i % 2], index=i, source=source), Saying(skip=[i % 2]), Saying("other"), heads=heads)
        for i, source in enumerate(sources)
    ]
    objective = method(terms=[{"estimator": estimator}, {"divergence": "jsd"}], sources={"own": {}, "shown": {}})
    ready = prepared(objective, records)
    whole = student.gradient(ready, heads)
    pieces = torch.autograd.grad(student.loss(ready, heads, max_tokens=1, chunk_rows=2).loss, student.parameters)
    for one, other in zip(whole, pieces, strict=True):
        assert one.abs().max() > 1e-6
        torch.testing.assert_close(one, other)


# Refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"estimator": "k1"},
            r"estimator\n.*estimator 'k1': .*its expected gradient is zero; set estimator: .*or \{kind: k2\}",
        ),
        ({"estimator": {"kind": "k1"}}, "carries no teacher signal"),
        (
            {"estimator": "k2", "support": "full"},
            "the divergence is reverse_kl on support sampled, got 'reverse_kl' on 'full'",
        ),
        ({"estimator": "k3", "divergence": "reverse_kl"}, "the divergence is forward_kl on support sampled"),
        ({"estimator": "k2", "target": {"kind": "reward"}}, "target 'reward' has no distribution"),
        ({"estimator": "k2", "target": {"kind": "taken"}}, "target 'taken' is supervised"),
        ({"estimator": "k2", "where": {"source": "corrected"}}, "corrected actions, so estimator 'k2' cannot learn"),
        ({"estimator": {**SCORE, "baseline": "value", "gamma": 1.0}}, "baseline 'value' .*; set gamma: 0 and target"),
        ({"estimator": {**SCORE, "baseline": "value"}, "target": {"kind": "reward"}}, "baseline 'value' is the mean"),
        (
            {"estimator": {**SCORE, "baseline": "value", "whitened": True, "clip": 1.0}},
            "leave out whitened, clip, or set",
        ),
        ({"estimator": {**SCORE, "baseline": "value"}, "support": "full"}, "gradient is zero; set support"),
        (
            {
                "estimator": {**SCORE, "baseline": "group_mean", "gamma": 1.0, "length_normalised": True},
                "sampler": {"per_task": 2},
            },
            "leave out length_normalised",
        ),
        ({"coupling": {"kind": "advantage_sum", "baseline": "value"}}, "baseline: Input should be 'none'"),
        ({"estimator": {**SCORE, "importance": "masked"}}, "importance: Input should be 'none', 'ratio' or 'clipped'"),
        ({"estimator": "pair_logit"}, "chosen: missing"),
        (
            {"estimator": {"kind": "pair_logit", "chosen": "shwn"}, "sources": {"own": {}, "shown": {}}},
            r"estimator\.chosen=shwn: no source or actor is called that \(did you mean 'shown'\?\); there are: own, shown, student",
        ),
        (
            {"estimator": {"kind": "pair_logit", "chosen": "fresh"}, "target": {"kind": "reward"}},
            "estimator 'pair_logit' compares the student's probability of a token with a teacher's own",
        ),
        ({"estimator": "k2", "target": GEOMETRIC}, "'k2' compares .* a teacher's own; set target: .kind: distribution"),
        ({"estimator": SCORE, "target": GEOMETRIC, "divergence": "power"}, "the divergence is reverse_kl on support"),
        (
            {"estimator": {**SCORE, "baseline": "value"}, "target": GEOMETRIC},
            "baseline 'value' is the mean of a teacher's",
        ),
        ({"estimator": {"kind": "k2", "clip": 0.0}}, "clip: Input should be greater than 0"),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        method(**given)
