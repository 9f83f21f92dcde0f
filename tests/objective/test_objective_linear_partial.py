"""``sparse_linear_divergence`` and ``sampled_linear_divergence``, against formulas on full logits in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from agentopd.objective import linear_divergence, sampled_linear_divergence, sparse_linear_divergence
from agentopd.objective.divergences import DIVERGENCES

A, V, H, K = 9, 13, 5, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 100 * seed), dtype=torch.float64)


HIDDEN, WEIGHT, STATES, TEACHER = normal(A, H), normal(V, H), normal(A, 4), normal(V, 4)
LOGQ = (STATES @ TEACHER.T).log_softmax(-1)
TOKENS = torch.arange(A) % V
TAUGHT = LOGQ[torch.arange(A), TOKENS]


def top(k: int = K) -> tuple[Tensor, Tensor, Tensor]:
    logq, ids = LOGQ.topk(k)
    return ids, logq, LOGQ.scatter(1, ids, -torch.inf).logsumexp(-1)


def leaf() -> Tensor:
    return HIDDEN.clone().requires_grad_()


def gradient(loss: Tensor, hidden: Tensor) -> Tensor:
    return torch.autograd.grad(loss, hidden)[0]


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
def test_all_tokens_of_a_teacher_are_its_whole_distribution(kind: str) -> None:
    ids, logq, _ = top(V)
    hidden = leaf()
    sparse = sparse_linear_divergence(hidden, WEIGHT, ids, logq, torch.full((A,), -torch.inf), kind=kind, chunk_rows=4)
    dense = linear_divergence(hidden, WEIGHT, STATES, TEACHER, kind=kind)
    torch.testing.assert_close(sparse.divergence, dense.divergence)
    torch.testing.assert_close(sparse.teacher_entropy, dense.teacher_entropy)
    torch.testing.assert_close(gradient(sparse.loss, hidden), gradient(dense.loss, hidden))


def test_the_bucket_holds_everything_else() -> None:
    hidden, (ids, logq, logtail) = leaf(), top()
    out = sparse_linear_divergence(hidden, WEIGHT, ids.int(), logq, logtail, kind="reverse_kl", k=2, chunk_rows=4)
    p, q = (hidden @ WEIGHT.T).softmax(-1), LOGQ.exp()
    p2, q2 = (torch.cat([x.gather(1, ids[:, :2]), 1 - x.gather(1, ids[:, :2]).sum(1, True)], 1) for x in (p, q))
    expected = (p2 * (p2 / q2).log()).sum(-1)
    torch.testing.assert_close(out.divergence, expected.detach())
    torch.testing.assert_close(gradient(out.loss, hidden), gradient(expected.mean(), hidden))
    torch.testing.assert_close(out.teacher_entropy, torch.special.entr(q2).sum(-1))


def test_without_the_bucket_both_sides_may_be_normalised() -> None:
    ids, logq, logtail = top()
    out = sparse_linear_divergence(
        HIDDEN, WEIGHT, ids, logq, logtail, tail=False, normalise_teacher=True, normalise_student=True
    )
    p, q = ((x.gather(1, ids)).log_softmax(-1) for x in ((HIDDEN @ WEIGHT.T).log_softmax(-1), LOGQ))
    torch.testing.assert_close(out.divergence, (q.exp() * (q - p)).sum(-1))


def test_padding_counts_for_nothing_and_tokens_outside_are_unknown() -> None:
    ids, logq, logtail = top()
    wider = torch.cat([ids, torch.full((A, 2), -1)], 1), torch.cat([logq, torch.full((A, 2), torch.nan)], 1)
    out = sparse_linear_divergence(HIDDEN, WEIGHT, *wider, logtail, tokens=TOKENS)
    torch.testing.assert_close(out.divergence, sparse_linear_divergence(HIDDEN, WEIGHT, ids, logq, logtail).divergence)
    named = (ids == TOKENS[:, None]).any(1)
    assert 0 < int(named.sum()) < A
    assert out.teacher_logprob is not None
    torch.testing.assert_close(out.teacher_logprob, TAUGHT.where(named, torch.nan), equal_nan=True)
    assert out.student_logprob is not None
    torch.testing.assert_close(out.student_logprob, (HIDDEN @ WEIGHT.T).log_softmax(-1)[torch.arange(A), TOKENS])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.tensor([[0, 1, 2, 1]] * A)}, r"ids\[0\] names token 1 twice"),
        ({"k": 5}, "k=5: the teacher gives 4 tokens a row; set k from 1 to that"),
        ({"k": 0}, "k=0: the teacher gives 4"),
        ({"ids": torch.full((A, K), V)}, "from 13 to 13 in a vocabulary of 13"),
        ({"ids": torch.zeros(A, K)}, "ids are torch.float32"),
        ({"ids": torch.zeros(A, 3).long()}, r"ids is \(9, 3\) and logprobs \(9, 4\)"),
        ({"logprobs": LOGQ.topk(K).values.exp()}, r"logprobs\[0, 0\] is 0\.\d+; give logarithms"),
        ({"logtail": torch.zeros(A, 1)}, r"logtail is \(9, 1\) for 9 rows"),
        ({"logtail": torch.full((A,), torch.nan)}, r"logtail\[0\] is nan"),
        ({"normalise_teacher": True}, "set tail: false to normalise instead"),
        ({"kind": "klx"}, "no divergence is called 'klx'"),
        ({"weights": torch.zeros(A)}, "weights are all 0"),
    ],
)
def test_bad_sparse_input_is_named(changes: dict[str, Any], message: str) -> None:
    ids, logq, logtail = top()
    given: dict[str, Any] = {"ids": ids, "logprobs": logq, "logtail": logtail} | changes
    with pytest.raises(ValueError, match=message):
        sparse_linear_divergence(HIDDEN, WEIGHT, **given)


def test_the_estimators_by_hand() -> None:
    even = torch.zeros(1, 1).double(), torch.zeros(2, 1).double(), torch.tensor([0])  # p = 1/2
    quarter = torch.tensor([math.log(0.25)]).double()  # log p - log q = log 2
    expected = {"k2": math.log(2) ** 2 / 2, "k3": 0.5 - 1 + math.log(2), "score_function": -math.log(2) * math.log(2)}
    for estimator, value in expected.items():
        out = sampled_linear_divergence(*even, quarter, estimator=estimator)  # type: ignore[arg-type]
        assert float(out.divergence) == pytest.approx(value)
        assert out.student_logprob is not None
        assert float(out.student_logprob.exp()) == pytest.approx(0.5)
        assert out.teacher_entropy.isnan().all()


@pytest.mark.parametrize(
    ("estimator", "kind"), [("k2", "reverse_kl"), ("k3", "forward_kl"), ("score_function", "reverse_kl")]
)
def test_the_expected_gradient(estimator: Any, kind: str) -> None:
    """All tokens of one state, weighed with their probability: METHODS' k2 gives the reverse KL, k3 the forward KL."""
    hidden = HIDDEN[:1].clone().requires_grad_()
    p = (HIDDEN[:1] @ WEIGHT.T).softmax(-1)[0]
    out = sampled_linear_divergence(
        hidden.expand(V, H), WEIGHT, torch.arange(V), LOGQ[0], estimator=estimator, weights=p, chunk_rows=4
    )
    exact = linear_divergence(hidden, WEIGHT, STATES[:1], TEACHER, kind=kind)
    torch.testing.assert_close(gradient(out.loss, hidden), gradient(exact.loss, hidden))


def test_a_given_advantage_and_a_clipped_ratio() -> None:
    hidden, advantage = leaf(), torch.linspace(-1, 1, A).double()
    logp = (hidden @ WEIGHT.T).log_softmax(-1)[torch.arange(A), TOKENS]
    old = (logp + torch.linspace(-0.5, 0.5, A)).detach()
    out = sampled_linear_divergence(
        hidden, WEIGHT, TOKENS, estimator="score_function", advantage=advantage, old_logprob=old, importance="clipped"
    )
    ratio = (logp - old).exp()
    expected = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    torch.testing.assert_close(out.divergence, expected.detach())
    torch.testing.assert_close(gradient(out.loss, hidden), gradient(expected.mean(), hidden))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "k1"}, "estimator='k1': there is none of that name; use one of k2, k3, score_function"),
        ({"teacher_logprob": None}, "teacher_logprob is missing for 9 rows"),
        ({"teacher_logprob": TAUGHT[:3]}, r"teacher_logprob is of shape \(3,\) for 9 rows"),
        ({"teacher_logprob": TAUGHT / 0}, r"teacher_logprob\[0\] is -inf; give finite numbers"),
        ({"advantage": TAUGHT}, "estimator='k2' reads no advantage and no importance"),
        ({"estimator": "score_function", "importance": "ratio"}, "old_logprob is missing"),
        (
            {"estimator": "score_function", "importance": "masked", "old_logprob": TAUGHT},
            "importance=masked: there is none of that name; use one of none, ratio, clipped, and for",
        ),
        ({"tokens": TOKENS - 1}, "run from -1 to 7"),
    ],
)
def test_bad_sampled_input_is_named(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"tokens": TOKENS, "teacher_logprob": TAUGHT} | changes
    with pytest.raises(ValueError, match=message):
        sampled_linear_divergence(HIDDEN, WEIGHT, **given)


def test_no_rows_give_a_zero_that_can_be_differentiated() -> None:
    hidden = torch.zeros(0, H).double().requires_grad_()
    nothing = torch.zeros(0).double()
    for out in (
        sampled_linear_divergence(hidden, WEIGHT, torch.zeros(0).long(), nothing),
        sparse_linear_divergence(hidden, WEIGHT, torch.zeros(0, K).long(), torch.zeros(0, K).double(), nothing),
    ):
        assert float(out.loss.detach()) == 0.0
        assert gradient(out.loss, hidden).shape == (0, H)
