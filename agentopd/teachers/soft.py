"""Soft labels: what a server says of the tokens that it wrote, where these are the student's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agentopd.chat import Chat
from agentopd.chat.token_bytes import TokenBytes
from agentopd.objective.floor import FLOOR
from agentopd.serving import Token, TopK
from agentopd.serving.scorer import UNHEARD
from agentopd.types import Annotation, Sparse, Trajectory


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the student's ids spell, and back."""

    spelt: tuple[bytes | None, ...]
    """Special tokens as they are written."""
    ids: Mapping[bytes, int]
    ends: frozenset[int]
    """The ids that end a turn."""
    width: int
    """The alternatives to a token that are asked for."""

    @classmethod
    def of(cls, chat: Chat, width: int) -> "Vocabulary":
        """That of a chat.

        Raises:
            ConfigError: Its tokens do not say which bytes they stand for.
        """
        known, added = TokenBytes(chat.tokenizer), chat.tokenizer.added_tokens_decoder
        special = {i: token.content.encode() for i, token in added.items() if known.of[i] is None}
        spelt = tuple(special.get(i, piece) for i, piece in enumerate(known.of))
        return cls(spelt, {piece: i for i, piece in special.items()} | dict(known.by_bytes()), chat.ends_of_turn, width)

    def same(self, id: int, token: Token) -> bool:
        """Whether a token is the id; what ends a turn, servers may write as nothing."""
        return token.spelt == self.spelt[id] or (id in self.ends and not token.spelt)

    def rows(self, ids: Sequence[int], tokens: Sequence[Token]) -> TopK | None:
        """What was said of the action ``ids``, in order, or of all but the end of the turn; ``None`` where the tokens are others."""
        own = ids[: len(tokens)]
        missing = [id for id in ids[len(tokens) :] if id not in self.ends]
        if missing or len(own) != len(tokens) or not all(map(self.same, own, tokens)):
            return None
        return TopK.joined([self._row(*pair) for pair in zip(own, tokens, strict=True)], self.width)

    def _row(self, id: int, token: Token) -> TopK:
        """The ids of one place, best first. What is no token of the student's is in the mass outside."""
        known = {self.ids[said]: logprob for said, logprob in reversed(token.top) if said in self.ids} | {
            id: token.logprob
        }
        best = sorted(known.items(), key=lambda one: -one[1])
        logprobs = np.array([[logprob for _, logprob in best]])
        outside = max(1.0 - float(np.exp(logprobs).sum()), UNHEARD)
        return TopK(
            np.array([[one for one, _ in best]], np.int32),
            logprobs.astype(np.float32),
            np.log([outside]).astype(np.float32),
            np.array([token.logprob], np.float32),
        )


def softened(
    said: Annotation, trajectory: Trajectory, answers: Sequence[Sequence[Token] | None], vocabulary: Vocabulary
) -> tuple[Annotation, int]:
    """``said`` with rows at the tokens of its corrected actions, where the server wrote the very tokens; and how many it did not.

    Args:
        said: Corrections, one segment each.
        trajectory: The episode.
        answers: What the server said of its tokens, for each segment; ``None`` where it said nothing.
        vocabulary: The student's.
    """
    found: list[TopK] = []
    segments, indices = [], []
    for s, (segment, tokens) in enumerate(zip(said.segments, answers, strict=True), len(trajectory.segments)):
        acted = np.flatnonzero(segment.turn_T >= 0)
        rows = None if tokens is None else vocabulary.rows(segment.tokens_T[acted].tolist(), tokens)
        if rows is not None:
            found.append(rows)
            indices.append(acted[: len(rows.taken_N)])
            segments.append(np.full(len(rows.taken_N), s))
    nothing = np.zeros(0, np.int32)
    rows = TopK.joined(found, 1, vocabulary.width)  # of fewer, the others are among the mass outside
    soft = replace(
        said,
        segment_N=np.concatenate([nothing, *segments]).astype(np.int32),
        index_N=np.concatenate([nothing, *indices]).astype(np.int32),
        block=Sparse(rows.ids_N_K, np.maximum(rows.logprob_N_K, FLOOR), np.maximum(rows.logtail_N, FLOOR)),
        taken_logprob_N=rows.taken_N,
        entropy_N=rows.entropy_N,
    )
    return soft, len(said.segments) - len(found)
