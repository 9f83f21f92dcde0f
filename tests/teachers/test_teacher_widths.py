"""Models of one tokenizer whose heads are filled up to different sizes, as those of Qwen2.5 are: 151,936 rows, and 152,064."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from model_cases import widened
from serving_cases import Served, serving
from teacher_cases import VOCAB, context, episode, tiny_llama
from transformers import PreTrainedModel

from agentopd.models import head_of
from agentopd.objective import Head
from agentopd.teachers import TeacherContext, annotate
from agentopd.teachers.local import local
from agentopd.teachers.served import served
from agentopd.types import Sparse


def of_student(name: str = "teacher", model: PreTrainedModel | None = None) -> TeacherContext:
    lent = context(name, model)
    return TeacherContext(name, lent.chat, lent.load, lent.temperature, vocabulary=VOCAB)


def test_a_wider_model_is_cut_to_the_students_ids() -> None:
    plain, wide = (
        annotate({"teacher": local(of_student(model=one), model="m")}, [episode("..00.11")])[0].annotations[0]
        for one in (tiny_llama(0), widened(tiny_llama(0), 9))
    )
    np.testing.assert_allclose(wide.taken_logprob_N, plain.taken_logprob_N, atol=1e-5)
    np.testing.assert_allclose(wide.entropy_N, plain.entropy_N, atol=1e-5)


def said(server: Served, top_k: int) -> tuple[Sparse, np.ndarray]:
    (record,) = annotate({"teacher": served(of_student(), url=server.url, top_k=top_k)}, [episode("..00.11")])
    (one,) = record.annotations
    assert isinstance(one.block, Sparse)
    return one.block, one.taken_logprob_N


def test_so_is_a_wider_server() -> None:
    with serving(tiny_llama(0)) as plain, serving(widened(tiny_llama(0), 9)) as wide:
        (own, own_N), (cut, cut_N) = said(plain, -1), said(wide, -1)
    np.testing.assert_array_equal(cut.ids_N_K, own.ids_N_K)
    np.testing.assert_allclose(cut.logprob_N_K, own.logprob_N_K, atol=1e-5)
    np.testing.assert_allclose(cut_N, own_N, atol=1e-5)


def test_of_a_top_k_what_is_no_id_of_the_students_is_outside() -> None:
    model = widened(tiny_llama(0), 9)
    with torch.no_grad():
        head_of(model).weight_V_H[-9:] *= 20.0
    with serving(model) as server:
        block, _ = said(server, 12)
    assert (block.ids_N_K < VOCAB).all()
    assert (block.ids_N_K == -1).any()  # or this tests nothing
    kept_N = np.where(block.ids_N_K >= 0, np.exp(block.logprob_N_K), 0.0).sum(1)
    np.testing.assert_allclose(kept_N + np.exp(block.logtail_N), 1.0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_narrower_head_gives_the_others_no_probability(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    head = Head(torch.randn(5, 3, dtype=dtype), torch.randn(5, dtype=dtype) if bias else None, scale=0.5)
    hidden_N_H = torch.randn(4, 3, dtype=dtype)
    logq_N_V = torch.log_softmax(head.fitted(8).logits(hidden_N_H).float(), -1)
    own_N_V = torch.log_softmax(head.logits(hidden_N_H).float(), -1)
    torch.testing.assert_close(logq_N_V[:, :5], own_N_V, atol=1e-3, rtol=0)
    assert logq_N_V.isfinite().all()
    assert (logq_N_V[:, 5:].exp() == 0).all()
    assert head.fitted(5).weight_V_H.data_ptr() == head.weight_V_H.data_ptr()
    capped = Head(head.weight_V_H, head.bias_V, softcap=30.0)
    assert len(capped.fitted(8).weight_V_H) == 5


def test_an_episode_with_an_id_that_the_narrower_teacher_lacks_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    teacher = local(context("teacher", tiny_llama(0)), model="m")
    plain, odd = episode("..00.11"), episode("..00.11", seed=1)
    [segment] = odd.segments
    tokens_T = segment.tokens_T.copy()
    tokens_T[np.flatnonzero(segment.turn_T >= 0)[-1]] = VOCAB + 3
    odd = replace(odd, segments=(replace(segment, tokens_T=tokens_T),))
    read, skipped = teacher.annotate([plain, odd])
    assert len(read.segment_N)
    assert skipped.skip_S.all()
    assert f"holds the token id {VOCAB + 3}" in caplog.text
