"""Two vocabularies: ULD and GOLD over spans, against the formulas evaluated one span at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from objective_cases import START, H, Largest, Student, V, method, prepared
from span_cases import PAIRS, SAME, W, annotated, records, shifted, spans_of, theirs
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective import Head, Prepared, Rows, chunked, cut, divergence, loss, prepare
from agentopd.objective.apart import Others, SpanRows, across, apart
from agentopd.objective.chunked import chunks, undivided
from agentopd.objective.divergences import choose, uld
from agentopd.records import thin
from agentopd.types import Aligned, Dense, Matched, Record

GOLD: dict[str, Any] = {"kind": "gold", "by": "forward_kl", "matched": 0.7, "unmatched": 1.3}


def test_uld_by_hand() -> None:
    """Sorted: student .7 .2 .1, teacher .6 .4, filled up with 0: .1 + .2 + .1."""
    p, q = torch.tensor([[0.2, 0.7, 0.1]]).double().log(), torch.tensor([[0.4, 0.6]]).double().log()
    assert uld(p, q).item() == pytest.approx(0.4)
    assert uld(q, p).item() == pytest.approx(0.4)
    assert uld(p, p.flip(1)).item() == 0.0


@dataclass
class Side:
    """What one side gives to one span: its distribution there, its tokens' ids, and how likely what follows the first is."""

    probability: list[Tensor]
    token: int
    rest: Tensor | None
    strays: list[Tensor] = field(default_factory=list)

    def without_span(self, other: "Side", partner: dict[int, int], same: bool) -> Tensor:
        """Takes the span out of the distribution, and gives its probability."""
        first = self.probability[self.token]
        c = torch.ones((), dtype=torch.float64) if self.rest is None else self.rest.exp()
        self.probability[self.token] = first * (1 - c)
        single = self.without(partner.get(other.token)) if other.rest is None else 0 * c
        self.strays.append(0 * c if same else single)
        return first * c + (single if same else 0 * c)

    def without(self, i: int | None) -> Tensor:
        """Takes a token out of the distribution, and gives its probability."""
        found = zero = torch.zeros((), dtype=torch.float64)
        if i is not None:
            found, self.probability[i] = self.probability[i], zero
        return found


def by_hand(student: Student, ready: Prepared, record_list: list[Record], kind: dict[str, Any], head: Head) -> Tensor:
    """sum over spans of (mean coefficient) x divergence, from whole rows of logits and the definitions."""
    total = torch.zeros((), dtype=torch.float64)
    rows, [term] = ready.rows, ready.terms
    place = {
        (int(rows.trajectory_A[a]), int(rows.segment_in_record_A[a]), int(rows.index_A[a])): a for a in range(len(rows))
    }
    for b, record in enumerate(record_list):
        [said] = record.annotations
        block = said.block
        assert isinstance(block, Aligned)
        for p in range(len(block.token_P)):
            start, stop = block.span.student_P_2[p]
            where = [(b, int(said.segment_N[n]), int(said.index_N[n])) for n in range(start, stop)]
            coef = np.mean([term.coef_A[place[w]] for w in where])
            if coef == 0:
                continue
            logps = []
            for _, s, t in where:
                tokens = torch.from_numpy(record.trajectory.segments[s].tokens_T).long()
                hidden = student.embedding_V_H[tokens[:t]].sum(0).tanh()
                logps.append(torch.log_softmax(student.head.logits(hidden), -1))
            taken = [int(record.trajectory.segments[s].tokens_T[t]) for _, s, t in where]
            later = [logp[token] for logp, token in zip(logps[1:], taken[1:], strict=True)]
            rest = torch.stack(later).sum() if later else None
            q = torch.softmax(head.logits(block.dense.hidden_N_H[p]), -1)
            their_rest = torch.tensor(float(block.rest_P[p]), dtype=torch.float64)
            many = int(np.diff(block.span.teacher_P_2[p])[0])
            pairs = dict(zip(block.matched.student_K.tolist(), block.matched.teacher_K.tolist(), strict=True))
            back = {t: s for s, t in pairs.items()}
            same = bool(block.same_P[p])
            plain = same and len(where) == many == 1 and pairs.get(taken[0]) == int(block.token_P[p])
            ours = Side(list(logps[0].exp()), taken[0], rest)
            their = Side(list(q), int(block.token_P[p]), their_rest if many > 1 else None)
            spans = [] if plain else [(ours.without_span(their, back, same), their.without_span(ours, pairs, same))]
            student_next, teacher_next = block.next_P_2[p].tolist()
            written = (len(where) == 1 and (student_next == taken[0] or pairs.get(taken[0]) == teacher_next)) or (
                many == 1 and int(block.token_P[p]) in (teacher_next, pairs.get(student_next))
            )
            if plain and not written and student_next >= 0:  # with a form beside it, it is a span of its own again
                spans = [(ours.without_span(their, back, same), their.without_span(ours, pairs, same))]
            if student_next >= 0 and not written:
                spans.append((ours.without(student_next), their.without(teacher_next)))
                ours.strays.append(ours.without(back.get(teacher_next)))
                their.strays.append(their.without(pairs.get(student_next)))
            both = [(ours.probability[s], their.probability[t]) for s, t in pairs.items()] + spans
            pm, qm = map(list, zip(*both, strict=True))
            pu = [x for i, x in enumerate(ours.probability) if i not in pairs] + ours.strays
            qu = [x for i, x in enumerate(their.probability) if i not in pairs.values()] + their.strays
            total = total + coef * value(kind, pm, pu, qm, qu)
    return total


def sorted_distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    size, zero = max(len(one), len(other)), torch.zeros((), dtype=torch.float64)
    a, b = (
        sorted([*each, *([zero] * (size - len(each)))], key=lambda x: x.item(), reverse=True) for each in (one, other)
    )
    return sum((abs(x - y) for x, y in zip(a, b, strict=True)), zero)


def value(kind: dict[str, Any], pm: list[Tensor], pu: list[Tensor], qm: list[Tensor], qu: list[Tensor]) -> Tensor:
    if kind["kind"] == "uld":
        return sorted_distance([*pm, *pu], [*qm, *qu])
    mass = torch.stack(qm).sum()
    some = [i for i, (a, b) in enumerate(zip(pm, qm, strict=True)) if a > 0 or b > 0]
    p, q = (torch.stack([one[i] for i in some]) for one in (pm, qm))
    p, q = p / p.sum(), q / mass
    m, beta = (p + q) / 2, 0.5
    inner: dict[str, Tensor] = {
        "forward_kl": (torch.xlogy(q, q) - q * p.log()).sum(),
        "reverse_kl": (torch.xlogy(p, p) - p * q.log()).sum(),
        "jsd": beta * (torch.xlogy(q, q) - q * m.log()).sum() + (1 - beta) * (torch.xlogy(p, p) - p * m.log()).sum(),
    }
    found: Tensor = kind["matched"] * mass * inner[kind["by"]] + kind["unmatched"] * sorted_distance(pu, qu)
    return found


COMING = [[(-1, -1)], [(8, 2), (-1, -1), (1, 9), (3, 5), (0, 12)]]
"""What could come begins with tokens that one side, both sides or neither has, and that match each other, others or nothing."""
KINDS = [{"kind": "uld"}, *({**GOLD, "by": by} for by in ("jsd", "forward_kl", "reverse_kl"))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("by", "uld"))
@pytest.mark.parametrize("weight", ["uniform", {"kind": "gate", "statistic": "surprisal", "threshold": 1.25}])
@pytest.mark.parametrize("forms", [(), (0, 2)], ids=["bytes", "forms"])
@pytest.mark.parametrize("coming", COMING, ids=["nothing", "coming"])
def test_loss_and_gradient_are_those_of_the_formula(
    kind: dict[str, Any], weight: Any, coming: Any, forms: Sequence[int]
) -> None:
    student, said, heads = Student.new(), records(coming=coming, forms=forms), theirs()
    ready = prepared(method(divergence=kind, weight=weight), said)
    assert (ready.terms[0].coef_A == 0).any() == (weight != "uniform")
    out = student.loss(ready, heads)
    expected = by_hand(student, ready, said, kind, heads["teacher"])
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-6)  # rest_P is kept in float32
    found = torch.autograd.grad(out.loss, student.parameters)
    for one, other in zip(found, torch.autograd.grad(expected, student.parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def same(seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Episodes annotated over the student's own vocabulary, in spans of one token and as dense blocks."""
    spans, dense = [], []
    head = theirs(size=V)["teacher"]
    for record in records(sizes=(1,), their_sizes=(1,), matched=SAME, head=head, seed=seed):
        [said] = record.annotations
        assert isinstance(said.block, Aligned)
        spans.append(record)
        dense.append(replace(record, annotations=(replace(said, block=said.block.dense),)))
    return spans, dense


@pytest.mark.parametrize("by", ["jsd", "forward_kl", "reverse_kl"])
@pytest.mark.parametrize("weight", ["uniform", "teacher_entropy"])
def test_of_one_vocabulary_gold_is_the_divergence_itself(by: str, weight: str) -> None:
    student, heads = Student.new(), theirs(size=V)
    spans, dense = same()
    own: dict[str, Any] = {"kind": by} | ({"beta": 0.3} if by == "jsd" else {})
    across = method(divergence={"kind": "gold", "by": by, "beta": 0.3}, weight=weight)
    plain = prepared(method(divergence=own, weight=weight), dense)
    for ready in (prepared(across, spans), prepared(across, dense)):
        assert student.loss(ready, heads).loss.item() == student.loss(plain, heads).loss.item()
        for one, other in zip(student.gradient(ready, heads), student.gradient(plain, heads), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("by", "uld"))
def test_invariant_3_a_teacher_that_is_the_student_gives_zero(kind: dict[str, Any]) -> None:
    student = Student.new()
    assert student.head.bias_V is not None
    heads = {"teacher": Head(student.head.weight_V_H.detach(), student.head.bias_V.detach())}
    said = []
    for record in same()[0]:
        [one] = record.annotations
        assert isinstance(one.block, Aligned)
        hidden = []
        for s, t in zip(one.segment_N, one.index_N, strict=True):
            tokens = torch.from_numpy(record.trajectory.segments[s].tokens_T).long()
            hidden.append(student.embedding_V_H.detach()[tokens[:t]].cumsum(0)[-1].tanh())
        block = replace(one.block, dense=Dense(torch.stack(hidden), "teacher"))
        said.append(replace(record, annotations=(replace(one, block=block),)))
    ready = prepared(method(divergence=kind), said)
    assert abs(student.loss(ready, heads).loss.item()) < 1e-14
    for gradient in student.gradient(ready, heads):
        assert float(gradient.abs().max()) < 1e-14


@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.get("by", "uld"))
def test_invariant_5_neither_cut_nor_chunk_nor_tile_changes_anything(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, heads = Student.new(), theirs()
    weight = {"kind": "gate", "statistic": "surprisal", "threshold": 1.25}
    ready = prepared(method(divergence=kind, weight=weight), records())
    expected, gradients = student.loss(ready, heads), student.gradient(ready, heads)
    for max_tokens, chunk_rows, tile in ((10**6, 1000, 10**6), (1, 1, V), (12, 2, 2 * V), (20, 3, 1), (10**6, 2, V)):
        monkeypatch.setattr(chunked, "TILE", tile)
        out = student.loss(ready, heads, max_tokens, chunk_rows)
        assert out.loss.item() == pytest.approx(expected.loss.item(), abs=1e-13)
        for one, other in zip(torch.autograd.grad(out.loss, student.parameters), gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


def test_no_tensor_holds_all_rows_over_a_vocabulary() -> None:
    student, heads = Student.new(), theirs()
    [batch] = cut(prepared(method(divergence=GOLD), records()), 10**6)
    hidden = student.hidden(batch)
    with Largest() as largest:
        loss(hidden, student.head, heads, batch, chunk_rows=4)
    assert largest.size == hidden.numel() < len(hidden) * V


def test_a_span_is_read_as_a_whole_where_one_of_its_rows_is_trained() -> None:
    """Of the first span of three rows the middle one alone has a weight: the loss is a third of the span's."""
    [record] = records(1, sizes=(3,), their_sizes=(1,))
    student, heads = Student.new(), theirs()
    objective = method(divergence={"kind": "uld"}, weight="span_cases:middle", aggregate="sum")
    ready = prepare(objective, Rows.of([record]), START)
    [batch] = cut(ready, 100)
    assert batch.row_A.tolist() == [0, 1, 2]
    everything = prepared(method(divergence={"kind": "uld"}, aggregate="sum", where={"max_turn": 0}), [record])
    [whole] = cut(everything, 100)
    first = loss(student.hidden(whole), student.head, heads, whole).signals["loss/divergence"][:3]
    out = loss(student.hidden(batch), student.head, heads, batch)
    assert out.loss.item() == pytest.approx(float(first[1]))
    torch.testing.assert_close(first, first[:1].expand(3))


def test_what_a_skipped_turn_says_changes_nothing() -> None:
    student, heads = Student.new(), theirs()
    objective = method(divergence=GOLD)
    quiet = [replace(one, annotations=(annotated(one.trajectory, skip=[0]),)) for one in records()]
    loud = []
    for record in quiet:
        spans = spans_of(record.trajectory, (1, 2, 1, 3))
        first = torch.tensor([record.trajectory.segments[s[0][0]].turn_T[s[0][1]] == 0 for s in spans])
        loud.append(shifted(record, 5.0 * first.double().unsqueeze(1).expand(-1, H)))
    one, other = (student.loss(prepared(objective, said), heads).loss.item() for said in (quiet, loud))
    assert one == other
    assert one != student.loss(prepared(objective, records()), heads).loss.item()


def test_the_signals_hold_a_span_s_loss_in_parts_and_the_teacher_s_entropy_where_it_begins() -> None:
    student, heads = Student.new(), theirs()
    said = records(1, sizes=(2,))
    out = student.loss(prepared(method(divergence={"kind": "uld"}), said), heads)
    parts = out.signals["loss/divergence"]
    assert parts[0] == parts[1] > 0
    entropy = out.signals["teacher_entropy/teacher"]
    assert entropy[0].item() == pytest.approx(float(said[0].annotations[0].entropy_N[0]), rel=1e-6)
    assert entropy[1].isnan()


@pytest.mark.parametrize("by", ["jsd", "forward_kl", "reverse_kl"])
def test_what_minimises_gold_gives_spans_the_teacher_s_probability(by: str) -> None:
    """Of free logits at four spans: P = Q, and so for every token that both have, but for those that begin a span."""
    generator = torch.Generator().manual_seed(5)
    others = Others.of(torch.from_numpy(PAIRS.student_K).long(), torch.from_numpy(PAIRS.teacher_K).long(), (V, W))
    q = torch.randn(4, W, generator=generator).double()
    q[:, [8, 10, 11]], q[:3, 9] = (
        -40.0,
        -40.0,
    )  # the student has fewer tokens of its own to give as sorted probabilities
    q = q.log_softmax(1)
    token, their = torch.tensor([0, 6, 3, 9]), torch.tensor([5, 0, 7, 9])
    alone, size = torch.tensor([False, True, False, True]), torch.tensor([2, 3, 1, 1])
    spans = SpanRows(
        q,
        their,
        torch.tensor([-0.5, 0.0, -1.0, 0.0]).double(),
        alone,
        size,
        torch.ones(4, dtype=torch.bool),
        torch.full((4, 2), -1),
        3,
        True,
        others,
    )
    logits = torch.zeros(4, V, dtype=torch.float64, requires_grad=True)
    follows = torch.ones(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits, follows], lr=0.05)
    choice = choose("gold", {"by": by})
    for _ in range(1500):
        optimiser.zero_grad()
        p, rest = logits.log_softmax(1), torch.where(size > 1, torch.nn.functional.logsigmoid(follows), 0.0)
        events = apart(p, token, rest, spans)
        value = across("", choice, choice.settings, events).sum()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert 0.0 <= value.item() < 0.05
    ours, theirs_ = (one.detach().exp() for one in (events.logp_N_K, events.logq_N_K))
    torch.testing.assert_close(ours, theirs_, atol=0.02, rtol=0)
    for whole in ((events.logp_N_K, events.logp_N_U), (events.logq_N_K, events.logq_N_W)):
        torch.testing.assert_close(torch.cat(whole, 1).exp().sum(1), torch.ones(4).double())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("by", "uld"))
@pytest.mark.parametrize("spread", [0.1, 10.0, 300.0, 1.0e4])
@pytest.mark.parametrize("rest", [0.0, -1e-9, -1e-3, -90.0, -1e4])
def test_in_single_precision_sure_models_give_finite_numbers(kind: dict[str, Any], spread: float, rest: float) -> None:
    """Of students and teachers that are sure of what follows, or find it impossible."""
    generator = torch.Generator().manual_seed(1)
    others = Others.of(torch.from_numpy(PAIRS.student_K).long(), torch.from_numpy(PAIRS.teacher_K).long(), (V, W))
    logits, theirs_ = (spread * torch.randn(8, size, generator=generator) for size in (V, W))
    logits.requires_grad_()
    follows = torch.full((8,), rest, requires_grad=True)
    token, their = torch.arange(8), torch.arange(8) + 3
    alone = torch.tensor([True, False] * 4)
    their_rest = torch.where(alone, 0.0, rest)
    coming, same = torch.tensor([[-1, -1], [8, 2], [1, 9], [0, 12]] * 2), torch.arange(8) % 3 > 0
    size = torch.full((8,), 2)
    spans = SpanRows(theirs_.log_softmax(1), their, their_rest, alone, size, same, coming, 2, True, others)
    choice = choose(kind["kind"], {name: value for name, value in kind.items() if name != "kind"})
    value = across("", choice, choice.settings, apart(logits.log_softmax(1), token, follows, spans))
    assert value.isfinite().all()
    assert float(value.detach().min()) > -1e-5
    for gradient in torch.autograd.grad(value.sum(), (logits, follows)):
        assert gradient.isfinite().all()


def test_chunks_end_before_what_stays_together_or_behind_it() -> None:
    whole = undivided([slice(4, 6), slice(1, 3), slice(5, 9)])
    assert whole == [slice(1, 3), slice(4, 9)]
    assert chunks(10, 2, whole) == [slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 9), slice(9, 10)]
    assert chunks(10, 4, whole) == [slice(0, 4), slice(4, 9), slice(9, 10)]
    assert chunks(0, 4, whole) == [slice(0, 0)]


REFUSED = [
    ({"divergence": "forward_kl"}, r"objective\.divergence\.kind=forward_kl: it compares .*kind: gold"),
    ({"divergence": "uld", "support": {"kind": "top_k", "k": 2}}, r"support\.kind=top_k"),
    ({"divergence": "uld", "target": {"kind": "sharpened"}}, r"target\.kind=sharpened"),
    ({"divergence": "uld", "temperature": 2.0}, r"temperature=2\.0"),
    ({"estimator": {"kind": "score_function", "baseline": "value"}}, r"estimator\.baseline=value"),
]


@pytest.mark.parametrize(("settings", "match"), REFUSED)
def test_what_needs_one_vocabulary_is_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Student.new().loss(prepared(method(**settings), records()), theirs())


def test_log_probabilities_of_spans_are_enough_for_a_score_function() -> None:
    """The advantages of a span's rows sum to the log-ratio of the span."""
    said = records()
    thinned = [thin(one) for one in said]
    ready = prepared(method(estimator="score_function"), thinned)
    assert ready.terms[0].advantage_A.any()
    rows, [term] = ready.rows, ready.terms
    first = next(one for one in spans_of(said[0].trajectory, (1, 2, 1, 3)) if len(one) == 2)
    at = [a for a in range(len(rows)) if (0, int(rows.index_A[a])) in first and rows.trajectory_A[a] == 0]
    total = said[0].annotations[0].taken_logprob_N[at].sum() - rows.logprob_A[at].sum()
    assert term.advantage_A[at].sum() == pytest.approx(total, rel=1e-5)
    with pytest.raises(ConfigError, match="gave only a Span block"):
        cut(prepared(method(divergence="uld"), thinned), 100)


def test_ids_beyond_a_head_are_refused() -> None:
    far = Matched(PAIRS.student_K, np.append(PAIRS.teacher_K[:-1], W).astype(np.int32))
    with pytest.raises(ConfigError, match=r"the teacher has 13 tokens, and its tokenizer makes 14 or more"):
        Student.new().loss(prepared(method(divergence="uld"), records(matched=far)), theirs())


@pytest.mark.parametrize(
    ("sizes", "pairs", "alone"), [((11, 11), 11, (0, 0)), ((12, 10), 10, (2, 0)), ((9, 9), 9, (0, 0))]
)
def test_of_one_vocabulary_columns_that_pad_the_heads_are_each_their_own(
    sizes: tuple[int, int], pairs: int, alone: tuple[int, int]
) -> None:
    others = Others.of(torch.arange(9), torch.arange(9), sizes, same=True)
    assert others.student_K.tolist() == others.teacher_K.tolist() == list(range(pairs))
    assert (len(others.student_U), len(others.teacher_W)) == alone
    other = Others.of(torch.arange(9), torch.arange(9), sizes)  # one that has more than the other has
    assert (len(other.student_K), len(other.student_U), len(other.teacher_W)) == (9, sizes[0] - 9, sizes[1] - 9)


def test_gold_outside_of_a_run_is_its_inner_divergence() -> None:
    p, q = torch.randn(3, 5).double(), torch.randn(3, 5).double()
    for by in ("forward_kl", "jsd"):
        torch.testing.assert_close(divergence("gold", p, q, by=by), divergence(by, p, q))
