"""Reading: what teachers say of a micro-batch, a chunk of rows at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Self, TypeAlias

import torch
from torch import Tensor

from agentopd.errors import ConfigError
from agentopd.objective.apart import Others, SpanRows
from agentopd.objective.batch import Batch, BatchTerm
from agentopd.objective.blocks import BatchBlock, SparseRows
from agentopd.objective.chunked import taken_logprob
from agentopd.objective.distributions import entropy, log_softmax, mixture
from agentopd.objective.floor import FLOOR
from agentopd.objective.head import Head
from agentopd.objective.runs import BatchSpans
from agentopd.objective.signals import (
    CURRENT_LOGPROB,
    STUDENT_ENTROPY,
    STUDENT_TOP_IDS,
    STUDENT_TOP_LOGPROB,
    teacher_entropy,
)
from agentopd.objective.supports import TeacherRows
from agentopd.types import Dense


@dataclass(frozen=True, slots=True)
class Read:
    """What one term reads of one block in one tile: M rows, the student there and the teacher there, at the term's temperature."""

    local_M: Tensor
    """The row of each within the tile."""
    logp_M_V: Tensor
    teacher: TeacherRows
    further: Mapping[str, Tensor]
    """Log-probabilities [M, V] of the other teachers that the term's target is made of, by the settings that name them."""
    spans: SpanRows | None = None
    """What a teacher with a vocabulary of its own says instead, where M spans begin."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """One block in one tile, computed once for all terms."""

    name: str
    first: int
    """The block's entry that its first row is; the others follow."""
    local_N: Tensor
    """The row of each within the tile."""
    teacher: TeacherRows
    tempered: Callable[[float], Tensor] | None = None
    """The log-probabilities [N, V] at a further temperature, where the teacher gives full distributions."""
    spans: SpanRows | None = None
    """What a teacher with a vocabulary of its own says instead."""

    def at(self, temperature: float) -> TeacherRows:
        """What the teacher says at a further temperature; a top-k knows only its own."""
        if temperature == 1.0 or self.tempered is None:
            return self.teacher
        return replace(self.teacher, logq_N_V=self.tempered(temperature))

    def read(self, entry_M: Tensor, temperature: float) -> tuple[Tensor, TeacherRows, SpanRows | None]:
        """The rows of the tile that one term reads, and what is said of them."""
        if len(entry_M) == len(self.local_N):
            return self.local_N, self.at(temperature), self.spans
        at = entry_M - self.first
        return self.local_N[at], self.at(temperature).select(at), self.spans and self.spans.select(at)


@dataclass(frozen=True, slots=True)
class Tile:
    """A few rows while their logits exist: all that the loss of a term is made of."""

    rows: slice
    """Which rows of the micro-batch."""
    logp_N_V: Tensor
    token_N: Tensor
    """The token taken."""
    taken_logprob_N: Tensor
    """The student's log-probability of it."""
    teachings: tuple[Teaching, ...]
    """One a block."""
    entries: tuple[Mapping[int, Tensor], ...]
    """For each term, the blocks of its first teacher, and which entries of each it reads."""
    further: tuple[Mapping[str, str], ...]
    """For each term, the other teachers of its target, by the settings that name them."""
    keys: tuple[str, ...]
    """Where each term stands in a configuration, for messages."""
    temperatures: tuple[float, ...]
    """Of each term, on top of the one that was sampled at."""

    def reads(self, term: int) -> Iterator[Read]:
        """What a term reads, block by block; copies of rows live one at a time."""
        temperature = self.temperatures[term]
        for block, entry_M in self.entries[term].items():
            if len(entry_M):
                local_M, teacher, spans = self.teachings[block].read(entry_M, temperature)
                further = {
                    setting: self._of(f"{self.keys[term]}.target.{setting}", name, local_M, temperature)
                    for setting, name in self.further[term].items()
                }
                logp_M_V = _rows(self.logp_N_V, local_M)
                yield Read(local_M, _tempered(logp_M_V, temperature), teacher, further, spans)

    def _of(self, key: str, name: str, local_M: Tensor, temperature: float) -> Tensor:
        """The log-probabilities [M, V] of a teacher on some rows, which its blocks cover."""
        said = [teaching for teaching in self.teachings if teaching.name == name]
        full_N_V = torch.empty_like(self.logp_N_V)
        for teaching in said:
            logq_N_V = teaching.at(temperature).logq_N_V
            if logq_N_V is None:
                raise ConfigError(
                    f"{key}={name}: the target is made of full distributions, and teacher {name!r} gives only its top-k; name one that "
                    "gives full distributions"
                )
            if len(teaching.local_N) == len(full_N_V):
                return _rows(logq_N_V, local_M)
            full_N_V[teaching.local_N] = logq_N_V
        return full_N_V[local_M]

    def signals(self) -> dict[str, Tensor]:
        """What is seen of the rows whatever the terms, [N] each, detached."""
        seen = {CURRENT_LOGPROB: self.taken_logprob_N.detach(), STUDENT_ENTROPY: entropy(self.logp_N_V.detach())}
        for teaching in self.teachings:
            logq_N_V = teaching.spans.logq_N_W if teaching.spans else teaching.teacher.logq_N_V
            if logq_N_V is not None:
                nothing_N = torch.full_like(seen[STUDENT_ENTROPY], torch.nan)
                column_N = seen.setdefault(teacher_entropy(teaching.name), nothing_N)
                column_N[teaching.local_N] = entropy(logq_N_V)
        return seen

    def likeliest(self, k: int) -> dict[str, Tensor]:
        """The ``k`` likeliest tokens of the student [N, k], all where there are fewer, and their log-probabilities; detached."""
        top_N_K, ids_N_K = self.logp_N_V.detach().topk(min(k, self.logp_N_V.shape[1]), dim=1)
        return {STUDENT_TOP_IDS: ids_N_K, STUDENT_TOP_LOGPROB: top_N_K}


@dataclass(frozen=True, slots=True)
class Projected:
    """The matrix product of a dense block in one chunk, before its head's scale and soft-cap."""

    head: Head
    first: int
    """The block's entry that its first row is; the others follow."""
    projected_N_V: Tensor

    def logits(self, entries: slice) -> Tensor:
        """The logits [M, V] of some of the block's entries."""
        return self.head.shaped(self.projected_N_V[entries.start - self.first : entries.stop - self.first])


Projection: TypeAlias = Sequence[Projected]
"""Of one block in one chunk: one product, one a member of a mixture, none of a sparse block."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the blocks of a micro-batch meet its tiles of rows; made once, since finding out waits for the device."""

    batch: Batch
    number: Mapping[int, int]
    """Of each tile, by its first row."""
    whole: tuple[Sequence[slice], ...]
    """The entries of each block, by tile; numbers of the host's, so that no chunk waits for the device."""
    parts: tuple[Mapping[int, Sequence[Tensor]], ...]
    """For each term, the blocks of its first teacher, and by tile the entries of each that it trains."""
    further: tuple[Mapping[str, str], ...]
    temperatures: tuple[float, ...]
    """See ``Tile``."""
    others: tuple[Others | None, ...]
    """Of each block whose teacher has a vocabulary of its own, how that goes together with the student's."""

    @classmethod
    def of(cls, batch: Batch, slices: Sequence[slice], vocabulary: int, heads: Mapping[str, Head]) -> Self:
        """The plan of a micro-batch in tiles, consecutive slices of its rows, for a student of ``vocabulary`` tokens."""
        whole = tuple(_slices(block, slices) for block in batch.blocks)
        number = {tile.start: i for i, tile in enumerate(slices)}
        parts = tuple(_parts(term, batch, slices) for term in batch.terms)
        further = tuple(dict([*term.term.reads.items()][1:]) for term in batch.terms)
        temperatures = tuple(term.temperature for term in batch.terms)
        others = tuple(_others(block, vocabulary, heads) for block in batch.blocks)
        return cls(batch, number, whole, parts, further, temperatures, others)

    def projected(self, chunk: Sequence[slice], heads: Mapping[str, Head]) -> tuple[Projection, ...]:
        """The matrix products of all blocks for the tiles of a chunk."""
        first, last = self.number[chunk[0].start], self.number[chunk[-1].start]
        return tuple(
            _projected(block, slice(by_tile[first].start, by_tile[last].stop), heads)
            for block, by_tile in zip(self.batch.blocks, self.whole, strict=True)
        )

    def tile(self, logits_N_V: Tensor, rows: slice, projected: Sequence[Projection], temperature: float) -> Tile:
        """The tile ``rows``, from the student's logits and what was projected of its teachers."""
        i, logp_N_V = self.number[rows.start], log_softmax(logits_N_V, temperature)
        teachings = (
            _teaching(block, others, by_tile[i], rows, one, temperature, logp_N_V.detach())
            for block, others, by_tile, one in zip(self.batch.blocks, self.others, self.whole, projected, strict=True)
        )
        token_N = self.batch.token_A[rows]
        taken_logprob_N = taken_logprob(logp_N_V, token_N)
        entries = tuple({block: by_tile[i] for block, by_tile in part.items()} for part in self.parts)
        keys = tuple(term.key for term in self.batch.terms)
        seen = (logp_N_V, token_N, taken_logprob_N)
        return Tile(rows, *seen, tuple(teachings), entries, self.further, keys, self.temperatures)


def _rows(column_N_V: Tensor, local_M: Tensor) -> Tensor:
    """Some rows, ascending and each once: the tensor itself where they are all of them."""
    return column_N_V if len(local_M) == len(column_N_V) else column_N_V[local_M]


def _tempered(logp_M_V: Tensor, temperature: float) -> Tensor:
    return logp_M_V if temperature == 1.0 else log_softmax(logp_M_V, temperature)


def _parts(term: BatchTerm, batch: Batch, slices: Sequence[slice]) -> dict[int, Sequence[Tensor]]:
    """The blocks that a term reads a distribution of, and the entries that it trains, by tile."""
    if not term.term.reads_distribution:
        return {}
    mine = {i: block for i, block in enumerate(batch.blocks) if block.teacher == term.term.teacher}
    return {i: _split(block, _trained(block, term.coef_A != 0), slices) for i, block in mine.items()}


def _trained(block: BatchBlock, on_A: Tensor) -> Tensor:
    """The entries of a block of which a row is marked."""
    if block.spans is None:
        return on_A[block.row_N]
    until_A = on_A.cumsum(0)
    last_N = block.row_N + block.spans.size_N - 1
    return (until_A[last_N] > until_A[block.row_N]) | on_A[block.row_N]


def _slices(block: BatchBlock, slices: Sequence[slice]) -> Sequence[slice]:
    """All entries of a block, for each tile."""
    return [slice(*ends) for ends in pairwise([0, *_bounds(block.row_N, slices), len(block.row_N)])]


def _split(block: BatchBlock, keep_N: Tensor, slices: Sequence[slice]) -> Sequence[Tensor]:
    """The entries of a block that ``keep_N`` marks, for each tile."""
    entry_M = keep_N.nonzero().squeeze(1)
    return torch.tensor_split(entry_M, _bounds(block.row_N[entry_M], slices))


def _bounds(row_N: Tensor, slices: Sequence[slice]) -> list[int]:
    """Where ascending rows pass from each tile into the next."""
    inner = torch.tensor([rows.start for rows in slices[1:]], dtype=torch.int64, device=row_N.device)
    bounds: list[int] = torch.searchsorted(row_N, inner).tolist()
    return bounds


def _others(block: BatchBlock, vocabulary: int, heads: Mapping[str, Head]) -> Others | None:
    if block.spans is None or block.dense is None:
        return None
    size = len(_head(block.teacher, block.dense, heads).weight_V_H)
    return Others.of(block.spans.student_K, block.spans.teacher_K, (vocabulary, size), block.spans.same)


def _head(teacher: str, dense: Dense, heads: Mapping[str, Head]) -> Head:
    if dense.head not in heads:
        raise ValueError(
            f"teacher {teacher!r} used head {dense.head!r}, which is not among {sorted(heads)}; give every teacher's heads"
        )
    return heads[dense.head]


@torch.no_grad()
def _projected(block: BatchBlock, entries: slice, heads: Mapping[str, Head]) -> Projection:
    """The matrix products of some of a block's entries."""
    members = block.mixture.members if block.mixture else (block.dense,) if block.dense else ()
    named = [(_head(block.teacher, dense, heads), dense.hidden_N_H[entries]) for dense in members]
    return [Projected(head, entries.start, head.projected(hidden_N_H)) for head, hidden_N_H in named]


@torch.no_grad()
def _teaching(
    block: BatchBlock,
    others: Others | None,
    entries: slice,
    rows: slice,
    projected: Projection,
    temperature: float,
    logp_N_V: Tensor,
) -> Teaching:
    """What a teacher says of the rows of a tile, in the student's precision."""
    first, local_N = entries.start, block.row_N[entries] - rows.start
    if not projected:
        sparse = block.sparse
        assert sparse is not None
        if names_all(sparse, logp_N_V.shape[-1]):
            logq_N_V = _spread(sparse, entries, logp_N_V)
            return Teaching(block.teacher, first, local_N, TeacherRows(logq_N_V), partial(log_softmax, logq_N_V))
        some = TeacherRows(None, sparse.ids_N_K, sparse.logprob_N_K, sparse.logtail_N, sparse.of)
        return Teaching(block.teacher, first, local_N, some.select(entries).to(logp_N_V.dtype))
    if block.spans is not None:
        logq_N_W = _mean(projected, entries, temperature).to(logp_N_V.dtype)
        assert others is not None
        spans = _spans(block.spans, entries, logq_N_W, others)
        return Teaching(block.teacher, first, local_N, TeacherRows(), spans=spans)
    for one in projected:
        check_vocabulary(logp_N_V.shape[-1], one.projected_N_V.shape[-1], f"teacher {block.teacher!r}")

    def at(further: float) -> Tensor:
        return _mean(projected, entries, temperature * further).to(logp_N_V.dtype)

    return Teaching(block.teacher, first, local_N, TeacherRows(at(1.0)), at)


def _spans(told: BatchSpans, entries: slice, logq_N_W: Tensor, others: Others) -> SpanRows:
    """What an aligned block says of some of its spans."""
    return SpanRows(
        logq_N_W,
        told.token_N[entries],
        told.rest_N[entries].to(logq_N_W.dtype),
        told.alone_N[entries],
        told.size_N[entries],
        told.same_N[entries],
        told.next_N_2[entries],
        told.longest,
        told.merged,
        others,
    )


def _spread(sparse: SparseRows, entries: slice, logp_N_V: Tensor) -> Tensor:
    """The log-probabilities [N, V] of a sparse block that names all of the vocabulary, in its order."""
    logq_N_K = sparse.logprob_N_K[entries].to(logp_N_V.dtype)
    return torch.full_like(logp_N_V[: len(logq_N_K)], FLOOR).scatter(1, sparse.ids_N_K[entries], logq_N_K)


@torch.no_grad()
def _mean(projected: Projection, entries: slice, temperature: float) -> Tensor:
    """The log-probabilities [N, V] of the mean of the members' distributions, each of them at the temperature."""
    logqs = (log_softmax(one.logits(entries), temperature) for one in projected)
    return next(logqs) if len(projected) == 1 else mixture((1.0 / len(projected), logq) for logq in logqs)


def check_vocabulary(student: int, teacher: int, name: str) -> None:
    """Refuses vocabularies of different sizes: which columns are padding is for whoever made the heads to say."""
    if student != teacher:
        raise ConfigError(
            f"the vocabulary of {name} has {teacher} tokens, the student's {student}; the same tokenizer is needed: cut "
            "padding columns from the head's weight, or use a sparse block"
        )


def check_ids(block: BatchBlock, vocabulary: int) -> None:
    """Refuses a sparse block that names a token which the student does not have."""
    if block.sparse is None or not block.sparse.ids_N_K.numel():
        return
    largest = int(block.sparse.ids_N_K.max())
    if largest >= vocabulary:
        raise ConfigError(
            f"teacher {block.teacher!r} names token {largest} and the student has {vocabulary}; the same tokenizer is needed"
        )


def names_all(sparse: SparseRows, vocabulary: int) -> bool:
    """Whether a sparse block is a full distribution."""
    return sparse.of != "union" and sparse.least >= vocabulary


def check_width(term: BatchTerm, block: BatchBlock, vocabulary: int) -> None:
    """Refuses a top-k of others than a term asks for, or a narrower one, which would be another divergence without a word."""
    sparse, asked = block.sparse, term.term.support.kind == "top_k" and block.teacher == term.term.teacher
    if sparse is None or not asked or names_all(sparse, vocabulary):
        return
    k, of, held = term.settings["support"]["k"], term.settings["support"]["of"], sparse.least
    if of != sparse.of:
        raise ConfigError(
            f"{term.key}.support.of={of}: teacher {block.teacher!r} gives the likeliest tokens of {sparse.of!r}; set of: {sparse.of}, or have "
            f"teacher {block.teacher!r} give those of {of!r}, as kind: served does with ids: {of}"
        )
    if held == min(k, vocabulary) or (held > min(k, vocabulary) and of != "union"):
        return
    gives = {
        "teacher": f"its {held}",
        "student": f"the student's {held}",
        "union": f"a union of its own and the student's {held}",
    }[of]
    most = str(held) if of == "union" else f"at most {held}"
    raise ConfigError(
        f"{term.key}.support.k={k}: teacher {block.teacher!r} gives {gives} likeliest tokens; set k to {most}, or have teacher "
        f"{block.teacher!r} give {k}"
    )


def check_apart(term: BatchTerm, block: BatchBlock) -> None:
    """Refuses what a term asks of a teacher with a vocabulary of its own and no such teacher can tell."""
    if block.spans is not None and block.teacher in term.term.reads.values() and term.term.one_vocabulary:
        raise ConfigError(
            f"{term.key}.{term.term.one_vocabulary} (teacher {block.teacher!r} has a vocabulary of its own)"
        )
