"""A teacher that is a mixture of several: its value and gradient against full distributions in float64."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import H, Saying, Student, V, annotate, episode, method, prepared, teacher_heads
from torch import Tensor

from agentopd.objective import Head, cut, divergence, linear_divergence, loss
from agentopd.objective import chunked as chunked_module
from agentopd.objective.distributions import mixture as log_mixture
from agentopd.objective.head import Projector
from agentopd.types import Annotation, Dense, Mixture, Record, Trajectory

GENERATOR = torch.Generator().manual_seed(5)
NARROW = Head(torch.randn(V, H - 2, generator=GENERATOR, dtype=torch.float64), scale=0.5, softcap=3.0)
HEADS: dict[str, Head] = teacher_heads("one", "two") | {"narrow": NARROW}


def mixture(trajectory: Trajectory, *names: str, turns: list[int] | None = None) -> Annotation:
    """Hidden states of several members, of their own widths, at the rows of some turns."""
    said = annotate(trajectory, Saying("all", turns=turns), HEADS | {"all": HEADS["one"]})
    rows = len(said.index_N)
    seed = trajectory.key.index
    members = []
    for i, name in enumerate(names):
        generator = torch.Generator().manual_seed(10 * seed + i)
        width = HEADS[name].weight_V_H.shape[1]
        members.append(Dense(torch.randn(rows, width, generator=generator, dtype=torch.float64), name))
    return replace(said, block=Mixture(tuple(members)))


def records() -> list[Record]:
    """Some rows are a mixture of three, some of two, some one model's alone."""
    first, second, third = (episode([2, 3, 1], index=i) for i in range(3))
    alone = annotate(third, Saying("all"), HEADS | {"all": HEADS["one"]})
    assert isinstance(alone.block, Dense)
    return [
        Record(first, (mixture(first, "one", "two", "narrow"),)),
        Record(second, (mixture(second, "two", "narrow", turns=[0, 2]),)),
        Record(third, (replace(alone, block=Dense(alone.block.hidden_N_H, "one")),)),
    ]


def expected(student: Student, kind: str, settings: Mapping[str, Any]) -> Tensor:
    """Mean over all covered tokens of the divergence from the mean of the members' softmaxes."""
    values = []
    for record in records():
        [said] = record.annotations
        block = said.block
        members = block.members if isinstance(block, Mixture) else (block,)
        for n, (s, t) in enumerate(zip(said.segment_N, said.index_N, strict=True)):
            q = torch.stack([HEADS[m.head].logits(m.hidden_N_H[n]).softmax(0) for m in members]).mean(0)  # type: ignore[union-attr]
            prefix = torch.tensor(record.trajectory.segments[s].tokens_T[:t]).long()
            p = student.head.logits(student.embedding_V_H[prefix].sum(0).tanh()).softmax(0)
            values.append(DIVERGENCES[kind](*on_support(p, q, settings)))
    return torch.stack(values).mean()


def on_support(p: Tensor, q: Tensor, settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    if settings["kind"] == "full":
        return p, q
    ids = {"teacher": {*q.topk(3).indices.tolist()}, "student": {*p.topk(3).indices.tolist()}}
    kept = sorted(ids["teacher"] | ids["student"] if settings["of"] == "union" else ids[settings["of"]])
    return tuple(torch.cat([one[kept], 1 - one[kept].sum()[None]]) for one in (p, q))  # type: ignore[return-value]


def forward_kl(p: Tensor, q: Tensor) -> Tensor:
    return (q * (q / p).log()).sum()


def jsd(p: Tensor, q: Tensor) -> Tensor:
    m = 0.3 * q + 0.7 * p
    return 0.3 * forward_kl(m, q) + 0.7 * forward_kl(m, p)


DIVERGENCES = {"forward_kl": forward_kl, "reverse_kl": lambda p, q: forward_kl(q, p), "jsd": jsd}
SUPPORTS = [{"kind": "full"}, *({"kind": "top_k", "k": 3, "of": of} for of in ("teacher", "student", "union"))]


@pytest.mark.parametrize("support", SUPPORTS, ids=str)
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_value_and_gradient_equal_those_of_the_mean_distribution(
    kind: str, support: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_module, "TILE", 2 * V)  # two rows
    divergence = {"kind": kind} | ({"beta": 0.3} if kind == "jsd" else {})
    term = {"target": {"name": "all"}, "divergence": divergence, "support": support}
    ready = prepared(method(aggregate="token", terms=[term]), records())
    student = Student.new()
    output, value = student.loss(ready, HEADS), expected(student, kind, support)
    torch.testing.assert_close(output.loss, value)
    theirs = torch.autograd.grad(value, student.parameters)
    for mine, other in zip(student.gradient(ready, HEADS), theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_terms_temperature_is_that_of_each_member(temperature: float) -> None:
    """As ``linear_divergence`` has it, and by hand; also where the mixture is one of two that make a target."""
    first, student = episode([2, 3], index=4), Student.new()
    said, alone = mixture(first, "one", "narrow"), annotate(first, Saying("two"), HEADS)
    target = {"kind": "extrapolate", "name": "all", "reference": "two", "by": 1.5}
    terms = [{"name": "mean", "target": {"name": "all"}}, {"name": "past", "target": target}]
    objective = method(terms=[{**one, "temperature": temperature, "divergence": "jsd"} for one in terms])
    [batch] = cut(prepared(objective, [Record(first, (said, alone))]), 10**6)
    hidden, blocks = student.hidden(batch), {block.teacher: block for block in batch.blocks}
    assert blocks["all"].mixture is not None
    assert blocks["two"].dense is not None
    members = blocks["all"].mixture.members
    out = loss(hidden, student.head, HEADS, batch)
    fused = linear_divergence(
        hidden, student.head, [one.hidden_N_H for one in members], [HEADS[one.head] for one in members],
        kind="jsd", temperature=temperature,
    )  # fmt: skip
    torch.testing.assert_close(out.signals["mean/divergence"], fused.divergence)

    def softmax(one: Dense) -> Tensor:
        return (HEADS[one.head].logits(one.hidden_N_H) / temperature).softmax(-1)

    q, r = torch.stack([softmax(one) for one in members]).mean(0), softmax(blocks["two"].dense)
    past, logits = q**1.5 * r**-0.5, student.head.logits(hidden) / temperature
    expected = [divergence("jsd", logits, made.log()) for made in (q, past)]
    for name, value in zip(("mean", "past"), expected, strict=True):
        torch.testing.assert_close(out.signals[f"{name}/divergence"], value.detach())
    theirs = torch.autograd.grad(sum(value.mean() for value in expected), student.parameters, retain_graph=True)  # type: ignore[arg-type]
    for mine, other in zip(torch.autograd.grad(out.loss, student.parameters), theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_its_entropy_is_seen_as_any_teachers() -> None:
    first = episode([2, 3], index=7)
    said = mixture(first, "one", "narrow")
    assert isinstance(said.block, Mixture)
    q = torch.stack([HEADS[m.head].logits(m.hidden_N_H).softmax(-1) for m in said.block.members]).mean(0)
    ready = prepared(method(target={"name": "all"}), [Record(first, (said,))])
    seen = Student.new().loss(ready, HEADS).signals["teacher_entropy/all"]
    torch.testing.assert_close(seen, -(q * q.log()).sum(-1))


def test_a_members_head_that_is_not_given_is_named() -> None:
    first = episode([2], index=1)
    ready = prepared(method(target={"name": "all"}), [Record(first, (mixture(first, "one", "two"),))])
    with pytest.raises(ValueError, match="teacher 'all' used head 'two', which is not among"):
        Student.new().loss(ready, {"one": HEADS["one"]})


def test_each_matrix_product_is_made_once_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    of_member, of_student = Head.projected, Projector.__call__
    monkeypatch.setattr(chunked_module, "TILE", V)  # one row
    first = episode([4, 4], index=1)
    ready = prepared(method(target={"name": "all"}), [Record(first, (mixture(first, "one", "two"),))])
    student = Student.new()

    def noted(self: Head, hidden_N_H: Tensor) -> Tensor:
        made.append(len(hidden_N_H))
        return of_member(self, hidden_N_H)

    def counted(self: Projector, rows: slice) -> Tensor:
        made.append(rows.stop - rows.start)
        return of_student(self, rows)

    monkeypatch.setattr(Head, "projected", noted)
    monkeypatch.setattr(Projector, "__call__", counted)
    student.loss(ready, HEADS, chunk_rows=5)
    assert sorted(made) == [3, 3, 3, 5, 5, 5]  # of the student and two members, for chunks of 5 and 3 rows


def test_a_mixture_moves_to_a_device_with_its_batch() -> None:
    first = episode([2, 1], index=1)
    [batch] = cut(prepared(method(target={"name": "all"}), [Record(first, (mixture(first, "one", "two"),))]), 10**6)
    [block] = batch.to("meta").blocks
    assert block.mixture is not None
    assert {member.hidden_N_H.device.type for member in block.mixture.members} == {"meta"}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_log_mixture_by_hand(count: int) -> None:
    random = np.random.default_rng(count)
    p, share = random.dirichlet(np.ones(4), size=count), random.dirichlet(np.ones(count))
    logs = [torch.from_numpy(np.log(one)) for one in p]
    np.testing.assert_allclose(log_mixture(zip(share, logs, strict=True)).exp(), share @ p)
    by_row = [(torch.full((1,), one).double(), log[None]) for one, log in zip(share, logs, strict=True)]
    np.testing.assert_allclose(log_mixture(by_row).exp(), share @ p[None])
