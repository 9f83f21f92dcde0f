"""A served teacher that is asked about the student's likeliest ids, beside a local one that gives everything."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from serving_cases import Served, serving
from teacher_cases import VOCAB, context, episode, tiny_llama
from torch import Tensor
from transformers import PreTrainedModel

from agentopd import records
from agentopd.adapters import adapted
from agentopd.errors import ConfigError
from agentopd.forward import hidden_states
from agentopd.models import head_of
from agentopd.objective import Objective, Rows, cut, loss, prepare
from agentopd.settings.clock import Clock
from agentopd.teachers import Teacher, annotate
from agentopd.teachers.local import local
from agentopd.teachers.served import ServedTeacher, served
from agentopd.teachers.views import own_view, select
from agentopd.types import Sparse, Trajectory, View

MODEL, STUDENT = tiny_llama(0), tiny_llama(5)
EPISODES = [
    episode("...00..1", seed=1),
    episode("..0000.1", "....22", seed=2),
    episode("..00.11", seed=3, failed=True),
    episode(".0", seed=4),
]
K = 5


@pytest.fixture
def server() -> Iterator[Served]:
    with serving(MODEL) as one:
        yield one


def teacher_of(server: Served, of: str, student: PreTrainedModel = STUDENT, **settings: Any) -> ServedTeacher:
    lent = replace(context(), student=lambda: student)
    made = served(lent, **{"url": server.url, "patience": 5.0, "top_k": K, "ids": of, **settings})
    assert isinstance(made, ServedTeacher)
    return made


def hinted(trajectory: Trajectory, segment: int) -> list[View]:
    """A view a turn, each behind tokens of its own that the student did not see."""
    views = []
    for turn in (turn for turn in trajectory.turns if turn.segment == segment):
        own = own_view(trajectory, segment)
        one = select(own, (own.index_A >= turn.start) & (own.index_A < turn.stop))
        before = np.arange(3 + turn.index, dtype=np.int32)
        tokens_T = np.concatenate([before, one.tokens_T])
        views.append(replace(one, tokens_T=tokens_T, position_A=one.position_A + np.int32(len(before))))
    return views


def learned(teacher: Teacher, student: PreTrainedModel, **term: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its gradients."""
    objective = Objective.model_validate(term)
    [batch] = cut(prepare(objective, Rows.of(annotate({"teacher": teacher}, EPISODES)), Clock(0, 1)), 100_000)
    student.zero_grad()
    hidden_A_H = hidden_states(student, batch.input_ids_B_T)[batch.sample_A, batch.position_A]
    value = loss(hidden_A_H, head_of(student), teacher.heads, batch).loss
    torch.autograd.backward(value)
    grads = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    return value.detach(), grads


@pytest.mark.parametrize("shown", [None, hinted])
@pytest.mark.parametrize(
    ("of", "k", "divergence"),
    [("student", K, "reverse_kl"), ("student", 3, "reverse_kl"), ("union", K, "jsd"), ("union", K, "forward_kl")],
)
def test_it_teaches_what_a_local_one_does(server: Served, of: str, k: int, divergence: str, shown: Any) -> None:
    here: Any = local(context(model=MODEL), model="a-folder")
    there: Any = teacher_of(server, of)
    if shown is not None:
        here, there = replace(here, shown=shown), replace(there, shown=shown)
    term = {"support": {"kind": "top_k", "k": k, "of": of}, "divergence": divergence}
    (value, grads), (other, others) = learned(here, STUDENT, **term), learned(there, STUDENT, **term)
    assert value > 0.1
    torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-4)
    assert grads.keys() == others.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(others[name], grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("of", ["student", "union"])
def test_without_a_tail_too(server: Served, of: str) -> None:
    normal = {"tail": False, "normalise_teacher": True, "normalise_student": True}
    term = {"support": {"kind": "top_k", "k": K, "of": of, **normal}, "divergence": "reverse_kl"}
    here = local(context(model=MODEL), model="a-folder")
    (value, grads), (other, others) = (learned(one, STUDENT, **term) for one in (here, teacher_of(server, of)))
    torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-4)
    for name, grad in grads.items():
        torch.testing.assert_close(others[name], grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("of", ["student", "union"])
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "jsd"])
def test_a_student_that_is_its_teacher_learns_nothing(server: Served, of: str, divergence: str) -> None:
    term = {"support": {"kind": "top_k", "k": K, "of": of}, "divergence": divergence}
    student = tiny_llama(0)
    value, grads = learned(teacher_of(server, of, student=student), student, **term)
    assert abs(float(value)) < 1e-5
    assert max(float(grad.abs().max()) for grad in grads.values()) < 1e-3


def test_under_an_adapter_it_is_the_student_with_it(server: Served) -> None:
    student = adapted(tiny_llama(5), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), 0)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    term = {"support": {"kind": "top_k", "k": K, "of": "student"}, "divergence": "reverse_kl"}
    here = local(context(model=MODEL), model="a-folder")
    teacher = teacher_of(server, "student", student=student)
    (value, grads), (other, others) = (learned(one, student, **term) for one in (here, teacher))
    torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-4)
    assert grads
    assert all(torch.allclose(others[name], grad, rtol=1e-4, atol=1e-4) for name, grad in grads.items())
    plain = teacher_of(server, "student", student=tiny_llama(5)).annotate(EPISODES)[0].block
    worn = teacher.annotate(EPISODES)[0].block
    assert isinstance(plain, Sparse)
    assert isinstance(worn, Sparse)
    assert (plain.ids_N_K != worn.ids_N_K).any()


def test_each_token_has_the_likeliest_ids_of_the_student_as_it_is(server: Served) -> None:
    student = tiny_llama(7).train()
    teacher = teacher_of(server, "student", student=student, max_tokens=8)
    for _ in range(2):
        [said, *_] = teacher.annotate(EPISODES)
        with torch.no_grad():
            logits_T_V = student(torch.from_numpy(EPISODES[0].segments[0].tokens_T[None]).long()).logits[0]
            best_N_K = logits_T_V[torch.from_numpy(said.index_N).long() - 1].topk(K).indices
            assert isinstance(said.block, Sparse)
            np.testing.assert_array_equal(said.block.ids_N_K, best_N_K.numpy())
            student.lm_head.weight.normal_()
    assert student.training


def test_a_union_is_its_own_then_the_students(server: Served) -> None:
    own, other, both = (teacher_of(server, of).annotate(EPISODES)[1].block for of in ("teacher", "student", "union"))
    assert isinstance(own, Sparse)
    assert isinstance(other, Sparse)
    assert isinstance(both, Sparse)
    np.testing.assert_array_equal(both.ids_N_K[:, :K], own.ids_N_K)
    repeated = (other.ids_N_K[:, :, None] == own.ids_N_K[:, None]).any(-1)
    np.testing.assert_array_equal(both.ids_N_K[:, K:], np.where(repeated, -1, other.ids_N_K))
    assert [block.of for block in (own, other, both)] == ["teacher", "student", "union"]
    assert (both.logtail_N <= np.minimum(own.logtail_N, other.logtail_N) + 1e-5).all()


@pytest.mark.parametrize("of", ["teacher", "student", "union"])
def test_a_record_of_it_is_read_back_equal(server: Served, of: str, tmp_path: Path) -> None:
    kept = annotate({"teacher": teacher_of(server, of)}, EPISODES)
    records.RecordWriter(tmp_path / "records").write(0, kept)
    assert list(records.open(tmp_path / "records")) == kept


def test_nothing_is_asked_before_the_student_has_read(server: Served) -> None:
    teacher = teacher_of(server, "student")
    before = len(server.asked)
    for trajectory in EPISODES:
        teacher.begin(trajectory)
    assert len(server.asked) == before
    said = teacher.annotate(EPISODES)
    assert len(server.questions) == 4  # one a view
    assert all(len(row) <= K + 1 for one in server.questions for row in _rows(one))
    assert said[2].skip_S.all()
    assert teacher.identity is None


def _rows(asked: dict[str, Any]) -> Sequence[Sequence[int]]:
    rows: Sequence[Sequence[int]] = asked["sampling_params"]["prompt_logprob_token_ids"]
    return rows


def test_only_tokens_are_asked_about(server: Served) -> None:
    """A head may be wider than the tokenizer, and the server's model need not be."""
    wide = tiny_llama(5)
    wide.resize_token_embeddings(VOCAB + 8, mean_resizing=False)
    with torch.no_grad():
        wide.lm_head.weight[VOCAB:] = 50.0 * wide.lm_head.weight[:8]
    for one in teacher_of(server, "student", student=wide).annotate(EPISODES):
        assert one.skip_S.all() or (isinstance(one.block, Sparse) and one.block.ids_N_K.max() < VOCAB)


@pytest.mark.parametrize("top_k", [0, -1])
def test_it_is_said_how_many(server: Served, top_k: int) -> None:
    with pytest.raises(ConfigError, match=rf"^teachers\.teacher\.top_k={top_k}: with ids: union it is how many"):
        teacher_of(server, "union", top_k=top_k)


def test_without_a_student_there_is_nobody_to_choose(server: Served) -> None:
    with pytest.raises(ConfigError, match=r"^teachers\.teacher.*ids=student: .*set ids: teacher"):
        served(context(), url=server.url, ids="student")


def test_another_support_than_it_gives_is_refused(server: Served) -> None:
    teacher = teacher_of(server, "student")
    for support, said in (
        (
            {"k": K},
            r"objective\.support\.of=teacher: teacher 'teacher' gives the likeliest tokens of 'student'; set of: student, or",
        ),
        (
            {"k": 6, "of": "student"},
            r"objective\.support\.k=6: teacher 'teacher' gives the student's 5 likeliest tokens; set k to at most 5",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            learned(teacher, STUDENT, support={"kind": "top_k", **support}, divergence="reverse_kl")
    with pytest.raises(
        ConfigError, match=r"support\.k=4: .* a union of its own and the student's 5 likeliest tokens; set k to 5, or"
    ):
        learned(teacher_of(server, "union"), STUDENT, support={"kind": "top_k", "k": 4, "of": "union"})


def test_ids_of_two_kinds_do_not_go_together(server: Served) -> None:
    kinds = {"teacher": EPISODES[:1], "student": EPISODES[1:]}
    mixed = [one for of, some in kinds.items() for one in annotate({"teacher": teacher_of(server, of)}, some)]
    objective = Objective.model_validate({"support": {"kind": "top_k", "k": K}})
    with pytest.raises(
        ConfigError, match=r"^teacher 'teacher' gave the likeliest ids of student and teacher in different"
    ):
        cut(prepare(objective, Rows.of(mixed), Clock(0, 1)), 100_000)
