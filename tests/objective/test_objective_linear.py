"""``linear_divergence`` with several teachers, heads, tokens and autocast, against formulas on full logits in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from agentopd.objective import Head, chunked, divergence, linear_divergence
from agentopd.objective.distributions import distribution, entropy
from agentopd.objective.divergences import DIVERGENCES

A, V, H = 9, 13, 5


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 100 * seed), dtype=torch.float64)


HIDDEN, WEIGHT = normal(A, H), normal(V, H)
TEACHERS = [(normal(A, width, seed=i + 1), normal(V, width, seed=i + 1)) for i, width in enumerate((4, 6, 3))]
STATES, WEIGHTS = [hidden for hidden, _ in TEACHERS], [weight for _, weight in TEACHERS]


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, leaves))


def leaves() -> tuple[Tensor, Tensor]:
    return HIDDEN.clone().requires_grad_(), WEIGHT.clone().requires_grad_()


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "TILE", 2 * V)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("shares", [None, [0.5, 0.3, 0.2]])
def test_an_ensemble_is_the_mean_of_its_members_distributions(kind: str, shares: list[float] | None) -> None:
    hidden, weight = leaves()
    out = linear_divergence(
        hidden, weight, STATES, WEIGHTS, kind=kind, teacher_shares=shares, temperature=1.3, chunk_rows=4
    )
    share_E = torch.tensor(shares or [1 / 3] * 3).double()
    q_E_A_V = torch.stack([(h @ w.T / 1.3).softmax(-1) for h, w in TEACHERS])
    mean = (share_E[:, None, None] * q_E_A_V).sum(0)
    expected = divergence(kind, hidden @ weight.T / 1.3, mean.log())
    torch.testing.assert_close(out.divergence, expected.detach())
    for one, other in zip(gradients(out.loss, hidden, weight), gradients(expected.mean(), hidden, weight), strict=True):
        torch.testing.assert_close(one, other)
    assert out.aleatoric is not None
    assert out.epistemic is not None
    torch.testing.assert_close(out.aleatoric, (share_E[:, None] * torch.special.entr(q_E_A_V).sum(-1)).sum(0))
    torch.testing.assert_close(out.teacher_entropy, torch.special.entr(mean).sum(-1))
    mutual = (share_E[:, None, None] * q_E_A_V * (q_E_A_V / mean).log()).sum((0, 2))
    torch.testing.assert_close(out.epistemic, mutual)


def test_an_ensemble_by_hand() -> None:
    weight = torch.tensor([[1.0], [0.0]]).double()
    sure, unsure = torch.tensor([[math.log(9.0)]]).double(), torch.tensor([[0.0]]).double()
    out = linear_divergence(unsure, weight, [sure, unsure], [weight, weight], kind="forward_kl")
    mean = torch.tensor([0.7, 0.3]).double()  # of (0.9, 0.1) and (0.5, 0.5)
    assert float(out.divergence) == pytest.approx(float((mean * (mean / 0.5).log()).sum()))
    assert out.aleatoric is not None
    assert float(out.aleatoric) == pytest.approx((0.3250829733914482 + math.log(2)) / 2)


def test_members_that_agree_differ_by_nothing_and_are_one_teacher() -> None:
    same = linear_divergence(HIDDEN, WEIGHT, [STATES[0]] * 2, [WEIGHTS[0]] * 2)
    alone = linear_divergence(HIDDEN, WEIGHT, STATES[0], WEIGHTS[0])
    torch.testing.assert_close(same.divergence, alone.divergence)
    assert same.epistemic is not None
    assert float(same.epistemic.abs().max()) < 1e-12
    assert alone.epistemic is alone.aleatoric is None


@pytest.mark.parametrize("by", [0.0, 0.4, 1.0, 1.25, torch.linspace(0.5, 1.5, A)])
def test_an_extrapolated_target(by: float | Tensor) -> None:
    hidden, weight = leaves()
    out = linear_divergence(
        hidden, weight, STATES[:2], WEIGHTS[:2], extrapolate_by=by, kind="reverse_kl", temperature=0.7, chunk_rows=4
    )
    logq, logr = ((h @ w.T / 0.7).log_softmax(-1) for h, w in TEACHERS[:2])
    share = by.double().unsqueeze(1) if isinstance(by, Tensor) else by
    target = logq.exp() ** share * logr.exp() ** (1 - share)
    target = target / target.sum(-1, keepdim=True)
    expected = divergence("reverse_kl", hidden @ weight.T / 0.7, target.log())
    torch.testing.assert_close(out.divergence, expected.detach())
    torch.testing.assert_close(out.teacher_entropy, torch.special.entr(target).sum(-1))
    torch.testing.assert_close(gradients(out.loss, hidden)[0], gradients(expected.mean(), hidden)[0])


def test_a_token_that_the_teacher_rules_out_stays_ruled_out_when_extrapolated() -> None:
    bias = torch.zeros(V).double()
    bias[3] = -torch.inf
    out = linear_divergence(
        HIDDEN, WEIGHT, STATES[:2], WEIGHTS[:2], teacher_bias=[bias, bias], extrapolate_by=1.25, kind="forward_kl"
    )
    assert out.divergence.isfinite().all()


def test_the_log_probabilities_of_tokens() -> None:
    tokens = torch.arange(A) % V
    out = linear_divergence(HIDDEN, WEIGHT, STATES[0], WEIGHTS[0], tokens=tokens.int(), temperature=2.0, chunk_rows=4)
    for found, logits in (
        (out.student_logprob, HIDDEN @ WEIGHT.T),
        (out.teacher_logprob, STATES[0] @ WEIGHTS[0].T),
    ):
        assert found is not None
        torch.testing.assert_close(found, (logits / 2).log_softmax(-1)[torch.arange(A), tokens])
    assert linear_divergence(HIDDEN, WEIGHT, STATES[0], WEIGHTS[0]).student_logprob is None


def test_a_head_brings_its_own_bias_scale_and_softcap() -> None:
    hidden, weight = leaves()
    student = Head(weight, normal(V), 0.5, 4.0)
    out = linear_divergence(hidden, student, STATES[0], Head(WEIGHTS[0], None, 2.0), kind="jsd", chunk_rows=4)
    logits = 4.0 * torch.tanh(0.5 * (hidden @ weight.T + normal(V)) / 4.0)
    expected = divergence("jsd", logits, 2.0 * STATES[0] @ WEIGHTS[0].T)
    torch.testing.assert_close(out.divergence, expected.detach())
    for one, other in zip(gradients(out.loss, hidden, weight), gradients(expected.mean(), hidden, weight), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("sizes", [torch.float32, torch.bfloat16])
def test_autocast_touches_the_matrix_products_alone(kind: str, sizes: torch.dtype) -> None:
    """Hidden states as a model under autocast leaves them, and a head in float32."""
    wide = {"rows": 64, "size": 40, "width": 16}
    hidden = normal(wide["rows"], wide["width"]).to(sizes).requires_grad_()
    weight = normal(wide["size"], wide["width"], seed=1).float().requires_grad_()
    teacher = normal(wide["rows"], 8).to(sizes), normal(wide["size"], 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = linear_divergence(hidden, weight, *teacher, kind=kind, chunk_rows=20)
        out.loss.backward()  # type: ignore[no-untyped-call]
    assert out.divergence.dtype == out.loss.dtype == torch.float32
    rounded = [t.detach().bfloat16().double().requires_grad_() for t in (hidden, weight, *teacher)]
    logits = [(h @ w.T).bfloat16().double() for h, w in (rounded[:2], rounded[2:])]
    torch.testing.assert_close(
        out.divergence.double(), divergence(kind, *logits).detach(), rtol=1e-4, atol=1e-5
    )  # the products round; nothing after them does
    if kind == "uld":
        return  # its gradient is a sign, which rounding turns where two sorted probabilities nearly meet
    exact = linear_divergence(rounded[0], rounded[1], rounded[2].detach(), rounded[3].detach(), kind=kind)
    for leaf, expected in zip((hidden, weight), gradients(exact.loss, *rounded[:2]), strict=True):
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        torch.testing.assert_close(leaf.grad.double(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_the_same_without_autograd_and_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = leaves()
    given: dict[str, Any] = {"kind": "skew_forward_kl", "softcap": 2.0, "temperature": 1.5, "chunk_rows": 4}
    formed = linear_divergence(hidden, weight, STATES[0], WEIGHTS[0], **given)
    monkeypatch.setattr("agentopd.objective.linear.formed", lambda *_: None)
    derived = linear_divergence(hidden, weight, STATES[0], WEIGHTS[0], **given)
    torch.testing.assert_close(formed.divergence, derived.divergence)
    torch.testing.assert_close(formed.student_entropy, derived.student_entropy)
    for one, other in zip(gradients(formed.loss, hidden, weight), gradients(derived.loss, hidden, weight), strict=True):
        torch.testing.assert_close(one, other)


def test_a_loss_that_is_scaled_and_read_again_keeps_its_gradient() -> None:
    hidden, weight = leaves()
    loss = linear_divergence(hidden, weight, STATES[0], WEIGHTS[0]).loss
    first = torch.autograd.grad(loss, hidden, retain_graph=True)[0].clone()
    (3 * loss).backward(retain_graph=True)  # type: ignore[no-untyped-call]
    loss.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(hidden.grad, 4 * first)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_distribution_is_that_of_log_softmax(spread: float, dtype: torch.dtype) -> None:
    logits = (spread * normal(6, 200)).to(dtype)
    logits[0, 3] = -torch.inf
    p, logp = distribution(logits, 1.0)
    exact = logits.double().log_softmax(-1)
    eps = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(logp.double(), exact, rtol=eps, atol=eps)
    torch.testing.assert_close(p.double(), exact.exp(), rtol=40 * eps, atol=eps)
    torch.testing.assert_close(
        entropy(logp, p).double(), torch.special.entr(exact.exp()).sum(-1), rtol=50 * eps, atol=eps
    )


NAN = HIDDEN.clone()
NAN[2, 1] = torch.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_hidden": NAN}, "row 2 has the divergence nan, as 1 of 9 rows .* student_hidden or student_weight holds nan"),
        ({"teacher_weight": WEIGHTS[0] * torch.inf}, "row 0 .* 9 of 9 rows .* teacher_hidden or teacher_weight holds nan"),
        ({"weights": torch.zeros(A)}, "weights are all 0, so none of the 9 rows"),
        ({"weights": torch.full((A,), torch.nan)}, r"weights\[0\] is nan; give finite numbers, of any sign"),
        ({"student_weight": WEIGHT[:0]}, "of at least one token"),
        ({"teacher_hidden": STATES}, "teacher_weight is a Tensor and teacher_hidden is a list of 3; give a list of one each"),
        ({"teacher_hidden": STATES, "teacher_weight": WEIGHTS[:2]}, "teacher_weight is 2 long and teacher_hidden is a list of 3"),
        ({"teacher_hidden": [], "teacher_weight": []}, "teacher_hidden is an empty list"),
        ({"teacher_hidden": STATES[:2], "teacher_weight": [WEIGHTS[0], WEIGHTS[1][1:]]}, r"of teacher\[1\] has 12 tokens"),
        ({"teacher_hidden": [STATES[0], STATES[1][1:]], "teacher_weight": WEIGHTS[:2]}, r"9 rows, teacher\[1\]_hidden 8"),
        ({"teacher_hidden": STATES, "teacher_weight": WEIGHTS, "teacher_shares": [0.5, 0.5, 0.5]}, "teacher_shares=.* with sum 1"),
        ({"teacher_hidden": STATES, "teacher_weight": WEIGHTS, "teacher_shares": [1.0, 0.0, 0.0]}, "leave out a teacher"),
        ({"teacher_shares": [1.0]}, "teacher_shares is for several teachers"),
        ({"extrapolate_by": 1.25}, "extrapolate_by=1.25 with 1 teachers; give lists of two"),
        ({"student_weight": Head(WEIGHT), "student_bias": torch.zeros(V).double()}, "put the bias into the Head"),
        ({"tokens": torch.full((A,), V)}, "run from 13 to 13 in a vocabulary of 13"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"scale": math.nan}, "scale and softcap must be above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_named(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "student_hidden": HIDDEN,
        "student_weight": WEIGHT,
        "teacher_hidden": STATES[0],
        "teacher_weight": WEIGHTS[0],
    }
    with pytest.raises(ValueError, match=message):
        linear_divergence(**given | changes)


def test_weights_may_be_negative() -> None:
    weights = torch.linspace(-1, 1, A).double()
    out = linear_divergence(HIDDEN, WEIGHT, STATES[0], WEIGHTS[0], weights=weights)
    torch.testing.assert_close(out.loss, (weights * out.divergence).sum())
