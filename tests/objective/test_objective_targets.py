"""Targets made of distributions: against loops over full logits, by exact enumeration, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from enumerated_cases import EXPECTATION, chain, normal, of_divergence
from objective_cases import Saying, Student, V, episode, method, prepared, record, teacher_heads
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective import (
    Distribution,
    Head,
    Prepared,
    Rows,
    TeacherColumns,
    cut,
    divergence,
    linear_divergence,
    loss,
    per_row,
    pointwise,
)
from agentopd.objective.divergences import DIVERGENCES
from agentopd.objective.targets import whole
from agentopd.types import Annotation, Dense, Record, Sampled

HEADS = teacher_heads("teacher", "reference")
Pieces = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, float | Tensor]]


@pointwise
def halfway(logp: Tensor, *, name: Distribution, other: Distribution, share: float = 0.5) -> Tensor:
    """A user's target."""
    return share * name + (1 - share) * other


@per_row
def by_depth(rows: Rows, teacher: TeacherColumns | None, *, base: float = 0.5) -> np.ndarray[Any, Any]:
    """A user's number a row."""
    return base + rows.turn_A


def nothing_named(logp: Tensor) -> Tensor:
    return logp


def too_narrow(logp: Tensor, *, name: Distribution) -> Tensor:
    return name[:, 1:]


def not_a_number(logp: Tensor, *, name: Distribution) -> Tensor:
    return name * torch.nan


def tvd_weight(q: Tensor, r: Tensor) -> Tensor:
    return 0.5 * (q.exp() - r.exp()).abs().sum() + 1e-3


MADE: dict[str, tuple[dict[str, Any], Pieces]] = {
    "extrapolate": ({"kind": "extrapolate", "by": 1.5}, lambda p, q, r: (1.5 * q - 0.5 * r, 1.0)),
    "geometric": ({"kind": "geometric", "beta": 0.4}, lambda p, q, r: (q + 0.4 * p, 1.0)),
    "interpolate": ({"kind": "interpolate", "share": 0.3}, lambda p, q, r: (0.7 * p + 0.3 * q, 1.0)),
    "sharpened": ({"kind": "sharpened", "temperature": 0.5}, lambda p, q, r: (2.0 * q, 1.0)),
    "aligned": ({"kind": "aligned", "scale": 0.5}, lambda p, q, r: (q + tvd_weight(q, r) * (q - r), 1.0 / tvd_weight(q, r))),
    "own": ({"kind": f"{__name__}:halfway", "name": "teacher", "other": "reference"}, lambda p, q, r: (0.5 * q + 0.5 * r, 1.0)),
}  # fmt: skip


def records() -> list[Record]:
    """The two teachers overlap on some turns only, and each has rows that the other does not."""
    made = []
    for i, (q, r) in enumerate([([0, 1, 2], [0, 2]), ([0, 1], [0, 1]), ([1], [0, 1])]):
        sayings = (Saying("teacher", turns=q), Saying("reference", turns=r))
        made.append(record(episode([2, 1, 3][: 3 if i == 0 else 2], index=i), *sayings, heads=HEADS))
    return made


def brute(student: Student, made: list[Record], pieces: Pieces, both: bool, temperature: float = 1.0) -> Tensor:
    """The token mean of the reverse KL over the rows that all needed teachers cover."""
    values = []
    for one in made:
        said = [dict(_said(annotation)) for annotation in one.annotations]
        where = said[0].keys() & said[1].keys() if both else said[0].keys()
        for segment, index in sorted(where):
            tokens = torch.from_numpy(one.trajectory.segments[segment].tokens_T[:index].astype(np.int64))
            logits = student.head.logits(student.embedding_V_H[tokens].cumsum(0).tanh()[-1])
            p = (logits / temperature).log_softmax(-1)
            q, r = ((found.get((segment, index), p.detach()) / temperature).log_softmax(-1) for found in said)
            log, factor = pieces(p.detach(), q, r)
            values.append(factor * (p.exp() * (p - log.log_softmax(-1))).sum())
    return torch.stack(values).mean()


def _said(annotation: Annotation) -> list[tuple[tuple[int, int], Tensor]]:
    assert isinstance(annotation.block, Dense)
    logq = HEADS[annotation.teacher].logits(annotation.block.hidden_N_H).log_softmax(-1)
    return list(zip(zip(annotation.segment_N.tolist(), annotation.index_N.tolist(), strict=True), logq, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("name", MADE)
def test_value_and_gradient_are_those_of_the_definition(name: str, temperature: float) -> None:
    settings, pieces = MADE[name]
    student = Student.new()
    ready = prepared(method(target=settings, divergence="reverse_kl", temperature=temperature), records())
    both = "reference" in ready.terms[0].term.reads.values()
    found, expected = student.loss(ready, HEADS).loss, brute(student, records(), pieces, both, temperature)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(value, student.parameters) for value in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_cut_changes_nothing_where_two_teachers_make_a_target() -> None:
    student = Student.new()
    ready = prepared(method(target=MADE["extrapolate"][0]), records())
    whole = student.loss(ready, HEADS).loss
    torch.testing.assert_close(student.loss(ready, HEADS, max_tokens=1, chunk_rows=1).loss, whole)


def test_the_scale_of_an_aligned_target_may_differ_from_row_to_row() -> None:
    """Rows of turn 0 alone: there the number a row is that of a plain setting."""
    student, where = Student.new(), {"actor": "student", "max_turn": 0}
    found, plain = (
        student.loss(prepared(method(target={"kind": "aligned", "scale": scale}, where=where), records()), HEADS).loss
        for scale in ({"kind": f"{__name__}:by_depth"}, 0.5)
    )
    torch.testing.assert_close(found, plain)


def test_a_temperature_is_that_of_both_sides() -> None:
    student, made = Student.new(), records()
    found = student.loss(prepared(method(temperature=3.0, divergence="reverse_kl"), made), HEADS).loss
    torch.testing.assert_close(found, brute(student, made, lambda p, q, r: (q, 1.0), False, 3.0))


def test_extrapolated_by_one_is_the_teacher_itself() -> None:
    student, made = Student.new(), [record(episode([2, 3]), Saying("teacher"), Saying("reference"), heads=HEADS)]
    plain, by_one = (prepared(method(target=t), made) for t in ("distribution", {"kind": "extrapolate", "by": 1.0}))
    torch.testing.assert_close(student.loss(by_one, HEADS).loss, student.loss(plain, HEADS).loss)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("by", [0.5, 1.25])
@pytest.mark.parametrize("who", [("teacher",), ("reference",), ("teacher", "reference")])
def test_what_one_side_rules_out_is_extrapolated_alike_everywhere(
    who: tuple[str, ...], by: float, temperature: float
) -> None:
    """A token is left to the reference, by its limit: all of the target above 1, none of it below."""
    bias = torch.zeros(V).double()
    bias[3] = -torch.inf
    heads = {name: replace(head, bias_V=bias if name in who else None) for name, head in HEADS.items()}
    made = [record(episode([2, 3]), Saying("teacher"), Saying("reference"), heads=HEADS)]
    settings = {"target": {"kind": "extrapolate", "by": by}, "temperature": temperature}
    (batch,) = cut(prepared(method(**settings), made), 10**6)
    states = {block.teacher: block.dense.hidden_N_H for block in batch.blocks if block.dense is not None}
    student = Student.new()
    hidden = student.hidden(batch).detach().requires_grad_()
    out = loss(hidden, student.head, heads, batch)
    fused = linear_divergence(
        hidden, student.head, [states[name] for name in HEADS], [*heads.values()],
        extrapolate_by=by, temperature=temperature,
    )  # fmt: skip
    torch.testing.assert_close(out.signals["loss/divergence"], fused.divergence)
    mine, theirs = (torch.autograd.grad(one.loss, hidden)[0] for one in (out, fused))
    assert mine.isfinite().all()
    torch.testing.assert_close(mine, theirs)
    p = (student.head.logits(hidden) / temperature).log_softmax(-1).detach()
    if who == ("reference",) and by > 1:
        torch.testing.assert_close(fused.divergence, -p[:, 3])
        return
    q, r = ((heads[name].logits(states[name]) / temperature).softmax(-1) for name in HEADS)
    log = (q**by * r ** (1 - by)).nan_to_num(0.0).log()
    torch.testing.assert_close(fused.divergence, divergence("forward_kl", p, log))


@pytest.mark.parametrize("kind", sorted(DIVERGENCES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sharpest_target_has_finite_values_and_gradients(kind: str, dtype: torch.dtype) -> None:
    target = method(target={"kind": "sharpened", "temperature": 1e-3}).terms[0].target
    z, t = normal(0, 4, V).to(dtype).requires_grad_(), 5 * normal(1, 4, V).to(dtype)
    t[0, 2], t[1, 1] = -torch.inf, t[1].max()  # ruled out; as likely as the likeliest
    logp, logq = z.log_softmax(-1), t.log_softmax(-1)
    made, _ = whole("", target, target.settings, logp.detach(), {"name": logq})
    torch.testing.assert_close(made.exp().sum(-1), torch.ones(4, dtype=dtype))
    value = DIVERGENCES[kind](logp, made)
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


def _enumerated(z: Tensor, teachers: dict[str, Tensor], target: dict[str, Any]) -> Tensor:
    """E[gradient] over y ~ p of a score function towards ``target`` at one state."""
    p, made = z.log_softmax(-1), []
    for y in range(len(z)):
        logq = {name: float(t.log_softmax(-1)[y]) for name, t in teachers.items()}
        one = chain([y], [float(p[y])], [0.0], y, [0])
        (said,) = one.annotations
        sayings = [replace(said, teacher=name, taken_logprob_N=np.array([value])) for name, value in logq.items()]
        assert isinstance(said.block, Sampled)
        made.append(replace(one, annotations=tuple(sayings)))
    (batch,) = cut(prepared(method(target=target, estimator="score_function", weight=EXPECTATION), made), 10**6)
    leaf = z.clone().requires_grad_()
    out = loss(leaf.expand(len(z), -1), Head(torch.eye(len(z)).double()), {}, batch)
    return torch.autograd.grad(out.loss, leaf)[0]


def test_the_extrapolated_reward_has_the_gradient_of_the_reverse_kl_to_the_extrapolated_target() -> None:
    """G-OPD, arXiv 2602.12125."""
    z, q, r = normal(0, V), 1.5 * normal(1, V), normal(2, V)
    found = _enumerated(z, {"teacher": q, "reference": r}, {"kind": "extrapolate", "by": 1.25})
    made = 1.25 * q.log_softmax(-1) - 0.25 * r.log_softmax(-1)
    torch.testing.assert_close(found, of_divergence("reverse_kl", z, made), atol=1e-13, rtol=0)


def test_extrapolated_by_one_has_the_reward_of_the_teacher() -> None:
    z, q, r = normal(0, V), 1.5 * normal(1, V), normal(2, V)
    found = _enumerated(z, {"teacher": q, "reference": r}, {"kind": "extrapolate", "by": 1.0})
    torch.testing.assert_close(found, _enumerated(z, {"teacher": q}, {"kind": "distribution"}), atol=1e-15, rtol=0)


def test_the_geometric_target_stands_still_at_its_fixed_point() -> None:
    """Veto, arXiv 2601.07155: p* is q^(1 / (1 - beta)), normalised."""
    beta, q = 0.3, 1.5 * normal(1, V).log_softmax(-1)
    still = q / (1 - beta)
    found = _enumerated(still, {"teacher": q}, {"kind": "geometric", "beta": beta})
    assert found.abs().max() < 1e-14
    made = (q.log_softmax(-1) + beta * still.log_softmax(-1)).log_softmax(-1)
    assert float(divergence("reverse_kl", still, made)) == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": f"{__name__}:nothing_named"}, "names no distribution; give it a setting annotated with"),
        ({"target": "aligned", "estimator": "score_function"}, "needs whole distributions, and a score function reads"),
        ({"target": {"kind": "geometric", "beta": 1.5}}, "beta"),
        (
            {"target": {"kind": "sharpened", "temperature": 1e-30}},
            "temperature: Input should be greater than or equal to 0.001",
        ),
        ({"target": {"kind": "extrapolate", "refrence": "x"}}, "did you mean 'reference'"),
        ({"temperature": 0.0}, "0.0 is not above 0, and there is no"),
        ({"temperature": 2.0, "estimator": "score_function"}, "only an analytic divergence from a distribution"),
        ({"temperature": 2.0, "target": "taken"}, "only an analytic divergence from a distribution"),
        ({"target": {"kind": f"{__name__}:halfway"}}, "name"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_read(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        method(**settings)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("too_narrow", r"returned shape .* for \(.*\); return log-probabilities up to"), ("not_a_number", "returned nan")],
)
def test_what_a_target_of_ones_own_returns_is_checked(kind: str, said: str) -> None:
    ready = prepared(method(target={"kind": f"{__name__}:{kind}", "name": "teacher"}), records())
    with pytest.raises(ConfigError, match=said):
        Student.new().loss(ready, HEADS)


@pytest.mark.parametrize("who", ["teacher", "reference"])
def test_a_sparse_teacher_makes_no_target_with_another(who: str) -> None:
    kinds = {"teacher": "dense", "reference": "dense"} | {who: "sparse"}
    made = [record(episode([2]), *(Saying(name, kind) for name, kind in kinds.items()), heads=HEADS)]
    with pytest.raises(ConfigError, match=r"gives only its top-k"):
        Student.new().loss(prepared(method(target="extrapolate"), made), HEADS)


def test_rows_that_one_of_the_teachers_leaves_out_are_not_trained() -> None:
    ready: Prepared = prepared(method(target="extrapolate"), records())
    assert int(ready.terms[0].learns_A.sum()) == sum([2 + 3, 2 + 1, 1])
