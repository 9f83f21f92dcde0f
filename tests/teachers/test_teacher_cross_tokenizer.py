"""A model with another tokenizer: what it says of spans, against plain forwards of the same model."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from foreign_cases import FORGETFUL, GLM, HERMES, foreign, own, played
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.errors import ConfigError
from agentopd.models import ModelConfig, load_model
from agentopd.objective import Head, Objective, Prepared, Rows, cut, loss, prepare
from agentopd.records import RecordWriter, thin
from agentopd.records import open as open_records
from agentopd.settings.clock import Clock
from agentopd.teachers import EVERYWHERE, TeacherContext, annotate
from agentopd.teachers.cross_tokenizer import CrossTokenizer, aligned_teacher, cross_tokenizer, shared_out
from agentopd.teachers.rewriting import Aligner, rewritten
from agentopd.tooling.action import call, parse_action
from agentopd.types import Aligned, Annotation, Record, Span, Trajectory
from agentopd.where import Where

STUDENT = Chat(own())
EPISODES = [
    played(STUDENT, ["Let me see. 你好 🙂\n" + call("price", item="red pears", count=3), "It costs 17 in all."], 0),
    played(STUDENT, [call("price", item="pear"), '<tool_call>{"name": "price"</tool_call>', "17, said e\u0301."], 1),
]


def llama(size: int, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    model: LlamaForCausalLM = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    model.train(mode=False)
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    return model


def context(temperature: float = 1.0, load: Any = load_model) -> TeacherContext:
    return TeacherContext("teacher", STUDENT, load, temperature)


def teacher_of(
    template: str = GLM,
    where: Where = EVERYWHERE,
    end_of_turn: bool = True,
    temperature: float = 1.0,
    chat: Chat | None = None,
    model: PreTrainedModel | None = None,
    forms: bool = True,
) -> CrossTokenizer:
    other = chat or Chat(foreign(template))
    aligner = Aligner(STUDENT, other, TokenBytes(own()), TokenBytes(other.tokenizer), end_of_turn, forms)
    return aligned_teacher(context(temperature), model or llama(len(other.tokenizer)), aligner, where, max_tokens=900)


def spans_of(said: Annotation) -> Aligned:
    assert isinstance(said.block, Aligned)
    return said.block


@pytest.mark.parametrize("template", [GLM, HERMES, FORGETFUL])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_spans_have_the_log_probabilities_of_plain_forwards(template: str, temperature: float) -> None:
    teacher = teacher_of(template, temperature=temperature)
    head = teacher.heads["teacher"]
    for trajectory, said in zip(EPISODES, teacher.annotate(EPISODES), strict=True):
        again, block = rewritten(trajectory, teacher.aligner.other, STUDENT), spans_of(said)
        places = [(one.view, one.start + n) for one in again.turns for n in range(len(one.tokens))]
        with torch.no_grad():
            logps = [
                torch.log_softmax(teacher.reader.reads(torch.tensor([tokens])).logits[0] / temperature, -1)
                for tokens in again.tokens
            ]
        ours, theirs = (TokenBytes(one.tokenizer).of for one in (STUDENT, teacher.aligner.other))
        turns = zip(trajectory.turns, again.turns, strict=True)
        same = [pair.same for turn, one in turns for pair in teacher.aligner.beside(trajectory, turn, one).pairs]
        for p, (start, stop) in enumerate(block.span.teacher_P_2.tolist()):
            views, positions = zip(*places[start:stop], strict=True)
            tokens = [again.tokens[v][t] for v, t in places[start:stop]]
            each = [float(logps[v][t - 1][token]) for v, t, token in zip(views, positions, tokens, strict=True)]
            assert block.span.logprob_P[p] == pytest.approx(sum(each), abs=1e-4)
            assert block.rest_P[p] == pytest.approx(sum(each[1:]), abs=1e-4)
            assert (block.rest_P[p] == 0.0) == (len(each) == 1)
            assert block.token_P[p] == tokens[0]
            first_V = logps[views[0]][positions[0] - 1]
            found_V = torch.log_softmax(head.logits(block.dense.hidden_N_H[p]) / temperature, -1)
            torch.testing.assert_close(found_V, first_V, rtol=0, atol=1e-9)
            rows = range(*block.span.student_P_2[p])
            acted = [int(trajectory.segments[said.segment_N[n]].tokens_T[said.index_N[n]]) for n in rows]
            written = (b"".join(ours[i] or b"?" for i in acted), b"".join(theirs[i] or b"!" for i in tokens))
            assert (written[0] == written[1] or written == (b"?", b"!")) == same[p]
            assert said.taken_logprob_N[list(rows)].sum() == pytest.approx(sum(each), abs=1e-4)
            assert (said.taken_logprob_N[list(rows)] <= 0).all()
            entropy = float(-(first_V.exp() * first_V).sum())
            np.testing.assert_allclose(said.entropy_N[list(rows)], entropy, atol=1e-5)
        malformed = [bool(parse_action(turn.action).problems) for turn in trajectory.turns]
        assert said.skip_S.tolist() == malformed


def test_a_span_s_log_probability_is_shared_in_proportion_to_the_student_s() -> None:
    """-3 on rows of -1 and -2; -1 on one; -4 on two of 0."""
    found = shared_out(np.array([-3.0, -1.0, -4.0]), np.array([2, 1, 2]), np.array([-1.0, -2.0, -5.0, 0.0, 0.0]))
    np.testing.assert_allclose(found, [-1.0, -2.0, -1.0, -2.0, -2.0])


def test_with_the_student_s_own_tokenizer_it_says_what_a_local_teacher_does() -> None:
    model = llama(len(own()))
    teacher = teacher_of(chat=STUDENT, model=model)
    for trajectory, said in zip(EPISODES, teacher.annotate(EPISODES), strict=True):
        block, segment = spans_of(said), trajectory.segments[0]
        assert said.index_N.tolist() == np.flatnonzero(segment.turn_T >= 0).tolist()
        assert np.diff(block.span.student_P_2, axis=1).tolist() == [[1]] * len(said.index_N)
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.from_numpy(segment.tokens_T[None]).long()).logits[0], -1)
        expected = [float(logp[t - 1][int(segment.tokens_T[t])]) for t in said.index_N]
        np.testing.assert_allclose(said.taken_logprob_N, expected, atol=1e-4)
        assert block.matched.student_K.tolist() == list(range(len(own())))


@pytest.mark.parametrize("template", [GLM, HERMES, FORGETFUL])
def test_the_rows_of_a_turn_sum_to_all_that_the_teacher_writes_in_it(template: str) -> None:
    """Its own wrappers and the end of its turn too: the log-probability of the action, in the teacher's form."""
    teacher = teacher_of(template)
    for trajectory, said in zip(EPISODES, teacher.annotate(EPISODES), strict=True):
        again, segment = rewritten(trajectory, teacher.aligner.other, STUDENT), trajectory.segments[0]
        kept = {turn.index for turn in trajectory.turns if not parse_action(turn.action).problems}
        assert said.index_N.tolist() == np.flatnonzero(np.isin(segment.turn_T, list(kept))).tolist()
        for turn, theirs in zip(trajectory.turns, again.turns, strict=True):
            if turn.index not in kept:
                continue
            view = again.tokens[theirs.view]
            with torch.no_grad():
                logp = torch.log_softmax(teacher.reader.reads(torch.tensor([view])).logits[0], -1)
            expected = sum(float(logp[theirs.start + n - 1][token]) for n, token in enumerate(theirs.tokens))
            rows = segment.turn_T[said.index_N] == turn.index
            assert said.taken_logprob_N[rows].sum() == pytest.approx(expected, rel=1e-4)


def test_only_what_is_selected_is_read() -> None:
    first = teacher_of(where=Where(max_turn=0)).annotate(EPISODES)
    for trajectory, said in zip(EPISODES, first, strict=True):
        assert set(trajectory.segments[0].turn_T[said.index_N].tolist()) == {0}
        assert said.skip_S.tolist() == [False] + [True] * (len(trajectory.turns) - 1)
    nothing = teacher_of(where=Where(actor=("expert",))).annotate(EPISODES)
    assert all(len(said.index_N) == 0 and said.skip_S.all() for said in nothing)


def test_an_episode_that_is_too_long_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    long = played(STUDENT, ["word " * 800], 3)
    teacher, alone = teacher_of(), teacher_of()
    said = teacher.annotate([*EPISODES, long])
    assert [len(one.index_N) > 0 for one in said] == [True, True, False]
    alone.annotate(EPISODES)
    assert teacher.metrics() == alone.metrics()  # nothing of it counts as aligned
    assert "its model reads at most 1024" in caplog.text
    with pytest.raises(Exception, match=r"teacher 'teacher', trajectory run/0/3/0: in its tokens it has \d+"):
        teacher_of().annotate([long])


def test_how_much_is_aligned_is_told_and_measured(caplog: pytest.LogCaptureFixture) -> None:
    teacher = teacher_of(forms=False)
    said = teacher.annotate(EPISODES)
    teacher.annotate(EPISODES)
    assert caplog.text.count("the rest has no counterpart and is not taught") == 1
    measured = teacher.metrics()
    assert 0.3 < measured["aligned_bytes"] < 0.9
    assert measured["rewritten_bytes"] == measured["unaligned_turns"] == 0.0
    assert teacher.metrics() == {}
    teacher.annotate(EPISODES[:1])
    measured, whole = teacher.metrics(), teacher_of()
    whole.annotate(EPISODES[:1])
    told = whole.metrics()
    assert told["aligned_bytes"] == measured["aligned_bytes"]
    assert told["aligned_bytes"] + told["rewritten_bytes"] == pytest.approx(1.0)
    assert caplog.text.count("the rest has no counterpart and is not taught") == 1
    whole.annotate(EPISODES[1:])
    assert whole.metrics()["unaligned_turns"] == 1 / 3  # the malformed one
    share = said[0].statistics["aligned"]
    assert share[-1] == 1.0
    assert 0.2 < share[0] < 0.9


def of(records: list[Record], divergence: Any) -> Prepared:
    objective = Objective.model_validate({"divergence": divergence, "aggregate": "sequence"})
    return prepare(objective, Rows.of(records), Clock(0, 10))


def total(ready: Prepared, heads: dict[str, Head], max_tokens: int = 10**6) -> float:
    embedding = torch.randn(len(own()), 16, generator=torch.Generator().manual_seed(3)).double()
    student = Head(torch.randn(len(own()), 16, generator=torch.Generator().manual_seed(4)).double())
    found = 0.0
    for batch in cut(ready, max_tokens):
        hidden = embedding[batch.input_ids_B_T].cumsum(1).tanh()[batch.sample_A, batch.position_A]
        found += loss(hidden, student, heads, batch, chunk_rows=17).loss.item()
    return found


@pytest.mark.parametrize("kind", ["uld", "gold"])
def test_a_step_learns_from_it_however_it_is_cut(kind: str) -> None:
    teacher = teacher_of()
    ready = of(annotate({"teacher": teacher}, EPISODES), {"kind": kind})
    heads = dict(teacher.heads)
    assert total(ready, heads) == pytest.approx(total(ready, heads, 1), rel=1e-12)
    assert total(ready, heads) > 0.1


def test_invariant_2_what_it_thinks_elsewhere_changes_nothing() -> None:
    """Its hidden states where nothing is aligned, which are those of every other token that it reads."""
    teacher = teacher_of(GLM, where=Where(min_turn=1, max_turn=1), end_of_turn=False)
    records = annotate({"teacher": teacher}, EPISODES)
    block = spans_of(records[0].annotations[0])
    aligned = {int(t) for start, stop in block.span.teacher_P_2 for t in range(start, stop)}
    again = rewritten(EPISODES[0], teacher.aligner.other, STUDENT)
    assert len(aligned) < sum(len(turn.tokens) for turn in again.turns)
    assert len(block.dense.hidden_N_H) == len(block.token_P)  # nothing else is there to be perturbed


def test_records_keep_the_spans(tmp_path: Path) -> None:
    records = annotate({"teacher": teacher_of()}, EPISODES)
    blocks: tuple[Literal["sampled", "sparse"], ...] = ("sampled", "sparse")
    for block in blocks:
        thinned = [thin(record, block, heads={}) for record in records]
        for record, one in zip(records, thinned, strict=True):
            assert one.annotations[0] == replace(record.annotations[0], block=spans_of(record.annotations[0]).span)
    RecordWriter(tmp_path).write(0, thinned)
    assert list(open_records(tmp_path)) == thinned
    assert isinstance(thinned[0].annotations[0].block, Span)


def saved(folder: Path, template: str = GLM, size: int | None = None) -> str:
    tokenizer = foreign(template)
    llama(size or len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_kind_loads_a_folder_and_its_tokenizer(tmp_path: Path) -> None:
    made = cross_tokenizer(context(), model=saved(tmp_path), dtype="float64")
    assert made.model is None  # it does not act
    [said] = made.annotate(EPISODES[:1])
    [expected] = teacher_of().annotate(EPISODES[:1])
    np.testing.assert_allclose(said.taken_logprob_N, expected.taken_logprob_N, atol=1e-4)
    assert isinstance(made, CrossTokenizer)
    again = cross_tokenizer(context(), model=saved(tmp_path / "again"), dtype="float64")
    for setting in ("end_of_turn", "forms"):
        one: dict[str, Any] = {setting: False}
        other = cross_tokenizer(context(), model=saved(tmp_path / "again"), dtype="float64", **one)
        assert made.identity == again.identity != other.identity
    assert teacher_of().identity is None
    assert made.reader.reads.get_input_embeddings().weight.requires_grad is False


def test_a_model_that_knows_fewer_tokens_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, size=64)
    with pytest.raises(ConfigError, match=r"knows 64 token ids and its tokenizer makes 700"):
        cross_tokenizer(context(load=lambda config: load_model(ModelConfig(model=folder))), model=folder)


def test_annotations_that_do_not_fit_their_spans_are_refused() -> None:
    teacher = teacher_of()

    class Wrong:
        name, heads, where = "teacher", teacher.heads, EVERYWHERE

        def annotate(self, trajectories: list[Trajectory]) -> list[Annotation]:
            [said] = teacher.annotate(trajectories)
            block = spans_of(said)
            ends = block.span.student_P_2.copy()
            ends[0, 1] += 1
            return [replace(said, block=replace(block, span=replace(block.span, student_P_2=ends)))]

    with pytest.raises(Exception, match=r"its spans are not one behind the other over its \d+ rows"):
        annotate({"teacher": Wrong()}, EPISODES[:1])  # type: ignore[dict-item]
