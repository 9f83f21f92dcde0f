"""Builds a segment token by token."""

from collections.abc import Sequence

import numpy as np

from agentopd.types import CONTEXT, Segment


class SegmentBuilder:
    """Grows by stretches of context and of actions; what was added never changes."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)
        self._turn = [CONTEXT] * len(self.tokens)
        self._logprob = [0.0] * len(self.tokens)

    def add_context(self, tokens: Sequence[int]) -> None:
        """Tokens that no policy produced."""
        self._add(tokens, [0.0] * len(tokens), CONTEXT)

    def add_action(self, tokens: Sequence[int], logprobs: Sequence[float], turn: int) -> tuple[int, int]:
        """Tokens of a turn with their behaviour log-probabilities; where they now stand, as start and stop."""
        start = len(self.tokens)
        self._add(tokens, logprobs, turn)
        return start, len(self.tokens)

    def build(self, source: str) -> Segment:
        """The segment, all of its actions by the trajectory's first actor, and trainable."""
        turn_T = np.array(self._turn, np.int32)
        is_action_T = turn_T != CONTEXT
        return Segment(
            tokens_T=np.array(self.tokens, np.int32),
            turn_T=turn_T,
            actor_T=np.where(is_action_T, 0, CONTEXT).astype(np.int32),
            trainable_T=is_action_T,
            logprob_T=np.array(self._logprob, np.float32),
            source=source,
        )

    def _add(self, tokens: Sequence[int], logprobs: Sequence[float], turn: int) -> None:
        self.tokens += tokens
        self._turn += [turn] * len(tokens)
        self._logprob += logprobs
