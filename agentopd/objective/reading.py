"""Reading teachers' blocks a chunk of rows at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentopd.objective.blocks import BatchBlock
from agentopd.objective.divergences import log_softmax
from agentopd.objective.head import Head
from agentopd.objective.supports import TeacherRows


@dataclass(frozen=True, slots=True)
class Read:
    """What a term reads of one block in one chunk: M rows of the chunk, and the teacher there."""

    local_M: Tensor
    teacher: TeacherRows


@dataclass(frozen=True, slots=True)
class Teaching:
    """One block in one chunk, computed once for all terms."""

    entry_N: Tensor
    """The block's entries, consecutive."""
    local_N: Tensor
    """The row of each within the chunk."""
    teacher: TeacherRows

    def read(self, entry_M: Tensor) -> Read:
        """The part that one term reads."""
        if len(entry_M) == len(self.entry_N):
            return Read(self.local_N, self.teacher)
        at = entry_M - self.entry_N[:1]
        return Read(self.local_N[at], self.teacher.select(at))


def split(block: BatchBlock, keep_N: Tensor, slices: Sequence[slice]) -> list[Tensor]:
    """The entries of a block that ``keep_N`` marks, for each chunk of rows."""
    entry_M = keep_N.nonzero().squeeze(1)
    inner = torch.tensor([rows.start for rows in slices[1:]], dtype=torch.int64, device=entry_M.device)
    bounds = torch.searchsorted(block.row_N[entry_M], inner)
    return list(torch.tensor_split(entry_M, bounds.tolist()))


@torch.no_grad()
def teaching(
    block: BatchBlock, entry_N: Tensor, rows: slice, heads: Mapping[str, Head], temperature: float, logp_N_V: Tensor
) -> Teaching:
    """What a teacher says of the rows of a chunk, in the student's precision."""
    local_N = block.row_N[entry_N] - rows.start
    if block.dense is None:
        sparse = block.sparse
        assert sparse is not None
        logq, tail = sparse.logprob_N_K[entry_N].to(logp_N_V.dtype), sparse.logtail_N[entry_N].to(logp_N_V.dtype)
        return Teaching(entry_N, local_N, TeacherRows(ids_N_K=sparse.ids_N_K[entry_N], logq_N_K=logq, logtail_N=tail))
    if block.dense.head not in heads:
        raise ValueError(
            f"teacher {block.teacher!r} used head {block.dense.head!r}, which is not among {sorted(heads)}; "
            "give every teacher's heads"
        )
    logits_N_V = heads[block.dense.head].logits(block.dense.hidden_N_H[entry_N])
    check_vocabulary(logp_N_V.shape[-1], logits_N_V.shape[-1], block.teacher)
    return Teaching(entry_N, local_N, TeacherRows(log_softmax(logits_N_V, temperature).to(logp_N_V.dtype)))


def check_vocabulary(student: int, teacher: int, name: str) -> None:
    """Refuses vocabularies of different sizes: which columns are padding is for whoever made the heads to say."""
    if student != teacher:
        raise ValueError(
            f"the vocabulary of teacher {name!r} has {teacher} tokens, the student's {student}; the same tokenizer is needed: cut "
            "padding columns from the head's weight, or use a sparse block"
        )


def check_ids(block: BatchBlock, vocabulary: int) -> None:
    """Refuses a sparse block that names a token which the student does not have."""
    if block.sparse is None or not block.sparse.ids_N_K.numel():
        return
    largest = int(block.sparse.ids_N_K.max())
    if largest >= vocabulary:
        raise ValueError(
            f"teacher {block.teacher!r} names token {largest} and the student has {vocabulary}; the same tokenizer is needed"
        )


def of_rows(settings: Mapping[str, Any], rows: slice, local_M: Tensor | None, dtype: torch.dtype) -> dict[str, Any]:
    """Settings of a chunk, and of some of its rows: a tensor [A] gives one number a row."""

    def pick(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        chosen = value[rows] if local_M is None else value[rows][local_M]
        return chosen.to(dtype) if chosen.is_floating_point() else chosen

    return {name: pick(value) for name, value in settings.items()}
