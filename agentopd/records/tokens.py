"""The tokens of one trajectory as a table: what the student sampled, and what teachers and the learner said of each."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agentopd.records.signals import KEYS
from agentopd.types import CONTEXT, Record


class Decoder(Protocol):
    """Any tokenizer."""

    def decode(self, token_ids: Any, /) -> Any:
        """The text of token ids."""


def to_columns(
    record: Record, signals: Mapping[str, NDArray[Any]], tokenizer: Decoder | None
) -> dict[str, NDArray[Any]]:
    """The columns that :meth:`agentopd.records.Records.tokens` describes; ``signals`` are the rows of the record's own."""
    columns = _own_columns(record, tokenizer)
    places = list(zip(columns["segment"].tolist(), columns["index"].tolist(), strict=True))
    row_of = {place: row for row, place in enumerate(places)}
    for said in record.annotations:
        rows = rows_of(row_of, said.segment_N, said.index_N)
        columns[f"teacher_logprob/{said.teacher}"] = aligned(said.taken_logprob_N, rows, len(places))
    if signals:
        rows = rows_of(row_of, signals["segment"], signals["index"])
        further = [name for name in signals if name not in (*columns, *KEYS)]
        columns |= {name: aligned(signals[name], rows, len(places)) for name in further}
    return columns


def _own_columns(record: Record, tokenizer: Decoder | None) -> dict[str, NDArray[Any]]:
    segments = record.trajectory.segments
    taken = [np.flatnonzero(segment.turn_T != CONTEXT) for segment in segments]

    def column(name: str, kind: type[np.generic]) -> NDArray[Any]:
        parts = [getattr(segment, name)[at] for segment, at in zip(segments, taken, strict=True)]
        return np.concatenate([np.zeros(0, kind), *parts])

    columns: dict[str, NDArray[Any]] = {
        "turn": column("turn_T", np.int32),
        "segment": np.repeat(np.arange(len(taken), dtype=np.int32), [len(at) for at in taken]),
        "index": np.concatenate([np.zeros(0, np.int32), *taken]).astype(np.int32),
        "token": column("tokens_T", np.int32),
    }
    if tokenizer is not None:
        texts = [str(tokenizer.decode([token])) for token in columns["token"].tolist()]
        columns["text"] = np.array(texts, dtype=object)  # numpy's own text would lose a NUL at the end
    return columns | {"behaviour_logprob": column("logprob_T", np.float32)}


def rows_of(row_of: Mapping[tuple[int, int], int], segment: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
    """The row of each place, -1 for one that has none, as one in a segment of corrected actions."""
    places = zip(segment.tolist(), index.tolist(), strict=True)
    return np.array([row_of.get(place, -1) for place in places], np.int64)


def aligned(values: NDArray[Any], rows: NDArray[Any], count: int) -> NDArray[Any]:
    """``values`` at their rows of ``count``, ``nan`` at the others; what has no row goes to one behind the last."""
    kind = np.promote_types(values.dtype, np.float16)  # one that has nan
    column = np.full((count + 1, *values.shape[1:]), np.nan, kind)
    column[rows] = values
    return column[:-1]
