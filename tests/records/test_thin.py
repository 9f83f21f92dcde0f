"""Thinning: what is kept of a dense block is exact."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from record_cases import plain_record

from agentopd.errors import RecordError
from agentopd.records import thin
from agentopd.types import Dense, Mixture, Record, Sampled, Sparse


@dataclass(frozen=True)
class Linear:
    weight_V_H: torch.Tensor

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight_V_H.T


def _dense(hidden_N_H: torch.Tensor) -> Record:
    record = plain_record(0, 0, tokens=2 + len(hidden_N_H))
    return Record(record.trajectory, (replace(record.annotations[0], block=Dense(hidden_N_H, "model")),))


def test_sampled_keeps_what_every_annotation_carries() -> None:
    record = _dense(torch.zeros(2, 3))
    (thinned,) = thin(record).annotations
    assert thinned.block == Sampled()
    np.testing.assert_array_equal(thinned.taken_logprob_N, record.annotations[0].taken_logprob_N)


def test_sparse_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8: the two most likely, and log(1/4) for the rest."""
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()
    heads = {"model": Linear(torch.eye(4))}
    block = thin(_dense(logits), "sparse", k=2, heads=heads).annotations[0].block
    assert isinstance(block, Sparse)
    np.testing.assert_array_equal(block.ids_N_K, [[1, 3]])
    np.testing.assert_allclose(block.logprob_N_K, np.log([[0.5, 0.25]]), atol=1e-6)
    np.testing.assert_allclose(block.logtail_N, np.log([0.25]), atol=1e-6)
    kinds = [str(array.dtype) for array in (block.ids_N_K, block.logprob_N_K, block.logtail_N)]
    assert kinds == ["int32", "float32", "float32"]


def test_sparse_agrees_with_the_full_distribution_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentopd.records.thinning.CHUNK_ROWS", 3)
    torch.manual_seed(0)
    hidden, weight = torch.randn(8, 5), torch.randn(30, 5)
    heads = {"model": Linear(weight)}
    block = thin(_dense(hidden), "sparse", k=4, heads=heads, temperature=0.7).annotations[0].block
    assert isinstance(block, Sparse)
    logq = torch.log_softmax((hidden @ weight.T).double() / 0.7, -1)
    expected = logq.topk(4)
    np.testing.assert_array_equal(block.ids_N_K, expected.indices)
    np.testing.assert_allclose(block.logprob_N_K, expected.values, atol=1e-5)
    np.testing.assert_allclose(block.logtail_N, logq.scatter(1, expected.indices, -torch.inf).logsumexp(1), atol=1e-5)


def test_the_tail_is_exact_where_the_top_holds_nearly_everything() -> None:
    """One token holds all but 3 exp(-40): far below what 1 - p can tell in float32."""
    heads = {"model": Linear(torch.eye(4))}
    block = thin(_dense(torch.tensor([[40.0, 0.0, 0.0, 0.0]])), "sparse", k=1, heads=heads).annotations[0].block
    assert isinstance(block, Sparse)
    np.testing.assert_allclose(block.logtail_N, [np.log(3) - 40], rtol=1e-6)


def test_a_mixture_becomes_the_mean_of_its_members_distributions() -> None:
    """(1/2, 1/4, 1/8, 1/8) and (1/2, 1/8, 1/8, 1/4), the second by logits that are shifted and divided by a temperature."""
    one = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    other = torch.tensor([[0.5, 0.125, 0.125, 0.25]]).log() + 3.0
    mixture = Mixture((Dense(2.0 * one, "model"), Dense(2.0 * torch.cat([other, other], 1), "wide")))
    heads = {"model": Linear(torch.eye(4)), "wide": Linear(torch.cat([torch.eye(4), torch.zeros(4, 4)], 1))}
    record = _dense(one)
    kept = Record(record.trajectory, (replace(record.annotations[0], block=mixture),))
    assert thin(kept).annotations[0].block == Sampled()
    block = thin(kept, "sparse", k=3, heads=heads, temperature=2.0).annotations[0].block
    assert isinstance(block, Sparse)
    assert block.ids_N_K[0, 0] == 0
    assert set(block.ids_N_K[0, 1:]) == {1, 3}
    np.testing.assert_allclose(np.exp(block.logprob_N_K), [[0.5, 0.1875, 0.1875]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(block.logtail_N), [0.125], rtol=1e-6)
    with pytest.raises(RecordError, match="head 'wide' of teacher 'teacher'"):
        thin(kept, "sparse", heads={"model": Linear(torch.eye(4))})


def test_k_beyond_the_vocabulary_keeps_it_all() -> None:
    heads = {"model": Linear(torch.eye(4))}
    block = thin(_dense(torch.zeros(2, 4)), "sparse", k=9, heads=heads).annotations[0].block
    assert isinstance(block, Sparse)
    assert block.ids_N_K.shape == (2, 4)
    assert np.isneginf(block.logtail_N).all()


def test_no_rows_stay_no_rows() -> None:
    heads = {"model": Linear(torch.eye(4))}
    block = thin(_dense(torch.zeros(0, 4)), "sparse", k=2, heads=heads).annotations[0].block
    assert isinstance(block, Sparse)
    assert (block.ids_N_K.shape, block.logtail_N.shape) == ((0, 2), (0,))


def test_other_blocks_stay() -> None:
    record = plain_record(0, 0)
    assert thin(record, "sparse") == record


def test_a_missing_head_is_named() -> None:
    with pytest.raises(RecordError, match=r"head 'model' of teacher 'teacher'.*heads has: other;"):
        thin(_dense(torch.zeros(2, 4)), "sparse", heads={"other": Linear(torch.eye(4))})
    with pytest.raises(RecordError, match="k=0"):
        thin(_dense(torch.zeros(2, 4)), "sparse", k=0)
