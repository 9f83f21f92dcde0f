"""One batch in the transformers engine: rows that are prefilled and decoded together over one cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from agentopd.rollout.growing import Growing
from agentopd.rollout.kv import BufferLayer, Column, Entry, Pool, common_prefix, gather, place, pool_of
from agentopd.rollout.masks import gapped_mask
from agentopd.rollout.policy import Request
from agentopd.rollout.sampling import uniforms


@dataclass(slots=True, eq=False)
class Row(Growing):
    """One request on its way through a turn."""

    prompt_T: Column
    entry: Entry | None
    cached: int
    """Leading tokens of the prompt that the entry holds."""
    uniform_N: NDArray[np.float64]
    read: int = 0
    """How many of its own tokens stand with the prompt, since they were written in an earlier batch."""
    column: int | None = None
    """Where its prompt ends in a batch that it has joined, all of it being cached before; ``None`` in one that began with it."""
    over: bool = False
    """Whether nobody wants its cache: it has been kept, or its episode is over."""

    @classmethod
    def of(cls, request: Request, entry: Entry | None) -> "Row":
        """A row that has produced nothing yet."""
        prompt_T = np.array(request.tokens, np.int64)
        uniform_N = uniforms(request.seed, request.max_new_tokens)
        cached = common_prefix(entry, prompt_T)
        return cls(prompt_T, entry, cached, uniform_N, request=request, prefilled=len(prompt_T) - cached)

    @property
    def context_T(self) -> Column:
        """The prompt, and those of its own tokens that stand with it."""
        own = np.array(self.tokens[: self.read], np.int64)
        return np.concatenate([self.prompt_T, own]) if self.read else self.prompt_T

    @property
    def last(self) -> int:
        """The last token that it has."""
        return self.tokens[-1] if self.tokens else int(self.prompt_T[-1])

    @property
    def uniform(self) -> float:
        """The number that decides the next token; anything once the row is done."""
        return 0.0 if self.done else float(self.uniform_N[len(self.tokens)])

    def begins_with(self, entry: Entry, least: int) -> bool:
        """Takes what ``entry`` holds of the prompt from it, if that is at least so many tokens."""
        cached = common_prefix(entry, self.prompt_T)
        if cached < least:
            return False
        self.entry, self.cached, self.prefilled = entry, cached, len(self.prompt_T) - cached
        return True

    def caught_up(self, entry: Entry) -> None:
        """All of the prompt and of its own tokens but the last is now cached."""
        self.entry, self.read, self.column = entry, len(self.tokens), None
        self.cached = len(self.prompt_T) + self.read - 1


class Batch:
    """Rows over one cache of three stretches of columns: cached and new tokens, each right-aligned, then generated ones."""

    def __init__(
        self, model: PreTrainedModel, rows: Sequence[Row], layers: int | None, held_back: int = 0, joined: bool = False
    ) -> None:
        """Gathers what is cached.

        Args:
            model: A causal language model.
            rows: The requests.
            layers: How many plain layers the model caches; None for models with others, which keep nothing between turns.
            held_back: Tokens at the end of every prompt that are not to be processed.
            joined: Whether others will take the places of rows that are done, for which there is twice the room then.
        """
        self.model = model
        self.rows = list(rows)
        self.plain = layers is not None
        self._held_back, self._joined = held_back, joined
        self._device = model.device
        self._past = self._width = max(row.cached for row in rows)
        self._start = self._past + max(self._stop(row) - row.cached for row in rows)
        self._buffers = [] if layers is None else self._gather(layers)
        self._cache = Cache(layers=[*self._buffers]) if self._buffers else DynamicCache(config=model.config)
        self._visible_B_W = self._layout()

    def _gather(self, layers: int) -> list[BufferLayer]:
        room = 0 if self._held_back else max(row.left for row in self.rows)
        self._capacity = self._start + room * (2 if self._joined else 1)
        return gather([row.entry for row in self.rows], [row.cached for row in self.rows], layers, self._capacity)

    def _stop(self, row: Row) -> int:
        return len(row.prompt_T) + row.read - self._held_back

    def _layout(self) -> Tensor:
        """Which columns of the first two stretches hold tokens, [B, past + new]."""
        visible_B_W = np.zeros((len(self.rows), self._start), np.bool_)
        for b, row in enumerate(self.rows):
            visible_B_W[b, self._prompt_columns(row)] = True
        return torch.from_numpy(visible_B_W).to(self._device)

    def _prompt_columns(self, row: Row) -> Column:
        if row.column is not None:
            return np.arange(row.column - self._stop(row), row.column)
        new = self._stop(row) - row.cached
        return np.concatenate(
            [np.arange(self._past - row.cached, self._past), np.arange(self._start - new, self._start)]
        )

    def prefill(self) -> Tensor:
        """Processes the new tokens of every prompt; the logits [B, V] after the last."""
        shape = (len(self.rows), self._start - self._past)
        tokens_B_Q, position_B_Q = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for b, row in enumerate(self.rows):
            stop = self._stop(row)
            tokens_B_Q[b, shape[1] - (stop - row.cached) :] = row.context_T[row.cached : stop]
            position_B_Q[b, shape[1] - (stop - row.cached) :] = np.arange(row.cached, stop)
        return self._forward(tokens_B_Q, position_B_Q)

    def step(self) -> Tensor:
        """Processes the last token of every row; the logits [B, V] after it. Rows that are done are carried along."""
        tokens_B_1 = np.array([[row.last] for row in self.rows], np.int64)
        position_B_1 = np.array([[len(row.prompt_T) + len(row.tokens) - 1] for row in self.rows], np.int64)
        self._visible_B_W = nn.functional.pad(self._visible_B_W, (0, 1), value=True)
        return self._forward(tokens_B_1, position_B_1)

    def _forward(self, tokens_B_Q: Column, position_B_Q: Column) -> Tensor:
        queries = tokens_B_Q.shape[1]
        self._width += queries
        output = self.model(
            input_ids=torch.from_numpy(tokens_B_Q).to(self._device),
            position_ids=torch.from_numpy(position_B_Q).to(self._device),
            attention_mask=self._mask(queries),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_B_V: Tensor = output.logits[:, -1]
        return logits_B_V

    def _mask(self, queries: int) -> Tensor | None:
        """Our own mask where all layers are plain; others make theirs, each kind of layer its own, from the two-dimensional one."""
        if not self.plain:
            return self._visible_B_W
        attention = self.model.config._attn_implementation
        return gapped_mask(self._visible_B_W, queries, attention, self.model.dtype)

    def entries(self, done_only: bool = False) -> dict[int, Entry]:
        """The cache entries, by episode, of all rows or of those that are done (then out of the shared tensors)."""
        picked = [b for b, row in enumerate(self.rows) if not row.over and (row.done or not done_only)]
        pool = pool_of(self._buffers, self._index(picked) if done_only else None)
        return {
            self.rows[b].request.episode: self._entry(self.rows[b], pool, n if done_only else b)
            for n, b in enumerate(picked)
        }

    def _entry(self, row: Row, pool: Pool, place: int) -> Entry:
        generated = row.tokens[row.read : -1]  # the last one was never processed
        prompt_T = row.context_T[: self._stop(row)]
        start = self._start if row.column is None else row.column
        column_T = np.concatenate([self._prompt_columns(row), np.arange(start, start + len(generated))])
        return Entry(pool, place, np.concatenate([prompt_T, np.array(generated, np.int64)]), column_T)

    def has_room(self, rows: Sequence[Row]) -> bool:
        """Whether each of ``rows`` can take the place of one that is done: its cache fits before the next column, and its turn behind it."""
        free = sum(row.done for row in self.rows)
        fits = all(row.cached <= self._width and self._width + row.left <= self._capacity for row in rows)
        return len(rows) <= free and fits

    def take_places(self, rows: Sequence[Row]) -> None:
        """Puts ``rows``, of whose prompts all but the last token is cached, in the places of rows that are done."""
        places = [b for b, row in enumerate(self.rows) if row.done][: len(rows)]
        entries = [row.entry for row in rows]
        place(self._buffers, places, [entry for entry in entries if entry is not None], [row.cached for row in rows])
        for b, row in zip(places, rows, strict=True):
            self._visible_B_W[b] = False
            self._visible_B_W[b, self._width - row.cached :] = True
            row.column = self._width + 1  # the last token of the prompt is processed in the next column
            self.rows[b] = row

    def drop_done(self) -> None:
        """Goes on with the rows that are not done."""
        alive = [b for b, row in enumerate(self.rows) if not row.done]
        index = self._index(alive)
        for layer in self._buffers:
            layer.select(index)
        self._visible_B_W = self._visible_B_W[index]
        self.rows = [self.rows[b] for b in alive]

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._device)
