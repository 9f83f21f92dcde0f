"""The names of what is seen of each row: one scheme, and all of them listed in ``signals.py``."""

import re

import numpy as np
from objective_cases import Saying, Student, episode, method, prepared, record, teacher_heads

from agentopd.objective import cut, loss, signals

HEADS = teacher_heads("one", "two")
TERMS = [
    {"name": "kl", "target": {"name": "one"}},
    {"target": {"name": "two"}, "divergence": "jsd", "where": {"max_turn": 0}},
    {"name": "pg", "target": {"name": "two"}, "estimator": "score_function"},
    {"name": "sft", "target": {"kind": "taken"}},
]


def test_every_signal_is_named_by_one_scheme_and_listed() -> None:
    said = (Saying("one", turns=[0]), Saying("two"), Saying("three", "sparse"))
    ready = prepared(method(terms=TERMS), [record(episode([2, 3]), *said, heads=HEADS)])
    (batch,) = cut(ready, 100)
    student = Student.new()
    seen = loss(student.hidden(batch), student.head, HEADS, batch, chunk_rows=2, likeliest=1).signals
    names = ("kl", "term1", "pg", "sft")
    assert set(ready.signals) == {f"{name}/{what}" for name in names for what in ("coef", "weight")} | {"pg/advantage"}
    tops = {"student_top/ids", "student_top/logprob"}
    student_and_teachers = {"current_logprob", "student_entropy", "teacher_entropy/one", "teacher_entropy/two"} | tops
    assert set(seen) == student_and_teachers | {"kl/divergence", "term1/divergence", "pg/surrogate", "sft/nll"}
    assert signals.__doc__ is not None
    listed = re.findall(r"``([^`]+)``  +", signals.__doc__)
    found = {re.sub(r"^teacher_entropy/.*", "teacher_entropy/<t>", name) for name in [*ready.signals, *seen]}
    assert {re.sub(r"^(kl|term1|pg|sft)/", "<term>/", name) for name in found} == set(listed)
    assert {name.split("/")[1] for name in seen if name.startswith(names)} == set(signals.LOSSES)


def test_each_teacher_has_its_own_entropy() -> None:
    said = (Saying("one", turns=[0]), Saying("two"))
    ready = prepared(method(terms=TERMS[:2]), [record(episode([2, 3]), *said, heads=HEADS)])
    (batch,) = cut(ready, 100)
    student = Student.new()
    seen = loss(student.hidden(batch), student.head, HEADS, batch, chunk_rows=2).signals
    for name in ("one", "two"):
        expected = ready.rows.teachers[name].entropy_A[batch.row_A.numpy()]
        np.testing.assert_allclose(seen[f"teacher_entropy/{name}"], expected)


def test_the_likeliest_tokens_of_the_student_stand_in_order_and_change_nothing_else() -> None:
    ready = prepared(method(terms=TERMS[:1]), [record(episode([2, 3]), Saying("one"), heads=HEADS)])
    (batch,) = cut(ready, 100)
    student = Student.new()
    hidden_A_H = student.hidden(batch)
    with_tops, plain = (loss(hidden_A_H, student.head, HEADS, batch, chunk_rows=2, likeliest=k) for k in (3, 0))
    top = student.head.logits(hidden_A_H).log_softmax(-1).topk(3)
    np.testing.assert_array_equal(with_tops.signals["student_top/ids"], top.indices)
    np.testing.assert_allclose(with_tops.signals["student_top/logprob"], top.values.detach(), rtol=1e-5)
    assert with_tops.loss.detach() == plain.loss.detach()
    assert {name for name in with_tops.signals if "top" not in name} == set(plain.signals)
    every = loss(hidden_A_H, student.head, HEADS, batch, likeliest=10**6).signals["student_top/ids"]
    assert every.shape[1] == len(student.head.weight_V_H)
