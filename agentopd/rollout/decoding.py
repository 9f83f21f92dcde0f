"""Turns on their way in the transformers engine: a token for each at every step, and turns that join those that are being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from agentopd.rollout.batch import Batch, Row
from agentopd.rollout.policy import Request

if TYPE_CHECKING:
    from agentopd.rollout.engine import TransformersPolicy

Take: TypeAlias = Callable[[list[list[Row]], list[Tensor]], None]
"""Gives the next token to every row that is not done; rows and logits [B, V] by model."""


class Decoding:
    """Rows that one model writes, or several together: row b of each is then the same turn, and takes the same tokens."""

    def __init__(self, policies: Sequence[TransformersPolicy], take: Take) -> None:
        self._policies = tuple(policies)
        self._take = take
        self._batches: list[Batch] = []
        self._logits_P_B_V: list[Tensor] = []

    @property
    def alive(self) -> list[Row]:
        """The first model's rows that are not done."""
        return [row for row in self._batches[0].rows if not row.done] if self._batches else []

    @property
    def plain(self) -> bool:
        """Whether rows can leave and join: every layer keeps a column a token."""
        return all(batch.plain for batch in self._batches)

    def begin(self, rows_P_B: Sequence[list[Row]]) -> None:
        """Starts with these rows, those of each model."""
        self._start([policy.begin(rows) for policy, rows in zip(self._policies, rows_P_B, strict=True)])

    def join(self, requests: Sequence[Request]) -> None:
        """Lets turns join those that one model writes. All caches are copied into one batch, so it is worth it for several at once."""
        [policy], [batch] = self._policies, self._batches
        policy.keep(batch, done_only=True)  # of those, too, whose next turns these are
        rows = policy.rows(requests)
        policy.read(rows)
        entries, alive = batch.entries(), self.alive
        for row in alive:
            row.caught_up(entries[row.request.episode])
        rows = [*alive, *rows]
        self._start([policy.batch(rows)])
        for row in rows:
            row.entry = None  # or what it was copied from would be kept as well

    def forget(self, episode: int) -> None:
        """Keeps no cache of an episode that is over, though its last turn may stand beside others that go on."""
        for row in (row for batch in self._batches for row in batch.rows if row.request.episode == episode):
            row.over = True

    def _start(self, batches: list[Batch]) -> None:
        self._batches = batches
        self._logits_P_B_V = [batch.prefill() for batch in batches]

    def step(self) -> list[Row]:
        """Writes one token of each turn; the first model's rows that this ended."""
        alive, batches = self.alive, self._batches
        self._take([batch.rows for batch in batches], self._logits_P_B_V)
        done, rows = sum(row.done for row in batches[0].rows), len(batches[0].rows)
        if done == rows:
            self._keep()
            self._batches, self._logits_P_B_V = [], []
        else:
            if self.plain and 4 * done >= rows:
                self._keep(done_only=True)
                for batch in batches:
                    batch.drop_done()
            self._logits_P_B_V = [batch.step() for batch in batches]
        return [row for row in alive if row.done]

    def _keep(self, done_only: bool = False) -> None:
        for policy, batch in zip(self._policies, self._batches, strict=True):
            policy.keep(batch, done_only)
