"""The student's likeliest ids at its own tokens: what a teacher elsewhere is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from agentopd.forward import hidden_states
from agentopd.freezing import evaluating
from agentopd.models import head_of
from agentopd.packing import batches, padded
from agentopd.teachers.local import CHUNK_ROWS
from agentopd.teachers.views import from_segments, own_view, select
from agentopd.types import Ints, Trajectory, View


@dataclass(frozen=True, slots=True, eq=False)
class Chooser:
    """Reads episodes as the student does, whatever a teacher is shown of them."""

    student: PreTrainedModel
    """Itself, whose weights change: what it finds likely is what it finds so now."""
    k: int
    size: int
    """How many ids the tokenizer makes; the others of a wider head are no tokens, and nobody is asked about them."""
    max_tokens: int
    """Of one forward, padding included; a longer segment is read alone."""

    def ids(self, trajectories: Sequence[Trajectory], of_each: Sequence[Sequence[View]]) -> list[list[Ints]]:
        """The ``k`` likeliest ids [A, K] at the tokens of each view, best first, by the context that the student acted in.

        Args:
            trajectories: The episodes.
            of_each: The views of each, which say at which tokens.
        """
        owns = [_own(*pair) for pair in zip(trajectories, of_each, strict=True)]
        read = iter(self._read([own for one in owns for own in one]))
        chosen = [[next(read) for _ in one] for one in owns]
        return [_spread(*parts, self.k) for parts in zip(trajectories, of_each, owns, chosen, strict=True)]

    @torch.no_grad()
    def _read(self, views: Sequence[View]) -> list[Ints]:
        found: dict[int, Ints] = {}
        with evaluating(self.student):
            for batch in batches([len(view.tokens_T) for view in views], self.max_tokens):
                found.update(zip(batch, self._forward([views[i] for i in batch]), strict=True))
        return [found[i] for i in range(len(views))]

    def _forward(self, views: Sequence[View]) -> list[Ints]:
        counts = [len(view.position_A) for view in views]
        sample_N = np.repeat(np.arange(len(views)), counts)
        position_N = np.concatenate([view.position_A for view in views]).astype(np.int64)
        tokens_B_T = padded([view.tokens_T for view in views]).to(self.student.device)
        hidden_N_H, head = hidden_states(self.student, tokens_B_T)[sample_N, position_N - 1], head_of(self.student)
        hidden_N_H = hidden_N_H.to(head.weight_V_H.dtype)  # what mixed precision wraps gives single precision
        top = [head.logits(rows)[:, : self.size].topk(self.k).indices for rows in torch.split(hidden_N_H, CHUNK_ROWS)]
        ids_N_K = torch.cat(top).cpu().numpy().astype(np.int32)
        return np.split(ids_N_K, np.cumsum(counts)[:-1])


def _own(trajectory: Trajectory, views: Sequence[View]) -> list[View]:
    """The student's own view of each segment that ``views`` show tokens of, cut to these."""
    shown = [np.zeros(len(segment), np.bool_) for segment in trajectory.segments]
    for view in views:
        for segment in np.unique(view.segment_A):
            shown[segment][view.index_A[view.segment_A == segment]] = True
    owns = [own_view(trajectory, segment) for segment, one_T in enumerate(shown) if one_T.any()]
    return [select(own, from_segments(own, shown)) for own in owns]


def _spread(
    trajectory: Trajectory, views: Sequence[View], owns: Sequence[View], chosen: Sequence[Ints], k: int
) -> list[Ints]:
    """What was chosen at the tokens of the student's own views, at those of ``views``."""
    columns = [np.full((len(segment), k), -1, np.int32) for segment in trajectory.segments]
    for own, ids_N_K in zip(owns, chosen, strict=True):
        columns[own.segment_A[0]][own.index_A] = ids_N_K
    return [from_segments(view, columns) for view in views]
