"""Builds a segment token by token."""

from collections.abc import Sequence

import numpy as np

from agentopd.types import CONTEXT, Segment


class SegmentBuilder:
    """Grows by stretches of context and of actions; what was added changes only where a turn is taken back."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self._turn: list[int] = []
        self._actor: list[int] = []
        self._logprob: list[float] = []
        self.add_context(prompt)

    def add_context(self, tokens: Sequence[int]) -> None:
        """Tokens that no policy produced."""
        self._add(tokens, [0.0] * len(tokens), CONTEXT, [CONTEXT] * len(tokens))

    def add_action(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        turn: int,
        actors: Sequence[int],
        forced: Sequence[bool] | None = None,
    ) -> tuple[int, int]:
        """Tokens of a turn with their behaviour log-probabilities and actors; where they now stand, as start and stop.

        Those that were ``forced`` are context: no policy produced them.
        """
        start = len(self.tokens)
        self._add(tokens, logprobs, turn, actors)
        for at, one in enumerate(forced or (), start):
            if one:
                self._turn[at], self._actor[at], self._logprob[at] = CONTEXT, CONTEXT, 0.0
        return start, len(self.tokens)

    def take_back(self, start: int) -> None:
        """Forgets what stands from ``start`` on."""
        for column in (self.tokens, self._turn, self._actor, self._logprob):
            del column[start:]

    def build(self, source: str) -> Segment:
        """The segment, all of its actions trainable."""
        turn_T = np.array(self._turn, np.int32)
        return Segment(
            tokens_T=np.array(self.tokens, np.int32),
            turn_T=turn_T,
            actor_T=np.array(self._actor, np.int32),
            trainable_T=turn_T != CONTEXT,
            logprob_T=np.array(self._logprob, np.float32),
            source=source,
        )

    def _add(self, tokens: Sequence[int], logprobs: Sequence[float], turn: int, actors: Sequence[int]) -> None:
        self.tokens += tokens
        self._turn += [turn] * len(tokens)
        self._actor += actors
        self._logprob += logprobs
