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


DROP, DROP_JOINED = 4, 2
"""Rows that are done are dropped once there is one among so many, which copies the caches of all others; in a batch that others join, later."""


class Decoding:
    """Rows that one model writes, or several together: row b of each is then the same turn, and takes the same tokens."""

    def __init__(self, policies: Sequence[TransformersPolicy], take: Take, joined: bool = False) -> None:
        """Starts with nothing.

        Args:
            policies: Whose models write.
            take: Chooses tokens.
            joined: Whether turns will join others; then there is one model.
        """
        self._policies = tuple(policies)
        self._take, self._joined = take, joined
        self._batches: list[Batch] = []
        self._logits_P_B_V: list[Tensor] = []

    @property
    def alive(self) -> list[Row]:
        """The first model's rows that are not done."""
        return [row for row in self._batches[0].rows if not row.done] if self._batches else []

    @property
    def places(self) -> int:
        """How many rows are done beside others that are not."""
        return len(self._batches[0].rows) - len(self.alive) if self._batches else 0

    @property
    def plain(self) -> bool:
        """Whether rows can leave and join: every layer keeps a column a token."""
        return all(batch.plain for batch in self._batches)

    def begin(self, rows_P_B: Sequence[list[Row]]) -> None:
        """Starts with these rows, those of each model."""
        pairs = zip(self._policies, rows_P_B, strict=True)
        self._start([policy.begin(rows, self._joined) for policy, rows in pairs])

    def _start(self, batches: list[Batch]) -> None:
        self._batches = batches
        self._logits_P_B_V = [batch.prefill() for batch in batches]

    def step(self, joining: Sequence[Request] = ()) -> list[Row]:
        """Writes one token of each turn; the first model's rows that this ended. Then the turns that are ``joining`` do."""
        alive = self.alive
        self._take([batch.rows for batch in self._batches], self._logits_P_B_V)
        ended = [row for row in alive if row.done]
        if len(ended) == len(alive):
            self._keep()
            self._batches, self._logits_P_B_V = [], []
            if joining:
                self.begin([self._policies[0].rows(joining)])
        elif joining:
            self._join(joining)
        else:
            self._drop()
            self._logits_P_B_V = [batch.step() for batch in self._batches]
        return ended

    def _join(self, requests: Sequence[Request]) -> None:
        """In the places of rows that are done, where these suffice; else all caches are copied into a new batch."""
        [policy], [batch] = self._policies, self._batches
        policy.keep(batch, done_only=True)  # of those, too, whose next turns these are
        for row in batch.rows:
            row.over |= row.done  # kept once: it may stand beside its episode's next turn
        rows = policy.rows(requests)
        policy.read(rows)
        if batch.has_room(rows):
            batch.take_places(rows)
            self._logits_P_B_V = [batch.step()]
        else:
            entries, alive = batch.entries(), self.alive
            for row in alive:
                row.caught_up(entries[row.request.episode])
            self._start([policy.batch([*alive, *rows], self._joined)])
        for row in rows if batch is self._batches[0] else self._batches[0].rows:
            row.entry = None  # or what it was copied from would be kept as well

    def _drop(self) -> None:
        done, rows = self.places, len(self._batches[0].rows)
        if self.plain and done * (DROP_JOINED if self._joined else DROP) >= rows:
            self._keep(done_only=True)
            for batch in self._batches:
                batch.drop_done()

    def _keep(self, done_only: bool = False) -> None:
        for policy, batch in zip(self._policies, self._batches, strict=True):
            policy.keep(batch, done_only)

    def forget(self, episode: int) -> None:
        """Keeps no cache of an episode that is over, though its last turn may stand beside others that go on."""
        for row in (row for batch in self._batches for row in batch.rows if row.request.episode == episode):
            row.over = True
